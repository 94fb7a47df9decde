"""Random objects. Few values, so that they meet; mostly such as can be planned, now and then what no schema allows."""

from typing import Any

from hypothesis import strategies as st

from ipvs_api.core import Node
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.node import IPVSNodeStatus
from ipvs_api.virtualservice import Scheduler, VirtualService

from .worlds import BASE, DIRECTOR, group, unchecked

Strategy = st.SearchStrategy[Any]
Step = tuple[str, Any]
"""``put`` and an object, or ``remove`` and kind, namespace and name."""

NOW, LATER = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
ODD = st.one_of(st.text(max_size=8), st.sampled_from(["192.0.2.1/24", "::ffff:10.0.0.1", "fe80::1%eth0", "1.2.3", ""]))
V4_RIPS = ["10.0.0.11", "10.0.0.12", "10.1.1.5", "10.1.2.5", "10.9.9.9"]
V6_RIPS = ["2001:db8:1::11", "fd00:2::5"]
NAMES = st.sampled_from(["a", "b", "c", "d"])
NAMESPACES = st.sampled_from(["shop", "shop", "shop", "zoo"])
GROUPS = st.sampled_from(["edge", "edge", "core", "core", "far"])
NODES = st.sampled_from(["n1", "n2", "lb1"])


def often(usual: Strategy, odd: Strategy) -> Strategy:
    """``odd`` once in twelve times."""
    return st.integers(0, 11).flatmap(lambda number: odd if number == 11 else usual)


def some(values: list[Any], **sizes: Any) -> Strategy:
    return st.lists(st.sampled_from(values), unique=True, **sizes)


def static(addresses: list[str]) -> Strategy:
    return some(addresses, min_size=1, max_size=3).map(
        lambda chosen: {"static": [{"address": each} for each in chosen]}
    )


def addressed(vips: list[str], servers: list[str]) -> Strategy:
    return st.fixed_dictionaries({"addresses": some(vips, min_size=1, max_size=1), "backends": static(servers)})


ADDRESSED = st.one_of(
    *([addressed(["192.0.2.1", "192.0.2.2", "198.51.100.1"], V4_RIPS)] * 3),
    addressed(["2001:db8::1", "2001:DB8:0::1"], V6_RIPS),
    st.just(
        {
            "addresses": ["192.0.2.1", "2001:db8::1"],
            "backends": {"static": [{"address": "10.0.0.11"}, {"address": "fd00:2::5"}]},
        }
    ),
)
GATEWAY = {"nat": {"returnPath": "Gateway"}}
FORWARDED = st.sampled_from([{}, {"forwarding": "DR"}, {"forwarding": "TUN"}, GATEWAY, GATEWAY])
PORTS = some(["80", "80", "81", "53"], min_size=1, max_size=2).map(
    lambda numbers: [{"name": f"p{number}", "port": int(number)} for number in numbers]
)
ODD_SERVER = st.fixed_dictionaries(
    {"address": ODD},
    optional={"weight": st.integers(0, 3), "maxConnections": st.integers(0, 2), "resumeConnections": st.integers(0, 2)},
)
CHANGES = st.one_of(
    st.just({}),
    st.just({}),
    st.sampled_from([{"scheduler": str(scheduler)} for scheduler in Scheduler]),
    st.sampled_from([{"ports": [{"name": "p", "port": 80, "protocol": each}]} for each in ("UDP", "SCTP")]),
    st.just({"ports": [{"name": "p", "port": 80, "targetPort": 8080}]}),
    st.sampled_from([{"allowedSources": each} for each in (["10.0.0.0/8"], ["2001:db8::/32", "2001:DB8::/32"])]),
    st.just({"onePacket": True, "forwarding": "DR", "ports": [{"name": "p", "port": 80, "protocol": "UDP"}]}),
)
MISTAKES = st.one_of(
    st.fixed_dictionaries(
        {"addresses": st.lists(st.one_of(ODD, st.sampled_from(["198.51.100.1", "10.0.0.11"])), max_size=2)}
    ),
    st.fixed_dictionaries(
        {
            "backends": st.fixed_dictionaries(
                {}, optional={"static": st.lists(ODD_SERVER, max_size=3), "service": st.just({"name": "web"})}
            )
        }
    ),
    st.fixed_dictionaries({"allowedSources": st.lists(ODD, min_size=1, max_size=2)}),
    st.builds(
        lambda numbers: {"ports": [{"name": "x", "port": each, "targetPort": each} for each in numbers]},
        st.lists(st.integers(-1, 70000), max_size=2),
    ),
    st.sampled_from(
        [
            {"onePacket": True},
            {"tunnel": {"type": "GUE", "port": 0}},
            {"schedulerFlags": ["Port", "Port"]},
            {"addressCount": 2},
        ]
    ),
)


def service_of(name: str, namespace: str, created: str, group_name: str, *parts: dict[str, Any]) -> VirtualService:
    spec = {"directorGroup": group_name}
    for part in parts:
        spec |= part
    return unchecked(
        VirtualService, {"metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": spec}
    )


