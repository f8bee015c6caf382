"""Which packets prove that a port works, and what must become of them.

Expectations come from rows and places alone, not from what was compiled from them. The packets are ones that a port may always
send and get, whatever its security groups: unicast ARP replies (or neighbour advertisements) with the port's own MAC and address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import Literal

import msgspec

from dragonflow.apps import APPS
from dragonflow.apps.drops import Drops
from dragonflow.apps.l2 import L2
from dragonflow.apps.tunnel import tunnel_name
from dragonflow.apps.wiring import TAGGED, physical_ofport, remote_end, tag_of
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import Me
from dragonflow.model import PHYSICAL_TYPES, TUNNEL_TYPES, Chassis, LogicalPort, LogicalSwitch, OvsPort
from dragonflow.pipeline.facts import Local, Locality, Remote
from dragonflow.switch.trace import Out, Traced

Mode = Literal["off", "tunnelled", "all"]

TABLES: Mapping[int, str] = {table.number: table.name for app in APPS for table in app.tables()}

_ENDS = (Drops.sent.number, Drops.received.number)
"""Tables in which what others refuse only ends."""

_NOBODY = "0e:df:00:00:00:01"
"""A locally administered MAC that no port has: for where there is nobody to talk to."""

_PEERS = 2
"""Of each kind, so many other ports of a network are remembered to talk to."""


class Probe(msgspec.Struct, frozen=True):
    """A packet (``flow``, as ``ofproto/trace`` takes it), what it is in words, and what must become of it.

    It must come out at ``out`` and nowhere else; without that it must at least get to ``table``.
    """

    about: str
    flow: str
    out: Out | None
    table: int = L2.lookup.number

    def fault(self, traced: Traced) -> str | None:
        """What is wrong with what became of the packet; None if nothing is."""
        if self.out is None:
            return None if self.table in traced.tables else f"{self.about} {_ended(traced)}"
        wrong = [out for out in traced.outputs if not _is(out, self.out)]
        if wrong:
            return f"{self.about} came out at {_places(wrong)} instead of {_places([self.out])}"
        return None if traced.outputs else f"{self.about} {_ended(traced)}"


class Plan(msgspec.Struct, frozen=True):
    """What proves a port: one packet that it sends (any of several will do: the others may be at fault), and one that it gets."""

    sent: tuple[Probe, ...]
    got: Probe | None


class Planner:
    """Finds for a port packets to try. Costs little: whom to talk to is remembered for each network."""

    def __init__(self, replica: Replica, locality: Callable[[str], Locality | None], me: Me, mode: Mode) -> None:
        self._replica, self._locality, self._me, self.mode = replica, locality, me, mode
        self._peers: dict[str, list[str]] = {}

    def wants(self, network: str) -> bool:
        """Whether ports of the network are to be proven."""
        if self.mode != "tunnelled":
            return self.mode == "all"
        row = self._replica.get(LogicalSwitch, network)
        return row is not None and row.network_type in (*TUNNEL_TYPES, *PHYSICAL_TYPES)

    def plan(self, port_id: str, ofport: int) -> Plan | None:
        """What to try for a port that is wired at ``ofport``; None if it isn't known any more."""
        port = self._replica.get(LogicalPort, port_id)
        network = None if port is None else self._replica.get(LogicalSwitch, port.network)
        if port is None or network is None:
            return None
        peers = self._find_peers(port)
        sent = tuple(self._sent(port, ofport, network, peer, place) for peer, place in peers)
        if not sent:
            physical = physical_ofport(network, self._me.bridge_mappings, self._replica)
            leaving = None if physical is None else Out(physical, vlan=_vlan(network))
            sent = (Probe("a packet from this port", f"{_enters(ofport, port.vlan)},{_frame(port, None)}", leaving),)
        return Plan(sent, self._got(port, ofport, network, peers))

    def _sent(
        self, port: LogicalPort, ofport: int, network: LogicalSwitch, peer: LogicalPort, place: Local | Remote
    ) -> Probe:
        out = _at(place)
        where = "here"
        if isinstance(place, Remote):
            where = f"on {place.chassis}"
            if place.address is None:
                out = Out(place.ofport, vlan=_vlan(network))
            else:
                out = Out(place.ofport, remote_end(peer, network)[1], place.address)
        about = f"a packet from this port to port {peer.id} ({where})"
        return Probe(about, f"{_enters(ofport, port.vlan)},{_frame(port, peer)}", out)

    def _got(
        self,
        port: LogicalPort,
        ofport: int,
        network: LogicalSwitch,
        peers: Sequence[tuple[LogicalPort, Local | Remote]],
    ) -> Probe | None:
        """From a port of this chassis, if one was chosen to talk to; else from outside, by a tunnel or the physical network."""
        sender, place = peers[0] if peers else (None, None)
        own, out = self._locality(port.id), Out(ofport, vlan=port.vlan)
        if isinstance(own, Remote):
            sender, place = None, own
        if isinstance(place, Local):
            about = f"a packet to this port from port {sender.id if sender else '?'} (here)"
            return Probe(about, f"{_enters(place.ofport, place.vlan)},{_frame(sender, port)}", out)
        physical = physical_ofport(network, self._me.bridge_mappings, self._replica)
        if physical is not None:
            vlan = _vlan(network)
            tagged = "" if vlan is None else f"dl_vlan={vlan},"
            about = f"a packet to this port from physical network {network.physical_network}"
            return Probe(about, f"in_port={physical},{tagged}{_frame(sender, port)}", out)
        if isinstance(place, Remote) and place.address is not None:
            entry: tuple[str, str] | None = (place.chassis, place.address)
        else:
            entry = self._any_tunnel(network)
        entered = self._replica.get(OvsPort, tunnel_name(network.network_type))
        if entry is None or network.segmentation_id is None or not entered or not entered.tunnel or not entered.ofport:
            return None
        chassis, vtep = entry
        family = "tun_ipv6" if ":" in vtep else "tun"
        tunnel = f"{family}_src={vtep},{family}_dst={self._me.tunnel_ip}"
        flow = f"in_port={entered.ofport},tun_id={network.segmentation_id},{tunnel},{_frame(sender, port)}"
        return Probe(f"a packet to this port by tunnel from {chassis}", flow, out)

    def _any_tunnel(self, network: LogicalSwitch) -> tuple[str, str] | None:
        """A chassis from which packets of the network may come by tunnel: its name and its VTEP."""
        for name in islice(self._replica.ids(Chassis), _PEERS * 2):
            chassis = self._replica.get(Chassis, name)
            if chassis is None or chassis.id == self._me.chassis or network.network_type not in chassis.tunnel_types:
                continue
            here, there = ip_address(self._me.tunnel_ip), ip_address(chassis.tunnel_ip)
            if here.version == there.version and here != there:
                return chassis.id, chassis.tunnel_ip
        return None

    # Whom to talk to

    def _find_peers(self, port: LogicalPort) -> list[tuple[LogicalPort, Local | Remote]]:
        """Up to ``_PEERS`` others of the network that have a place, those on other chassis first."""
        known = self._with_places(port, self._peers.get(port.network, ()))
        if not known:
            self._peers[port.network] = self._look_around(port.network)
            known = self._with_places(port, self._peers[port.network])
        return known[:_PEERS]

    def refresh(self, port_id: str) -> None:
        """Look around the port's network again for ports on other chassis, if there were none."""
        port = self._replica.get(LogicalPort, port_id)
        if port is not None:
            known = self._with_places(port, self._peers.get(port.network, ()))
            if not any(isinstance(place, Remote) for _, place in known):
                self._peers.pop(port.network, None)

    def _with_places(self, port: LogicalPort, ids: Sequence[str]) -> list[tuple[LogicalPort, Local | Remote]]:
        found = []
        for name in ids:
            peer, place = self._replica.get(LogicalPort, name), self._locality(name)
            if peer is None or peer.id == port.id or peer.network != port.network:
                continue
            if isinstance(place, Local | Remote) and not peer.is_floating:  # behind that is nobody of this network
                found.append((peer, place))
        return found

    def _look_around(self, network: str) -> list[str]:
        remote: list[str] = []
        local: list[str] = []
        for name in self._replica.ids(LogicalPort, network=network):
            place = self._locality(name)
            if isinstance(place, Remote):
                remote.append(name)
                if len(remote) > _PEERS:
                    break
            elif isinstance(place, Local) and len(local) <= _PEERS:
                local.append(name)
        return remote + local


