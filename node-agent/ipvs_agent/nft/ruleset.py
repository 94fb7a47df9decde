"""The static rules of our tables, by feature. VIPs are never in rules: a change adds or removes set elements only.

| feature | sets and maps (``4``/``6`` stands at the end of those of one family) | chains: hook, priority |
|---|---|---|
| GUARD | ``client_interfaces`` (interface), ``guarded`` (VIP), ``open`` and ``restricted`` (VIP, protocol, port), ``sources`` (VIP, protocol, port, prefix) | ``guard``: input 10 |
| UNTRACKED | ``untracked``, and ``tracked``, which stands over it: services of which some flows need tracking here, since they are masqueraded, forwarded by NAT to this host's own servers, or took the second hop (VIP, protocol, port) | ``untrack``: prerouting -300; ``forgive``: prerouting -150 |
| MASQUERADE | ``masquerade`` (VIP, protocol, port), ``hairpin`` (RIP, the same RIP) | ``masq-in``: input 90; ``masq``: nat postrouting 100 |
| SECOND_HOP | ``hop_targets`` (address of a local server), ``hop_clients`` (prefix); from the hops' rows: ``hop_macs`` (MAC, VIP, protocol, port), ``hop_links`` (interface, VIP, protocol, port), ``hop_directed`` (VIP, protocol, port), ``hops`` (VIP, protocol, port → chain) | ``second-hop``: nat prerouting -101; ``second-hop-out``: nat output -101; ``second-hop-masq``: nat postrouting 100 |
| RETURN | ``return`` (MAC, RIP, protocol, port → return path 1..7) | ``return-in``: prerouting -150; ``return-out``: route output -150 |
| NO_REDIRECTS | ``no_redirects`` (interface) | ``redirects``: output 0 |
| TUNNELS | ``tunnel_links`` (interface), ``tunnel_vips`` (VIP), ``mss`` (VIP → bytes), ``gue_ports`` (port), ``gue_sources`` (director, port) | ``tunnel-in``: prerouting -310; ``gue-in``: input -310; ``clamp``: postrouting 150 |
| SILENCE | table ``arp``: ``silent4`` (VIP), ``own4`` (interface → address) | ``silence-in``: input 0; ``silence-out``: output 0 |

Why these priorities. ``guard``: after other people's filters (0), so that what they drop gets no answer from us; before
IPVS, which takes packets at 98 and 99 (``ip_vs_ops``, net/netfilter/ipvs/ip_vs_core.c). IPv4 is reassembled before
input; IPv6 by ``nf_defrag_ipv6``, which IPVS turns on with its first IPv6 service. ``second-hop``: just before other
people's destination NAT (-100). ``clamp``: after source NAT (100) has put the VIP back as the source of a pod's answer.
``tunnel-in`` and ``gue-in``: before connection tracking (-200) and everybody else's.

No feature but MASQUERADE, SECOND_HOP and RETURN has a ``ct`` expression or a nat chain: these turn connection tracking
on for the whole host (``nf_ct_netns_get``; ``notrack`` does not). A verdict ends our own base chain only: whatever
other people's chains decide about a packet stands.
"""  # noqa: E501  # a table's rows cannot be wrapped

from collections.abc import Mapping

from ipvs_agent.nft.features import Chain, Feature, Rules
from ipvs_agent.rows import (
    HOP_MARK,
    MASQUERADE_MARK,
    RETURN_MARK_MASK,
    RETURN_MARK_SHIFT,
    RETURN_PATHS,
)

FLOW = {4: "ip daddr . meta l4proto . th dport", 6: "ip6 daddr . meta l4proto . th dport"}
_IP = {4: "ip", 6: "ip6"}


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{version}" for version in (4, 6) for name in names)


def _each(*rules: str) -> tuple[str, ...]:
    """Rules of both families: ``{v}`` is 4 or 6, ``{ip}`` nft's word for it, ``{flow}`` what a packet goes to."""
    return tuple(rule.format(v=version, ip=_IP[version], flow=FLOW[version]) for version in (4, 6) for rule in rules)


