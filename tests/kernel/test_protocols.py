"""TCP, UDP and SCTP through all three forwarding methods, side by side on one port of one VIP."""

from typing import Any

import pytest
from tests.kernel.conftest import MakeSite, virtual_service

from ipvs_lab.net import Crowd, Topology, ask, clients, serve
from ipvs_lab.topologies import far, one, two

VIP = "192.0.2.10"
SERVERS = ("rs1", "rs2", "rs3")
PROTOCOLS = ("tcp", "udp", "sctp")
FLAGS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}


@pytest.mark.parametrize(
    ("topology", "spec", "target"),
    [
        pytest.param(two(), {"forwarding": "NAT"}, 8080, id="NAT-Masquerade"),
        pytest.param(two(), {"forwarding": "NAT", "nat": {"returnPath": "Gateway"}}, 8080, id="NAT-Gateway"),
        pytest.param(one(), {"forwarding": "DR"}, 80, id="DR"),
        pytest.param(far(), {"forwarding": "TUN"}, 80, id="TUN"),
    ],
)
def test_one_port_serves_tcp_udp_and_sctp(
    site: MakeSite, topology: Topology, spec: dict[str, Any], target: int
) -> None:
    lvs = site(topology, nodes=SERVERS, gatewayAddresses=["10.0.0.1"])
    ports = [f"80:{target}/{proto.upper()}" for proto in PROTOCOLS]
    lvs.put(virtual_service("web", VIP, ports, lvs.servers(*SERVERS), **spec))
    lvs.start()
    for proto in PROTOCOLS:
        serve([lvs[name] for name in SERVERS], target, proto)
        told = clients(lvs["client"], 12, VIP, 80, proto)
        assert told.answers == {"rs1": 4, "rs2": 4, "rs3": 4}, f"{proto}\n{told}"
        assert told.seen["rs1"] == {"10.0.0.1" if spec == {"forwarding": "NAT"} else "198.51.100.2"}


@pytest.mark.parametrize("spec", [{"forwarding": "NAT"}, {"forwarding": "DR"}], ids=["NAT", "DR"])
def test_sctp_associations_stay_and_carry_data_while_servers_come(site: MakeSite, spec: dict[str, Any]) -> None:
    lvs = site(one(), nodes=SERVERS)
    lvs.put(virtual_service("web", VIP, "80/SCTP", lvs.servers("rs1", "rs2"), **spec))
    lvs.start()
    serve([lvs[name] for name in SERVERS], 80, "sctp")
    crowd = Crowd(lvs["client"], VIP, 80, "sctp")
    opened = crowd.open(idle=4, streaming=4)
    assert opened.by_server == {"rs1": 4, "rs2": 4}, str(opened)
    lvs.edit("web", backends={"static": [{"address": rip} for rip in lvs.servers(*SERVERS)]})
    lvs.settled()
    assert ask(lvs["client"], VIP, 80, "sctp").server in SERVERS
    kept = crowd.check()
    assert kept.intact == 8, str(kept)
