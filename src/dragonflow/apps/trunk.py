"""Trunks: one interface carries frames of several ports, told apart by their VLAN tags (Neutron's ``trunk`` extension).

What comes untagged is the parent port's; a child's frames bear its tag, which is taken off on their way in and put on again on
their way out. In between a child is a port as any other, in whatever network: DHCP, routers and floods know nothing of tags.

- What bears a tag of no child is nobody's. It is not taken for the parent's, and no tagged frame is handed to a parent: the
  guest would take it for one of a child's network.
- Several ports behind one OpenFlow port reach each other. Open vSwitch drops what would leave where it came in, so delivery
  forgets the port; that nothing returns to its sender is seen to here, by the port's key.
- A child is where its own row says, which follows its parent's, if the parent is wired there, be it only prepared (see
  ``wiring``). In a live migration the rows of parent and child change one after the other, in either order; the parent's
  interface carries the child on both chassis throughout, so no packet is lost in between.

Cost in flows, on the parent's chassis alone: a parent has 4 where another port has 2 (to classify and to deliver), a child 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dragonflow.apps.base import App, renders
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.firewall.guard import Guard
from dragonflow.apps.wiring import is_standby, wired
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, LogicalSwitch
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    SOURCE,
    Action,
    Bits,
    Fact,
    Local,
    Output,
    Place,
    PopVlan,
    PushVlan,
    Trouble,
    load,
    match,
    set_field,
)
from dragonflow.pipeline.action import FORGET_PORT

_PRESENT = 0x1000
"""The bit of ``vlan_vid`` that says that there is a tag (OFPVID_PRESENT); 0 in all is no tag."""

_CHILD, _OTHER_TAG = 40, 30
_NOT_BACK, _DELIVER = 20, 10


class Trunk(App):
    """Children of trunks, and what is different for their parents."""

    name = "trunk"
    places = "children of trunks whose parent port is wired on this chassis"

    @renders(LogicalPort, only=lambda port, _: port.trunked)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Of a child its place and all that carries its frames; of a parent what keeps the children's frames apart."""
        ofport, network = wired(port, view.me.chassis, view), view.get(LogicalSwitch, port.network)
        if ofport is None or network is None:
            return
        if port.parent is None:
            yield Classification.ports.flow(_OTHER_TAG, match(in_port=ofport, vlan_vid=(_PRESENT, _PRESENT)))
            yield from self._deliver(port, ofport, view, (Output(ofport),), vlan_vid=0)
            return
        if port.vlan is None:
            yield Trouble("it is a trunk's child without a VLAN tag")
            return
        if port.chassis == view.me.chassis:
            yield Place(port.id, Local(ofport, port.vlan))
        tag = _PRESENT | port.vlan
        yield Classification.ports.flow(
            _CHILD,
            match(in_port=ofport, vlan_vid=tag),
            PopVlan(),
            load(SOURCE, port.key),
            load(NETWORK, network.key),
            goto=Guard.claims,
        )
        yield from self._deliver(port, ofport, view, (PushVlan(), *set_field(vlan_vid=tag), Output(ofport)))

    @staticmethod
    def _deliver(port: LogicalPort, ofport: int, view: View, out: tuple[Action, ...], **fields: Any) -> Iterator[Fact]:
        """Hand frames over; but to no port its own, unless routed or answered: these have no ``in_port`` any more."""
        to: tuple[Bits, int] = (DESTINATION, port.key)
        where = (to, (FROM_TUNNEL, 1)) if is_standby(port, view.me.chassis) else (to,)
        yield Delivery.delivery.flow(_DELIVER, match(*where, **fields), FORGET_PORT, *out)
        yield Delivery.delivery.flow(_NOT_BACK, match(to, (SOURCE, port.key), in_port=ofport))