SERVICE = st.builds(
    service_of,
    NAMES,
    NAMESPACES,
    st.sampled_from(["", NOW, LATER]),
    GROUPS,
    PORTS.map(lambda ports: {"ports": ports}),
    ADDRESSED,
    FORWARDED,
    CHANGES,
    often(st.just({}), MISTAKES),
)
SHOP_ONLY = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
GROUP_CHANGES = st.sampled_from(
    [
        {},
        {"addresses": ["192.0.2.1-192.0.2.1"]},
        {"addresses": ["2001:db8::/120", "198.51.100.0/28"]},
        {"announcement": {"none": {}}},
        {"announcement": {"none": {}}, "gatewayAddresses": ["10.0.0.251", "2001:db8:1::fe"]},
        {"gatewayAddresses": ["10.0.0.251"]},
        {"gatewayAddresses": ["10.0.0.252", "10.0.0.253"]},
        {"allowedStaticBackends": ["10.0.0.0/24"]},
        {"allowedNamespaces": SHOP_ONLY},
        {"nodeSelector": {}},
        {"kernel": {"sloppyTCP": True}},
        {"kernel": {"sloppyTCP": False, "timeouts": {"tcpSeconds": 5}}},
    ]
)
GROUP_MISTAKES = st.one_of(
    st.fixed_dictionaries({"addresses": st.lists(ODD, max_size=2)}),
    st.fixed_dictionaries(
        {"gatewayAddresses": st.lists(ODD, max_size=2), "allowedStaticBackends": st.lists(ODD, max_size=2)}
    ),
    st.sampled_from(
        [
            {"announcement": {}},
            {"announcement": {"static": {}, "none": {}}},
            {"allowedNamespaces": {"from": "Selector"}},
        ]
    ),
    st.just({"nodeSelector": {"matchExpressions": [{"key": "ipvs.dev/director", "operator": "In", "values": []}]}}),
)
GROUP_BASE = {
    "addresses": ["192.0.2.0/28", "198.51.100.0/28", "2001:db8::/120"],
    "announcement": {"static": {}},
    "nodeSelector": {"matchLabels": DIRECTOR},
    "allowedStaticBackends": ["10.0.0.0/8", "::/0"],
}
GROUP = st.builds(
    lambda name, change, mistake: unchecked(
        DirectorGroup, {"metadata": {"name": name}, "spec": GROUP_BASE | change | mistake}
    ),
    GROUPS,
    GROUP_CHANGES,
    often(st.just({}), GROUP_MISTAKES),
)
NODE = st.builds(
    lambda name, director, own, pods: unchecked(
        Node,
        {
            "metadata": {"name": name, "labels": DIRECTOR if director else {}},
            "spec": {"podCIDRs": pods},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in own]},
        },
    ),
    NODES,
    st.booleans(),
    often(
        some([*V4_RIPS, *V6_RIPS, "10.0.0.77"], max_size=2), st.lists(st.one_of(ODD, st.just("192.0.2.1")), max_size=2)
    ),
    often(some(["10.1.1.0/24", "10.1.2.0/24", "10.1.0.0/16", "fd00:2::/64"], max_size=2), st.lists(ODD, max_size=2)),
)
REMOVAL = st.one_of(
    st.tuples(st.just("VirtualService"), NAMESPACES, NAMES),
    st.tuples(st.just("VirtualService"), NAMESPACES, NAMES),
    st.tuples(st.just("DirectorGroup"), st.just(""), GROUPS),
    st.tuples(st.just("Node"), st.just(""), NODES),
)
STEP = st.one_of(
    *([st.tuples(st.just("put"), SERVICE)] * 5),
    st.tuples(st.just("put"), GROUP),
    st.tuples(st.just("put"), NODE),
    st.tuples(st.just("remove"), REMOVAL),
)
FLOATING = [("edge", []), ("core", ["10.0.0.252", "2001:db8:1::fc"])]
FIRST: list[Step] = [
    *(("put", each) for each in BASE),
    *(
        ("put", group(name, **GROUP_BASE | {"announcement": "none", "gatewayAddresses": floating}))
        for name, floating in FLOATING
    ),
]
STEPS = st.lists(STEP, min_size=1, max_size=14).map(lambda steps: [*FIRST, *steps])

FAILURE = {"namespace": "shop", "name": "a", "reason": "Broken"}
REPORT = st.builds(
    lambda value: unchecked(IPVSNodeStatus, value),
    st.fixed_dictionaries(
        {},
        optional={
            "observedResourceVersion": st.sampled_from(["", "1", "2", "x"]),
            "truncated": st.booleans(),
            "counts": st.fixed_dictionaries(
                {}, optional={each: st.integers(0, 3) for each in ("failures", "draining", "unhealthy")}
            ),
            "failures": st.lists(
                st.fixed_dictionaries(
                    {}, optional={"reason": ODD, "message": ODD, "realServer": st.sampled_from(V4_RIPS)}
                ).map(FAILURE.__or__),
                max_size=3,
            ),
        },
    ),
)
