"""Hosts, LANs and cables in one kernel, and what people do on them: processes, traffic, captures, dumps."""

from ipvs_lab.net.capture import Capture
from ipvs_lab.net.clients import Histogram, ask, clients
from ipvs_lab.net.crowd import Crowd, Report
from ipvs_lab.net.dumps import Dump
from ipvs_lab.net.hosts import Host, Network
from ipvs_lab.net.packets import Packet
from ipvs_lab.net.process import Child, CommandFailed
from ipvs_lab.net.servers import serve
from ipvs_lab.net.topology import HostPlan, LanPlan, Port, Topology
from ipvs_lab.net.waiting import await_condition

__all__ = [
    "Capture",
    "Child",
    "CommandFailed",
    "Crowd",
    "Dump",
    "Histogram",
    "Host",
    "HostPlan",
    "LanPlan",
    "Network",
    "Packet",
    "Port",
    "Report",
    "Topology",
    "ask",
    "await_condition",
    "clients",
    "serve",
]