def _guard(version: int) -> tuple[Chain, ...]:
    ip, flow = _IP[version], FLOW[version]
    icmp = {4: "icmp", 6: "ipv6-icmp"}[version]
    sources = tuple(
        f"{ip} daddr . {protocol} dport . {ip} saddr @sources_{protocol}{version} accept"
        for protocol in ("tcp", "udp", "sctp")
    )
    guarded = (
        f"meta l4proto {icmp} accept",
        f"{flow} @restricted{version} goto restricted{version}",
        f"{flow} @open{version} accept",
        # Who has no service cannot begin; what this host itself began, from the VIP, is answered to any port.
        "tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset",
        "meta l4proto tcp accept",
        "reject with icmpx port-unreachable",
    )
    return Chain(f"restricted{version}", (*sources, "drop")), Chain(f"guard{version}", guarded)


def _base(kind: str, hook: str, priority: int) -> str:
    return f"type {kind} hook {hook} priority {priority}; policy accept;"


_PATHS = range(1, RETURN_PATHS + 1)
_ALL = 0xFFFF_FFFF
_MARKED_HOP = f"ct mark & {HOP_MARK:#010x} != 0"


def _path(mark: str, path: int) -> str:
    kept, bits = _ALL ^ RETURN_MARK_MASK, path << RETURN_MARK_SHIFT
    return f"{mark} set {mark} & {kept:#010x} | {bits:#010x}"


def _on_path(path: int) -> str:
    return f"ct mark & {RETURN_MARK_MASK:#010x} == {path << RETURN_MARK_SHIFT:#010x}"


