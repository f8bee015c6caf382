"""Networks that span regions: ports of other regions, straight from chassis to chassis.

::

    delivery, groups ──► peer port of the remote VTEP ══► remote chassis      with the VNI and encapsulation of its region
         │ (there is none yet)                               │
         └─────► flow-based port, tun_dst ══════════════►    │
    l2_lookup ◄── ports: (flow-based port, tun_src, VNI) ◄═══┘                with the VNI and encapsulation of this region

Regions know nothing of each other's rows. A port of another region has a row here, which says behind which VTEP it is and by what
encapsulation and VNI its region knows the network: the sender uses the receiver's. All that is known of a remote chassis follows
from such rows (``RemoteChassis``), and is rendered once for each, not for each port.

A remote chassis gets a tunnel interface of its own (``PeerPort``), with a BFD session, on each chassis that follows a network of
its ports. Nothing waits for it: while it has no OpenFlow port, packets leave by the flow-based one, and they come in by that
always. So a port that moves to another VTEP is reached there with the very bundle that takes in its row. Only silence ends it:
a session that was up and fell silent withdraws the ports behind it.

Where the network has another encapsulation there than here, there is an interface for either, as there is at the other end: a
session needs both ends to speak alike.

What comes from a remote VTEP is let in for the networks that have ports there, and for those that routers join to them: what is
routed there arrives in its last network. All else, from it and from unknown VTEPs, is dropped in the first table.

Where they are to be encrypted (``[df] region_ipsec``), tunnels are made only on hosts that can. Then nothing goes by the
flow-based port, and nothing but BFD passes until the other end is heard: what leaves the peer port in clear the kernel drops.

Cost, on each chassis that follows them: an interface, or two, and some 4 packets/s each way a remote chassis; 1 flow a remote
chassis and network that it may send to; 1 flow a remote port, besides what any port costs; 1 bucket a remote chassis and network.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import App, renders
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.l2 import L2
from dragonflow.apps.tunnel import behind, can_reach, chassis_bucket, ofport_of, send, tunnel_address, tunnel_ofport
from dragonflow.apps.wiring import is_of_other_region, is_remote_server, reached, remote_end, remote_peer_name, session
from dragonflow.controller.view import View
from dragonflow.model import TUNNEL_TYPES, Ipsec, LogicalPort, LogicalSwitch, RemoteChassis, remote_vtep
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    Bucket,
    Fact,
    PeerPort,
    Place,
    Serve,
    Trouble,
    load,
    match,
)
from dragonflow.pipeline.groups import GroupKind, group_id


class Regions(App):
    """Sends to and receives from chassis of other regions."""

    name = "regions"
    places = "ports of other regions"

    @renders(RemoteChassis)
    def chassis(self, chassis: RemoteChassis, view: View) -> Iterator[Fact]:
        """The tunnel interfaces to it, and what is let in from there."""
        if (wrong := _out_of_reach(chassis.vtep, view) or _in_clear(view)) is not None:
            yield Trouble(wrong)
            return
        for encapsulation in _encapsulations(chassis, view):
            name = remote_peer_name(encapsulation, chassis.vtep, view.me.region_ipsec)
            yield PeerPort(name, encapsulation, view.me.tunnel_ip, chassis.vtep, view.me.region_ipsec)
        source = tunnel_address("src", chassis.vtep)
        for name in sorted(reached(chassis.networks, view)[0]):
            network = view.get(LogicalSwitch, name)
            if network is None or not network.admin_up or network.segmentation_id is None:
                continue
            ofport = tunnel_ofport(network.network_type, view)
            own = remote_peer_name(network.network_type, chassis.vtep, view.me.region_ipsec)
            if ofport is not None and _may_speak(own, view):
                here = match(in_port=ofport, tunnel_id=network.segmentation_id, **source)
                entered = load(NETWORK, network.key), load(FROM_TUNNEL, 1)
                yield Classification.ports.flow(20, here, *entered, goto=L2.lookup)

    @renders(LogicalPort, only=is_of_other_region)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Place the port and send to it; its chassis gets a copy of what is flooded. One chassis vouches for its status."""
        vtep = remote_vtep(port.chassis)
        network = view.get(LogicalSwitch, port.network) if vtep is not None and port.admin_up else None
        if vtep is None or port.chassis is None or network is None or not network.admin_up:
            return
        encapsulation, vni = remote_end(port, network)
        if (missing := {encapsulation, network.network_type}.difference(view.me.tunnel_types)) or vni is None:
            yield Trouble(
                f"port {port.id} of another region is not reached: no {' and no '.join(sorted(missing)) or 'VNI'} here"
            )
            return
        own = remote_peer_name(encapsulation, vtep, view.me.region_ipsec)
        if _out_of_reach(vtep, view) is not None or session(own, view) is False or not _may_speak(own, view):
            return
        ofport = ofport_of(own, view)
        if ofport is None and view.me.region_ipsec is None:
            ofport = tunnel_ofport(encapsulation, view)
        if ofport is None:
            return
        yield Place(port.id, behind(port.chassis, ofport, vtep))
        sending = send(vni, vtep, ofport)
        yield Delivery.delivery.flow(10, match((DESTINATION, port.key), (FROM_TUNNEL, 0)), *sending)
        yield Bucket(group_id(GroupKind.FLOOD, network.key), chassis_bucket(port.chassis), sending)
        if not port.port_security:
            yield Bucket(group_id(GroupKind.UNKNOWN, network.key), chassis_bucket(port.chassis), sending)
        if (port.remote is None or port.remote.up) and is_remote_server(view.me.chassis, port, view):
            yield Serve(port.id)


def _encapsulations(chassis: RemoteChassis, view: View) -> Iterator[str]:
    """Those that either end's region has for a network of the chassis's ports, as far as this chassis offers them."""
    wanted = set[str]()
    for stretched in chassis.members:
        network = view.get(LogicalSwitch, stretched.network)
        if network is not None and network.admin_up:
            wanted |= {network.network_type, stretched.encapsulation or network.network_type}
    return (it for it in TUNNEL_TYPES if it in wanted and it in view.me.tunnel_types)


def _in_clear(view: View) -> str | None:
    """Why nothing may be sent there, for it would go in clear although it mustn't; None if it may."""
    if view.me.region_ipsec is None:
        return None
    ipsec = view.get(Ipsec, Ipsec().id)
    wrong = "it is being looked at" if ipsec is None else ipsec.trouble
    return None if wrong is None else f"no tunnel is made, for it can't be encrypted: {wrong}"


def _may_speak(interface: str, view: View) -> bool:
    """Whether packets of networks may pass now: where they are encrypted, when the session has proven that both ends do it."""
    return view.me.region_ipsec is None or (_in_clear(view) is None and session(interface, view) is True)


def _out_of_reach(vtep: str, view: View) -> str | None:
    """Why no tunnel can lead there; None if one can."""
    try:
        fits = can_reach(view.me.tunnel_ip, vtep)
    except ValueError:
        return f"{vtep!r} is no IP address"
    return (
        None if fits else f"no tunnel leads from {view.me.tunnel_ip} to {vtep}: the family differs, or it is the same"
    )
