"""Networks on physical ones: flat, or a VLAN of them. The way there is a pair of patch ports to the physical network's bridge.

::

    ports ──► physical ──► external ──► l2_lookup (to ports here alone)        from the bridge: whose VLAN is it, tag off
    delivery, groups ──► outside ══► bridge                       to the bridge: tag on

The bridge is the operator's, and so is what it does with packets; of it only our end of the patch is ours. Who is on a physical
network besides our ports, the DF DB doesn't know. So unicast to a MAC that no port has, and what is for many, leaves by it too,
and what comes from it is for local ports only: whoever else it is for has got it from the physical network itself.

A guest's own tags don't leave: on a flat network they would put its packets into whatever VLAN it likes.

A router's interface has the same MAC on every chassis. On a physical network it would be at many places at once, and switches
would learn it anew with each packet. So what a chassis has routed leaves with a MAC of its own (``chassis_mac``), but for the one
chassis that answers for the interface there (see ``door``).

Cost in flows: 2 a mapped bridge and network (3 if it is flat) on each chassis that follows the network, 1 a port on another
chassis, and 1 a router's interface. The flood groups have one bucket for the physical network, however many chassis it joins.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from dragonflow.apps.base import App, renders
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import External
from dragonflow.apps.wiring import (
    TAGGED,
    UNTAGGED,
    bridge_of,
    chassis_mac,
    is_a_routers,
    is_elsewhere,
    keeper,
    patch_name,
    patch_ofport,
    physical_ofport,
    tag_of,
)
from dragonflow.controller.view import Me, View
from dragonflow.model import PHYSICAL_TYPES, Chassis, LogicalPort, LogicalSwitch
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    Action,
    Bucket,
    Fact,
    Output,
    PatchPort,
    Place,
    PopVlan,
    PushVlan,
    Remote,
    Resubmit,
    Trouble,
    load,
    match,
    set_field,
)
from dragonflow.pipeline.groups import GroupKind, group_id

_BUCKET = 1 << 31
"""The id of a flood group's bucket for the physical network: above those of ports and of chassis."""


class Provider(App):
    """Sends to and receives from physical networks."""

    name = "provider"
    places = "ports of other chassis that are reached through a physical network"

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """The patch ports, and what comes in by them."""
        yield from super().host(me, view)
        for mapping in me.bridge_mappings:
            yield PatchPort(patch_name(mapping.bridge), f"df-phy-{mapping.bridge}", mapping.bridge)
            ofport = patch_ofport(mapping.bridge, view)
            if ofport is not None:
                yield Classification.ports.flow(10, match(in_port=ofport), goto=Classification.physical)

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """In from the physical network, and out to it."""
        if network.network_type not in PHYSICAL_TYPES or not network.admin_up:
            return
        tag = tag_of(network)
        if tag is None:
            yield Trouble(f"network {network.id} is a VLAN without a number")
            return
        bridge = bridge_of(network, view.me.bridge_mappings)
        if bridge is None:
            yield Trouble(f"this chassis has no bridge for physical network {network.physical_network}")
            return
        ofport = physical_ofport(network, view.me.bridge_mappings, view)
        if ofport is None:
            yield Trouble(f"bridge {bridge} of physical network {network.physical_network} isn't joined to br-int")
            return
        entered = load(NETWORK, network.key), load(FROM_TUNNEL, 1)
        for vid in (
            (UNTAGGED, TAGGED) if tag == UNTAGGED else (tag,)
        ):  # a tag of VLAN 0 tells only a priority (IEEE 802.1Q)
            off = (PopVlan(),) if vid & TAGGED else ()
            yield Classification.physical.flow(
                10, match(in_port=ofport, vlan_vid=vid), *off, *entered, goto=External.arrival
            )
        yield Delivery.outside.flow(10, match((NETWORK, network.key), vlan_vid=UNTAGGED), *_out(tag, ofport))
        for kind in (GroupKind.FLOOD, GroupKind.UNKNOWN):
            yield Bucket(group_id(kind, network.key), _BUCKET, (Resubmit(Delivery.outside.number),))

    @renders(LogicalPort, only=lambda port, me: is_elsewhere(port, me) or is_a_routers(port, me))
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Place the ports of other chassis on the physical network, and send to them there; hide the MACs of routers from it."""
        network = view.get(LogicalSwitch, port.network)
        if network is None or not network.admin_up or (tag := tag_of(network)) is None:
            return
        ofport = physical_ofport(network, view.me.bridge_mappings, view)
        if ofport is None:
            return
        if is_a_routers(port, view.me) and keeper(port, network, view, view.me.chassis) != view.me.chassis:
            routed = match((NETWORK, network.key), eth_src=port.mac, vlan_vid=UNTAGGED)
            own = set_field(eth_src=chassis_mac(view.me.chassis))
            yield Delivery.outside.flow(20, routed, *own, *_out(tag, ofport))
        if port.chassis is None or port.chassis == view.me.chassis or not port.admin_up:
            return
        chassis = view.get(Chassis, port.chassis)
        if chassis is None:
            return
        if bridge_of(network, chassis.bridge_mappings) is None:
            yield Trouble(f"chassis {chassis.id} has no bridge for physical network {network.physical_network}")
            return
        yield Place(port.id, _behind(chassis.id, ofport))
        yield Delivery.delivery.flow(10, match((DESTINATION, port.key), (FROM_TUNNEL, 0)), goto=Delivery.outside)


@lru_cache(maxsize=4096)
def _out(tag: int, ofport: int) -> tuple[Action, ...]:
    on: tuple[Action, ...] = () if tag == UNTAGGED else (PushVlan(), *set_field(vlan_vid=tag))
    return (*on, Output(ofport))


@lru_cache(maxsize=4096)
def _behind(chassis: str, ofport: int) -> Remote:
    return Remote(chassis, ofport)