RULES: Mapping[Feature, Rules] = {
    Feature.GUARD: Rules(
        ("client_interfaces", *_both("guarded", "open", "restricted", "sources")),
        (
            *_guard(4),
            *_guard(6),
            Chain(
                "guard",
                _each("iifname @client_interfaces {ip} daddr @guarded{v} goto guard{v}"),
                _base("filter", "input", 10),
            ),
        ),
        "NFT_REJECT_INET",
    ),
    Feature.UNTRACKED: Rules(
        _both("hop_macs", "hop_links", "untracked", "tracked"),
        (
            # Under DR and TUN a director sees one direction only, which connection tracking calls invalid from the
            # second packet on, and somebody may drop that. Not tracked at all: no entries in conntrack's table either.
            Chain(
                "untrack",
                _each(
                    "ether saddr . {flow} @hop_macs{v} accept",
                    "iifname . {flow} @hop_links{v} accept",
                    "{flow} @tracked{v} accept",
                    "{flow} @untracked{v} notrack",
                    # Answers to what is behind this host, by others.
                    "{ip} saddr . meta l4proto . th sport @untracked{v} notrack",
                ),
                _base("filter", "prerouting", -300),
            ),
            # Which flows of a service need tracking shows only when tracking has looked them up. Then `notrack` does
            # nothing to packets that have an entry, and takes the verdict off those that are invalid
            # (nft_notrack_eval, net/netfilter/nft_ct.c).
            Chain("forgive", _each("{flow} @tracked{v} notrack"), _base("filter", "prerouting", -150)),
        ),
        "NFT_CT",
    ),
    Feature.MASQUERADE: Rules(
        _both("masquerade", "hairpin"),
        (
            # nft 1.0.6 refuses `ct original proto-dst` in a concatenation, hence a mark; IPVS does not set `ct status
            # dnat`. Set before IPVS has rewritten the packet.
            Chain(
                "masq-in",
                _each(f"{{flow}} @masquerade{{v}} ct mark set ct mark | {MASQUERADE_MARK:#010x}"),
                _base("filter", "input", 90),
            ),
            # A DR destination of the same service still has the VIP, and needs the client's address.
            Chain(
                "masq",
                (
                    *_each("{flow} @masquerade{v} accept"),
                    f"ct mark & {MASQUERADE_MARK:#010x} != 0 masquerade",
                    # A real server that called the VIP and was chosen itself would drop its own address as a martian.
                    *_each("{ip} saddr . {ip} daddr @hairpin{v} masquerade"),
                ),
                _base("nat", "postrouting", 100),
            ),
        ),
        "NFT_CT and NFT_MASQ",
    ),
    Feature.SECOND_HOP: Rules(
        _both("hop_macs", "hop_links", "hop_directed", "hops", "hop_targets", "hop_clients"),
        (
            Chain("second-hop4", (f"{FLOW[4]} vmap @hops4",)),
            Chain("second-hop6", (f"{FLOW[6]} vmap @hops6",)),
            # A local server (or another local client) that calls the VIP is served on this node, as a real server
            # that owns the VIP always was: its packets would come back from the director as a flow that connection
            # tracking knows already, and would not be rewritten.
            Chain(
                "second-hop",
                _each(
                    "ether saddr . {flow} @hop_macs{v} goto second-hop{v}",
                    "iifname . {flow} @hop_links{v} goto second-hop{v}",
                    "{flow} @hop_directed{v} return",
                    "{ip} saddr @hop_targets{v} goto second-hop{v}",
                    "{ip} saddr @hop_clients{v} goto second-hop{v}",
                ),
                _base("nat", "prerouting", -101),
            ),
            # This host's own processes likewise, but for sockets with a mark: a check of one real server through the
            # VIP goes where a fwmark service sends it.
            Chain(
                "second-hop-out",
                _each("{flow} @hop_directed{v} return", "meta mark 0 {flow} vmap @hops{v}"),
                _base("nat", "output", -101),
            ),
            # Both ends are behind the same bridge or are the same server: the answer must come back through here.
            Chain(
                "second-hop-masq",
                _each(
                    f'{_MARKED_HOP} {{ip}} saddr @hop_targets{{v}} oifname != "lo" masquerade',
                    f'{_MARKED_HOP} {{ip}} saddr @hop_clients{{v}} oifname != "lo" masquerade',
                ),
                _base("nat", "postrouting", 100),
            ),
        ),
        "NFT_CT, NFT_NAT, NFT_MASQ, NFT_NUMGEN and NFT_HASH",
    ),
    Feature.RETURN: Rules(
        _both("return"),
        (
            *(Chain(f"return-{path}", (_path("ct mark", path),)) for path in _PATHS),
            # nft 1.0.6 cannot combine two registers, hence a rule for each path.
            Chain("way-back", tuple(f"{_on_path(path)} {_path('meta mark', path)} accept" for path in _PATHS)),
            # Every packet of the director's, not only the first: the path follows the director. Nor only those of
            # the original direction: where tracking began in the middle of a flow, that may be the server's.
            Chain(
                "return-in",
                (*_each("ether saddr . {flow} vmap @return{v}"), "ct direction reply goto way-back"),
                _base("filter", "prerouting", -150),
            ),
            Chain("return-out", ("goto way-back",), _base("route", "output", -150)),
        ),
        "NFT_CT",
    ),
    Feature.NO_REDIRECTS: Rules(
        ("no_redirects",),
        (
            Chain(
                "redirects",
                (
                    "oifname @no_redirects icmp type redirect drop",
                    "oifname @no_redirects icmpv6 type nd-redirect drop",
                ),
                _base("filter", "output", 0),
            ),
        ),
        "NF_TABLES_INET",
    ),
    Feature.TUNNELS: Rules(
        ("tunnel_links", "gue_ports", *_both("tunnel_vips", "gue_sources", "mss")),
        (
            Chain(
                "tunnel-in",
                _each("iifname @tunnel_links {ip} daddr != @tunnel_vips{v} drop"),
                _base("filter", "prerouting", -310),
            ),
            # What GUE carries need not be IP: a TCP segment in it is delivered with the outer addresses, past
            # everybody's input chains (gue_udp_recv, net/ipv4/fou_core.c). So only directors may send any.
            Chain(
                "gue-in",
                _each("udp dport @gue_ports {ip} saddr . udp dport != @gue_sources{v} drop"),
                _base("filter", "input", -310),
            ),
            Chain(
                "clamp",
                _each("tcp flags & syn == syn {ip} saddr vmap @mss{v}"),
                _base("filter", "postrouting", 150),
            ),
        ),
        "NF_TABLES_INET",
    ),
    Feature.SILENCE: Rules(
        ("silent4", "own4"),
        (
            Chain(
                "silence-in",
                ("arp operation request arp daddr ip @silent4 drop",),
                _base("filter", "input", 0),
            ),
            # Linux may ask with the VIP as the asker (arp_announce 0) and so poison caches. Where the interface has
            # no address of its own, it asks as a probe does (0.0.0.0, RFC 5227).
            Chain(
                "silence-out",
                (
                    "arp operation reply arp saddr ip @silent4 drop",
                    "arp saddr ip @silent4 arp daddr ip @silent4 drop",
                    "arp saddr ip @silent4 arp saddr ip set oifname map @own4",
                    "arp saddr ip @silent4 arp saddr ip set 0.0.0.0",
                ),
                _base("filter", "output", 0),
            ),
        ),
        "NF_TABLES_ARP",
        family="arp",
    ),
}
