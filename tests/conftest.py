"""What all tests share."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from ipvs_lab.machine import inside

if not inside():  # in a lab kernel Hypothesis would take 1.5 s to import, for tests that may not use it
    from hypothesis import settings

    # How long one example takes says more about the machine than about us; together they should take seconds.
    # The same cases every time, so that a change fails for what it changed; `make hunt` looks for others.
    settings.register_profile("project", deadline=None, max_examples=50, derandomize=True)
    settings.register_profile("quick", settings.get_profile("project"), max_examples=10)  # for `make unit`
    settings.register_profile("hunt", settings.get_profile("project"), max_examples=500, derandomize=False)
    settings.load_profile(os.environ.get("IPVS_EXAMPLES", "project"))

Shown = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def shown(request: pytest.FixtureRequest) -> Shown:
    """Within its blocks, what has to be built first shows its progress."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    found: Shown = capture.global_and_fixture_disabled
    return found
