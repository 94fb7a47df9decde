"""Every reason the planner can give, for conditions, and what each means for what is programmed already."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """CamelCase words for a condition's ``reason``; the message beside it names field, found value and remedy."""

    ACCEPTED = "Accepted"
    """The VirtualService (or group) can be done as it is written."""

    # The VirtualService as it is written: a refusal that only its author can mend.
    INVALID_VALUE = "InvalidValue"
    """A number is outside its bounds, or a list that needs an entry has none."""
    MALFORMED_ADDRESS = "MalformedAddress"
    """An address or CIDR does not parse, or is of a kind that cannot be used there (multicast, loopback, …)."""
    ONE_ADDRESS_PER_FAMILY = "OneAddressPerFamily"
    """``addresses`` names more than one of a family."""
    ADDRESS_REQUIRED = "AddressRequired"
    """``addresses`` is empty and nothing here allocates (a manifests directory)."""
    DUPLICATE_PORT = "DuplicatePort"
    """Two ports have one name, or one protocol and port."""
    DUPLICATE_BACKEND = "DuplicateBackend"
    """An address is named twice under ``backends.static``."""
    EXACTLY_ONE_BACKEND_KIND = "ExactlyOneBackendKind"
    """``backends`` has neither or both of ``service`` and ``static``."""
    BACKEND_IS_ADDRESS = "BackendIsAddress"
    """A real server has the virtual service's own address: packets would loop. Endpoints are left out for it."""
    MIXED_FAMILIES = "MixedFamilies"
    """A VIP without a real server of its family, or a real server without a VIP of its family."""
    PORT_MAPPING = "PortMapping"
    """``targetPort`` differs under DR or TUN, where the real server sees the packet as the client sent it. Endpoints
    are left out for it."""
    ONE_PACKET_FORWARDING = "OnePacketForwarding"
    """``onePacket`` with NAT: the answers would come from the real server's address. Endpoints are left out for it."""
    ONE_PACKET_PROTOCOL = "OnePacketProtocol"
    """``onePacket`` with a port that is not UDP."""
    TUNNEL_PORT = "TunnelPort"
    """GUE needs ``tunnel.port``; IPIP and GRE have none."""
    SCHEDULER_FLAGS = "SchedulerFlags"
    """``schedulerFlags`` with a scheduler other than sh and mh, or one twice."""
    CONNECTION_THRESHOLDS = "ConnectionThresholds"
    """``resumeConnections`` above ``maxConnections`` (the kernel answers ERANGE)."""
    HEALTH_CHECK_TIMES = "HealthCheckTimes"
    """A check's timeout is longer than its interval."""
    TOO_MANY_SERVERS = "TooManyServers"
    """More real servers than one plan holds. Of a Service's endpoints the first are taken."""
    GROUP_IMMUTABLE = "GroupImmutable"
    """``directorGroup`` differs from the one it was programmed for."""

    # What others decide: the administrator's groups and nodes, and who was there first.
    GROUP_NOT_FOUND = "GroupNotFound"
    """There is no such DirectorGroup."""
    GROUP_INVALID = "GroupInvalid"
    """The DirectorGroup itself cannot be used as it is written."""
    ANNOUNCEMENT_UNSUPPORTED = "AnnouncementUnsupported"
    """The group announces in a way this version does not have."""
    NO_DIRECTORS = "NoDirectors"
    """The group's ``nodeSelector`` matches no Node."""
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    """The group does not admit VirtualServices of this namespace."""
    STATIC_BACKEND_NOT_ALLOWED = "StaticBackendNotAllowed"
    """A static backend lies outside the group's ``allowedStaticBackends``. Endpoints that are neither a Node's address
    nor in a podCIDR are left out for it."""
    SERVICE_EXTERNAL_NAME = "ServiceExternalName"
    """The Service is a name in somebody else's DNS: it has no endpoints."""
    ADDRESS_OUTSIDE_GROUP = "AddressOutsideGroup"
    """A requested address lies outside the group's ranges."""
    ADDRESS_CONFLICT = "AddressConflict"
    """Another VirtualService has the address (other namespace or group) or the address, protocol and port."""
    ADDRESSES_EXHAUSTED = "AddressesExhausted"
    """No address of the group is free to be given, or older VirtualServices wait for those that are."""
    ADDRESS_FULL = "AddressFull"
    """As many VirtualServices share the address as one IPVSAddress names."""
    ADDRESS_IS_NODE = "AddressIsNode"
    """A requested address is a Node's own: its other ports would be guarded."""
    GATEWAY_AMBIGUOUS = "GatewayAmbiguous"
    """Another VirtualService sends the same real server's replies to another gateway. Endpoints are left out for it."""
    GATEWAY_REQUIRED = "GatewayRequired"
    """NAT ``Gateway`` without an address that real servers could route back to."""

    # Notes: accepted, with something to know.
    SERVICE_NOT_FOUND = "ServiceNotFound"
    """There is no such Service: the addresses stay, without real servers."""
    SERVICE_PORT_NOT_FOUND = "ServicePortNotFound"
    """The Service, or none of its endpoints, has such a port: nobody serves it."""
    ENDPOINT_UNUSABLE = "EndpointUnusable"
    """An endpoint, or a whole EndpointSlice, is left out: a name, or an address that nobody can be sent to."""
    ENDPOINT_WITHOUT_NODE = "EndpointWithoutNode"
    """An endpoint names no Node, or one that is not there: what it is, its address alone says."""
    TERMINATING_SERVES = "TerminatingServes"
    """No endpoint is ready, so those that are terminating and still serve get new connections (KEP-1669)."""
    ADDRESS_FAMILY_MISSING = "AddressFamilyMissing"
    """The Service has a family of which the group has no addresses."""
    SCHEDULER_CHANGED = "SchedulerChanged"
    """rr and lc became wrr and wlc, so that nodes in front of several real servers get their share."""
    SCHEDULER_IGNORES_WEIGHTS = "SchedulerIgnoresWeights"
    """Weights differ under a scheduler that does not look at them."""
    ONE_SERVER_PER_ADDRESS = "OneServerPerAddress"
    """dh, lblc and lblcr choose by the destination address: one VIP goes to one real server."""
    HEALTH_NOT_CHECKED = "HealthNotChecked"
    """``healthCheck`` is read and not acted on: every real server keeps its weight whatever its state."""
    FALLBACK_NOT_USED = "FallbackNotUsed"
    """``fallback`` is read and not acted on, as nothing here calls a real server unhealthy."""
    CONNECTION_SYNC_NOT_USED = "ConnectionSyncNotUsed"
    """``connectionSync`` of a group is read and not acted on."""
    SOURCES_OF_ONE_FAMILY = "SourcesOfOneFamily"
    """``allowedSources`` names no prefix of a VIP's family: nobody may connect to that VIP."""
    NODE_ADDRESS_MISSING = "NodeAddressMissing"
    """A real server is left out (refused, where that is all of a family): its node has no address of that family."""
    SETTINGS_DISAGREE = "SettingsDisagree"
    """Groups with a director in common ask for different kernel settings."""

    TOO_MANY_GROUPS = "TooManyGroups"
    """A node is told of the groups it directs first, and of so many."""
    TOO_MANY_DIRECTORS = "TooManyDirectors"
    """A group's selector matches more Nodes than one plan names."""

    # What a Service of type LoadBalancer is told.
    ANNOTATION_INVALID = "AnnotationInvalid"
    """An annotation of ours does not say what it should, or is none that is known."""
    SERVICE_UNSUPPORTED = "ServiceUnsupported"
    """A field of the Service cannot be done as it is."""
    VIRTUAL_SERVICE_EXISTS = "VirtualServiceExists"
    """There is a VirtualService of the Service's name which the Service does not own."""
    CLIENT_ADDRESS_LOST = "ClientAddressLost"
    """Note: ``externalTrafficPolicy: Local`` asks for the client's address, which NAT with Masquerade does not keep."""

    # Status of what was accepted.
    PENDING = "Pending"
    """Nodes have not reported the current plan yet."""
    PROGRAMMED = "Programmed"
    """Read back from the kernels of every node that is asked."""
    PROGRAMMING_FAILED = "ProgrammingFailed"
    """A node reported that it could not do what the plan asks."""
    LAGGING = "Lagging"
    """A director has not reported the current plan within the deadline."""
    NOT_SEEN_HERE = "NotSeenHere"
    """Reports of other hosts do not reach this one."""
    REPORT_TRUNCATED = "ReportTruncated"
    """A node has more failures than its report names, so it is not known whether this is among them."""
    NO_REAL_SERVERS = "NoRealServers"
    """Nothing is there, or ready, to serve it."""
    NODE_GONE = "NodeGone"
    """There is no such Node any more, or an administrator has said that it will not come back."""
    NODE_NOT_READY = "NodeNotReady"
    """The Node's Ready condition is not True, so its agent's last report may be old."""
    NODE_REBOOTED = "NodeRebooted"
    """The last report is from before the node's last boot."""
    AGENT_NOT_READY = "AgentNotReady"
    """No agent pod is ready on the node, so its last report may be old."""
    NOT_REPORTED = "NotReported"
    """The node has never reported."""
    PREPARING = "Preparing"
    """Real servers are being made able to take the traffic before directors send it."""
    WITHDRAWING = "Withdrawing"
    """Directors drain, real servers keep their role until the last connection is gone."""
    REFUSED = "Refused"
    """Not accepted, and nothing is programmed for it."""


WITHDRAWN = frozenset(
    {
        Reason.GROUP_NOT_FOUND,
        Reason.NO_DIRECTORS,
        Reason.NAMESPACE_NOT_ALLOWED,
        Reason.STATIC_BACKEND_NOT_ALLOWED,
        Reason.SERVICE_EXTERNAL_NAME,
        Reason.ADDRESS_OUTSIDE_GROUP,
        Reason.ADDRESS_CONFLICT,
        Reason.GATEWAY_AMBIGUOUS,
    }
)
"""Refusals that take away what is programmed: the administrator's decisions, and what another rightfully has.

Every other refusal leaves the last accepted plan in the kernels, so that a slip of the pen cuts no connection.
"""


class Finding(NamedTuple):
    """A reason with its words. ``str()`` is what a condition's message holds."""

    reason: Reason
    message: str

    def __str__(self) -> str:
        return self.message
