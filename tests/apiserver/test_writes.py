"""What is written over what is there already."""

import msgspec
import pytest
from tests.apiserver.world import World

from ipvs_api.ipaddress import AddressOwner, IPVSAddress, IPVSAddressSpec
from ipvs_api.meta import ObjectMeta
from ipvs_api.virtualservice import Backends, Port, ServiceReference, VirtualServiceSpec
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import VIRTUAL_SERVICES
from ipvs_operator.writer import Written, carry_out
from ipvs_planner.writes import Verb, Write


def carried_out(world: World, write: Write) -> Written:
    stored = carry_out(world.api, write, lambda: True)
    assert stored is not None
    return stored


def test_a_claim_loses_owners_and_holders_that_it_was_created_with(world: World) -> None:
    owners = (AddressOwner("first"), AddressOwner("second"))
    spec = IPVSAddressSpec("192.0.2.15", "default", world.namespace, owners, holders=("lb1", "lb2"))
    created = carried_out(world, Write(Verb.CREATE, "IPVSAddress", ObjectMeta("192.0.2.15"), spec))
    meta = ObjectMeta("192.0.2.15", uid=created.metadata.uid, resource_version=created.metadata.resource_version)
    less = msgspec.structs.replace(spec, owners=owners[1:], holders=())
    stored = carried_out(world, Write(Verb.APPLY, "IPVSAddress", meta, less))
    assert isinstance(stored, IPVSAddress)
    assert stored.spec == less


def test_what_may_be_new_is_not_taken_from_who_was_quicker(world: World) -> None:
    world.virtual_service("web", scheduler="rr")
    theirs = world.get(VIRTUAL_SERVICES, "web")
    spec = VirtualServiceSpec("default", (Port("http", 80),), Backends(ServiceReference("web")))
    meta = ObjectMeta("web", world.namespace)
    with pytest.raises(ApiError) as refused:
        carried_out(world, Write(Verb.APPLY, "VirtualService", meta, spec))
    assert refused.value.conflict
    assert world.get(VIRTUAL_SERVICES, "web") == theirs
