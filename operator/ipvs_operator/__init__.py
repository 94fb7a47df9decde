"""The operator: what people declare becomes plans, what nodes report becomes status."""
