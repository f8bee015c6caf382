"""Notices within a second that another chassis is dead: Open vSwitch itself holds a BFD session with it (RFC 5880).

::

    ovs-vswitchd ◄── tunnel, VNI 0, UDP 3784 ──► ovs-vswitchd of the peer
         └──► OVSDB: Interface.bfd_status ──► OvsPort.bfd ──► heard (wiring)

Each session has a tunnel interface of its own, beside the one through which networks' packets go. What it says is a read like any
other: apps ask ``heard`` and render again when the answer changes. Packets on that interface that aren't BFD match no flow.

Who has a session with whom, see ``sessions`` in ``wiring``. Cost: no flow; an interface and some 4 packets/s each way a session.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import App, renders
from dragonflow.apps.tunnel import can_reach
from dragonflow.apps.wiring import peer_name, sessions
from dragonflow.controller.view import Me, View
from dragonflow.model import TUNNEL_TYPES, Chassis, LogicalRouter
from dragonflow.pipeline import Fact, PeerPort


class Bfd(App):
    """Listens to the chassis on which routers' gateways are, or may be soon; and to those that listen to this one."""

    name = "bfd"

    @renders(LogicalRouter)
    def router(self, router: LogicalRouter, view: View) -> Iterator[Fact]:
        """The sessions for the router's sake; several routers may want the same."""
        for name in sessions(router, view.me.chassis, view):
            peer = view.get(Chassis, name)
            encapsulation = None if peer is None else _common(peer, view.me)
            if peer is not None and encapsulation is not None:
                yield PeerPort(peer_name(name), encapsulation, view.me.tunnel_ip, peer.tunnel_ip)


def _common(peer: Chassis, me: Me) -> str | None:
    """An encapsulation that both offer, the same seen from either end; None if no tunnel can join them."""
    try:
        if not can_reach(me.tunnel_ip, peer.tunnel_ip):
            return None
    except ValueError:  # the tunnel app reports it; the other peers' sessions stand
        return None
    return next((it for it in TUNNEL_TYPES if it in me.tunnel_types and it in peer.tunnel_types), None)
