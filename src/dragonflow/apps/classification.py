"""Where a packet comes from: a port of this chassis, or outside, and then in which network it is there."""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import App, renders
from dragonflow.apps.external import External
from dragonflow.apps.firewall.guard import Guard
from dragonflow.apps.l2 import L2
from dragonflow.apps.metadata import Metadata, proxy_ofport
from dragonflow.apps.wiring import interfaces, is_here, wired
from dragonflow.controller.view import Me, View
from dragonflow.model import LogicalPort, LogicalSwitch
from dragonflow.pipeline import NETWORK, SOURCE, Fact, Local, Place, Stage, Table, Trouble, load, match


class Classification(App):
    """Says of each packet whose it is, and of each compute port that is plugged here that it is here.

    A port is Local if Neutron has actively bound it to this chassis, it and its network are administratively up, and an interface
    with its id has an OpenFlow port. At the destination of a live migration what its interface sends is marked before that, but
    the port isn't there until Neutron moves the binding (see ``wiring``). Children of trunks are another app's (``trunk``).
    """

    name = "classification"
    places = "compute ports that are plugged into this chassis"

    tunnelled = Table(
        "tunnelled",
        Stage.CLASSIFICATION,
        slot=1,
        purpose="Find the network of a packet from another chassis by its encapsulation and VNI.",
        matches=("in_port", "tunnel_id"),
        next=(L2.lookup,),
    )
    physical = Table(
        "physical",
        Stage.CLASSIFICATION,
        slot=2,
        purpose="Find the network of a packet from a physical bridge by its VLAN tag, and take the tag off.",
        matches=("in_port", "vlan_vid"),
        next=(External.arrival,),
    )
    ports = Table(
        "ports",
        Stage.CLASSIFICATION,
        purpose="Find out where the packet comes from: a local port, a known chassis (of another region: in which network too), "
        "a physical bridge, or the metadata proxy. "
        "Others are dropped.",
        matches=("in_port", "vlan_vid", "tun_ipv4_src", "tun_ipv6_src", "tunnel_id"),
        next=(L2.lookup, tunnelled, physical, Guard.claims, Metadata.replies),
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """Let in what the host's own proxy sends."""
        yield from super().host(me, view)
        proxy = proxy_ofport(view)
        if proxy is not None:
            yield self.ports.flow(20, match(in_port=proxy), goto=Metadata.replies)

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The port's place and the marking of what it sends."""
        if port.parent is not None:
            return
        ofport = wired(port, view.me.chassis, view)
        network = None if ofport is None else view.get(LogicalSwitch, port.network)
        if ofport is None or network is None:
            return
        chosen, *others = interfaces(port, view)
        if others:
            names = ", ".join(it.id for it in others)
            yield Trouble(f"several interfaces have iface-id {port.id}: {chosen.id} is used, not {names}")
        if port.chassis == view.me.chassis:
            yield Place(port.id, Local(ofport))
        yield self.ports.flow(
            20, match(in_port=ofport), load(SOURCE, port.key), load(NETWORK, network.key), goto=Guard.claims
        )
