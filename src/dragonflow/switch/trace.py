"""What ``ofproto/trace`` says: where a packet would go, and where its way ended (ovs-vswitchd(8), ofproto commands)."""

from __future__ import annotations

import re

import msgspec

_TABLE = re.compile(r"\s*(\d+)\. (.*)")
_OUTPUT = re.compile(r"\s*output:(\d+)")
_VLAN = re.compile(r"\s*(?:set_field:(\d+)->vlan_vid|push_vlan:|(pop_vlan))")
_BUCKET = re.compile(r"\s*bucket \d+$")
_SET_TUNNEL = re.compile(r"\s*set_field:(\S+)->(tun_id|tun_dst|tun_ipv6_dst)")
_BRIDGE = re.compile(r"( +)bridge\(")
_REFUSED = re.compile(r"\s*>+ *(.*skipping .*output|Nonexistent output port|.*dropping packet|OFPPC_)", re.IGNORECASE)
_OURS = re.compile(r"cookie 0xdf[0-9a-f]{14}\b")
_NO_STEP = ("Flow:", "Final flow:", "Megaflow:", "Datapath actions:", "bridge(", "recirc(", "---", "===")

_SHOWN = 12
"""Lines of a trace that an operator is shown: the last table and what happened there, and the tables before it."""


class Out(msgspec.Struct, frozen=True):
    """An output: the OpenFlow port, and what was set before it: for one to a tunnel the VNI and the VTEP, and a VLAN tag."""

    ofport: int
    vni: int | None = None
    vtep: str | None = None
    vlan: int | None = None


class Traced(msgspec.Struct, frozen=True):
    """A packet's way: the tables in which it was, the flow that it met in each, where it came out, the end of the trace.

    ``foreign``: the last flow has no cookie of ours.
    """

    tables: tuple[int, ...]
    flows: tuple[str, ...]
    foreign: bool
    outputs: tuple[Out, ...]
    lines: tuple[str, ...]


def parse(text: str) -> Traced:
    """Read a trace. An output back to the input port, or to a port that isn't there, is none.

    What becomes of the packet on another bridge, beyond a patch port, is left out: that is not ours.
    """
    tables: list[int] = []
    outputs: list[Out] = []
    way: list[str] = []
    flows: list[str] = []
    foreign, vni, vtep, vlan = False, None, None, None
    beyond: str | None = None
    for line in text.splitlines():
        if not line or line.startswith(_NO_STEP):
            continue
        if beyond is not None and line.startswith(beyond):
            continue
        beyond = None
        if found := _BRIDGE.match(line):
            beyond = found[1]
            continue
        way.append(line.rstrip())
        if found := _TABLE.match(line):
            tables.append(int(found[1]))
            flows.append(found[2].partition(", cookie")[0])
            foreign = not _OURS.search(line)
        elif found := _SET_TUNNEL.match(line):
            if found[2] == "tun_id":
                vni = int(found[1].partition("/")[0], 0)
            else:
                vtep = found[1]
        elif _BUCKET.match(line):
            vlan = None  # a bucket has the packet as it came to the group
        elif found := _VLAN.match(line):
            vlan = None if found[2] else int(found[1] or 0) & 0xFFF
        elif found := _OUTPUT.match(line):
            outputs.append(Out(int(found[1]), vni, vtep, vlan))
        elif outputs and _REFUSED.match(line):
            outputs.pop()
    return Traced(tuple(tables), tuple(flows), foreign, tuple(outputs), tuple(way[-_SHOWN:]))
