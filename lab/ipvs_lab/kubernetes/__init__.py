"""A real Kubernetes control plane for tests: programs built once from their Go modules, started natively in seconds."""
