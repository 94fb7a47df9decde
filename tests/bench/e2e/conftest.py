"""The cluster of tests/e2e, for figures."""

from tests.e2e.conftest import before, testbed, world

__all__ = ["before", "testbed", "world"]
