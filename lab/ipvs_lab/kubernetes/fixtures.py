"""pytest fixtures: a control plane for the session; a namespace, and a site that reaches it, for a test."""

import itertools
from collections.abc import Iterator

import pytest

from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.site import Site

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """One API server for all tests of the session that ask for it."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # programs that have to be built show their progress
        made = ControlPlane()
    with made:
        yield made


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own; afterwards it is gone, with all in it."""
    name = f"test-{next(_NUMBERS)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.remove_namespace(name)


@pytest.fixture
def site(control_plane: ControlPlane) -> Iterator[Site]:
    """A site where the control plane answers on ADDRESS: ``control_plane.kubeconfig(…, address=ADDRESS)``."""
    with Site() as made:
        made.offer(control_plane.port)
        yield made