def _enters(ofport: int, vlan: int | None) -> str:
    """Where a frame comes in, and with what tag."""
    return f"in_port={ofport}" + ("" if vlan is None else f",dl_vlan={vlan}")


def _at(place: Local | Remote) -> Out:
    """Where what is for a port comes out; of a tunnel the rest is still to be said."""
    return Out(place.ofport, vlan=place.vlan if isinstance(place, Local) else None)


def _frame(sender: LogicalPort | None, receiver: LogicalPort | None) -> str:
    """A frame from one to the other that any guest may send any other; None is nobody known."""
    source, target = _mac(sender), _mac(receiver)
    ours, theirs = _addresses(sender), _addresses(receiver)
    if 6 in ours and 4 not in ours:
        to = theirs.get(6, "fe80::1")
        return (
            f"icmp6,dl_src={source},dl_dst={target},ipv6_src={ours[6]},ipv6_dst={to},nw_ttl=255,"
            f"icmpv6_type=136,icmpv6_code=0,nd_target={ours[6]},nd_tll={source}"
        )
    return (
        f"arp,dl_src={source},dl_dst={target},arp_op=2,arp_sha={source},arp_tha={target},"
        f"arp_spa={ours.get(4, '0.0.0.0')},arp_tpa={theirs.get(4, '0.0.0.0')}"
    )


def _mac(port: LogicalPort | None) -> str:
    return _NOBODY if port is None else port.mac


def _addresses(port: LogicalPort | None) -> dict[int, str]:
    """The first address of each family."""
    found: dict[int, str] = {}
    for ip in () if port is None else port.ips:
        found.setdefault(6 if ":" in ip else 4, ip)
    return found


def _vlan(network: LogicalSwitch) -> int | None:
    """The number of the VLAN that the network is on its physical network; None for a flat one."""
    tag = tag_of(network)
    return tag & ~TAGGED if tag else None


def _is(out: Out, expected: Out) -> bool:
    if expected.vtep is None:
        return (out.ofport, out.vlan) == (expected.ofport, expected.vlan)
    return out == expected


def _ended(traced: Traced) -> str:
    if not traced.tables:
        return "was dropped before the first table"
    way = list(zip(traced.tables, traced.flows, strict=True))
    if len(way) > 1 and way[-1][0] in _ENDS:
        way.pop()  # the table before has refused it
    number, flow = way[-1]
    name = TABLES.get(number, "not one of ours")
    whose = ", which is not Dragonflow's" if traced.foreign else ""
    return f'was dropped in table {name} ({number}) by the flow "{flow}"{whose}'


def _places(outs: Sequence[Out]) -> str:
    return ", ".join(
        f"OpenFlow port {out.ofport}"
        + (f" (VNI {out.vni} to {out.vtep})" if out.vtep else "")
        + ("" if out.vlan is None else f" (VLAN {out.vlan})")
        for out in outs
    )
