"""A world for each test, all on one API server.

``shop``: with an operator that all tests of a module share. ``world``: without one, for tests that end theirs.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apiserver.operators import RunningOperator, operating
from tests.apiserver.world import World

from ipvs_lab.kubernetes.control_plane import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def definitions(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, with our CRDs in it."""
    control_plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"--filename={CRDS}")
    return control_plane


@pytest.fixture
def world(definitions: ControlPlane) -> Iterator[World]:
    """Objects of this test, in namespaces of their own; afterwards all are gone."""
    number = next(_NUMBERS)
    made = World(definitions, f"shop-{number}", f"ipvs-system-{number}")
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture(scope="module")
def operator(definitions: ControlPlane) -> Iterator[RunningOperator]:
    """An operator for all ``shop`` tests of a module, which must not end it."""
    system = f"ipvs-system-{next(_NUMBERS)}"
    definitions.kubectl("create", "namespace", system)
    with operating(definitions, system) as made:
        yield made
    definitions.remove_namespace(system)


@pytest.fixture
def shop(definitions: ControlPlane, operator: RunningOperator) -> Iterator[World]:
    """Objects of this test, and an operator; afterwards it has cleared up behind itself."""
    made = World(definitions, f"shop-{next(_NUMBERS)}", operator.system, shared=True)
    try:
        yield made
        made.dissolve()
    finally:
        made.clean()
