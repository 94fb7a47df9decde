"""``IPVSAddress``: the claim on one address, named by it. Creating it is the step that nobody can do twice.

Internal, written by the operator only. It outlives its virtual services until no node has the address any more, and a
restore of a backup brings it back with everything else. ``address``, ``directorGroup``, ``namespace`` and
``directorIndex`` stay as they were created. Shape: ``crds/ipvsaddresses.yaml``.
"""

from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta, field

from ipvs_api.bounds import SET, Address, Identifier, LabelName, ObjectName, keyed
from ipvs_api.meta import ObjectMeta, Shape

ADDRESS_OWNERS = 256
"""At most this many virtual services share one address."""

ADDRESS_HOLDERS = 10_240
"""More than a plan can concern: 10,000 real servers' nodes and 128 directors."""

ADDRESS_TURNS = 8
"""Addresses of one family that one virtual service is given at most, and so the values of ``director_index``."""


class AddressOwner(Shape, frozen=True):
    """A VirtualService of the claim's namespace. ``uid`` changes where it is made anew, the claim stays its."""

    name: ObjectName
    uid: Identifier = ""


class IPVSAddressSpec(Shape, frozen=True):
    """``owners``: who has it, or had it until the nodes have let go; a claim without any is deleted.

    ``holders``: the nodes that may have it. ``director_index``: which of the group's directors, counted by name from 0
    and round again, has it on its interface where one does (announcement ``static``).
    """

    address: Address
    director_group: ObjectName
    namespace: LabelName
    owners: Annotated[
        tuple[AddressOwner, ...], Meta(min_length=1, max_length=ADDRESS_OWNERS, extra_json_schema=keyed("name"))
    ]
    holders: Annotated[tuple[ObjectName, ...], Meta(max_length=ADDRESS_HOLDERS, extra_json_schema=SET)] = ()
    director_index: Annotated[int, Meta(ge=0, le=ADDRESS_TURNS - 1)] = 0


class IPVSAddress(Shape, frozen=True):
    metadata: ObjectMeta
    spec: IPVSAddressSpec
    api_version: Literal["ipvs.dev/v1alpha1"] = field(name="apiVersion", default="ipvs.dev/v1alpha1")
    kind: Literal["IPVSAddress"] = "IPVSAddress"


def address_object_name(address: str) -> str:
    """The claim's name: the canonical address with dashes for colons, and a ``0`` where a name may not have a dash.

    Raises ValueError for anything but an address.
    """
    name = str(ip_address(address)).replace(":", "-")
    return f"{'0' if name.startswith('-') else ''}{name}{'0' if name.endswith('-') else ''}"
