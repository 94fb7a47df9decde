"""What one value may be: the bounds that several resources share, as annotated types.

msgspec checks them when it decodes, the CRDs say the same to the API server, and a test walks both. Patterns keep out
what can be no address at all; whether ``10.0.0.300`` is one is the planner's to say (and a CEL rule's, in a cluster).
Python patterns end in ``\\Z`` where a CRD has ``$``, which in Python would let a trailing newline through.
"""

from typing import Annotated, Any

from msgspec import Meta

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z"
ADDRESS = r"^[0-9A-Fa-f:.]+\Z"
PREFIX = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}\Z"
RANGE = r"^[0-9A-Fa-f:.]+(/[0-9]{1,3}|-[0-9A-Fa-f:.]+)?\Z"
INTERFACE = r"^[^\s/:]*\Z"

SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
"""No item twice. A list without a mark is atomic: written and compared as a whole."""


def keyed(key: str) -> dict[str, Any]:
    """A list of objects in which no two have the same ``key``."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


ObjectName = Annotated[str, Meta(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
LabelName = Annotated[str, Meta(min_length=1, max_length=63, pattern=DNS_LABEL)]
OptionalName = Annotated[str, Meta(max_length=253)]
"""An object's name, or empty for none."""

Address = Annotated[str, Meta(min_length=2, max_length=45, pattern=ADDRESS)]
"""One IPv4 or IPv6 address, without prefix length and zone."""
CIDR = Annotated[str, Meta(min_length=4, max_length=49, pattern=PREFIX)]
AddressRange = Annotated[str, Meta(min_length=2, max_length=91, pattern=RANGE)]
"""``192.0.2.10``, ``192.0.2.0/28`` or ``192.0.2.32-192.0.2.40`` (both ends included)."""
MAC = Annotated[str, Meta(max_length=17, pattern=r"^([0-9a-f]{2}(:[0-9a-f]{2}){5})?\Z")]
"""Lower case, colons; empty where there is none."""
InterfaceName = Annotated[str, Meta(max_length=15, pattern=INTERFACE)]
"""As the kernel allows (``dev_valid_name``, IFNAMSIZ); empty where the agent chooses."""

PortNumber = Annotated[int, Meta(ge=1, le=65535)]
PortOrNone = Annotated[int, Meta(ge=0, le=65535)]
"""A port, or 0 for none of its own."""
Weight = Annotated[int, Meta(ge=0, le=65535)]
Connections = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A number of connections; 0: no limit."""
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Generation = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Up to the largest whole number that every JSON reader keeps."""
DrainSeconds = Annotated[int, Meta(ge=0, le=604_800)]

Reason = Annotated[str, Meta(max_length=256)]
Message = Annotated[str, Meta(max_length=1024)]
Moment = Annotated[str, Meta(max_length=64)]
"""RFC 3339, as Kubernetes writes it; empty for unknown."""
Identifier = Annotated[str, Meta(max_length=128)]
"""What somebody else made (a UID, a resource version, a boot ID, a version)."""
