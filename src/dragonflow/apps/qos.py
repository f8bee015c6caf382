"""What a port may send and get (bandwidth), and how its packets are marked (DSCP): the rules of its QoS policy.

A limit is a meter of the port's own, so ports that share a policy don't share its bandwidth, and a change of a policy's figures
changes meters alone. What a port sends counts where it is classified, before anything is answered or routed; what it gets,
where it is delivered, whoever sends it. A trunk's parent and its children count each by itself, without their tags.

What exceeds a limit is dropped, not queued (RFC 2475 calls that policing): TCP finds its rate, but needs a burst to do so. DSCP
is written into what a port sends, IPv4 and IPv6, whatever was there before.

A floating IP under a policy (Neutron's ``qos-fip``) has meters of its own, which stand in the flows that translate (``dnat``).
Its packets count under its guest's port too. Marks aren't for floating IPs, as with Neutron's own agents.

Cost on the port's own chassis: a limit in one direction is 1 meter; what is sent has 1 flow with a limit, and 2 with marks (3
with both); what it gets has 2 with a limit. A port without a policy has none. A floating
IP's limit is 1 meter a direction and no flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dragonflow.apps.base import App, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.shared import Shared
from dragonflow.apps.wiring import is_here, qos_policy
from dragonflow.controller.view import View
from dragonflow.model import BandwidthLimit, LogicalPort, LogicalSwitch, QosPolicy
from dragonflow.pipeline import (
    DESTINATION,
    SOURCE,
    Action,
    ApplyMeter,
    Clone,
    Fact,
    Local,
    Meter,
    Resubmit,
    Stage,
    Table,
    load,
    match,
    set_field,
)
from dragonflow.pipeline.registers import LIMITED

_IP = (0x0800, 0x86DD)
_SENT, _GOT = 1 << 30, 1 << 31
"""The ids of meters: a port's key (30 bits), and above it the direction. Those of punted packets lie below."""

_NOT_BACK, _LIMIT = 20, 15
"""Above plain delivery (10)."""


class Qos(App):
    """Carries out the QoS policies of this chassis's ports."""

    name = "qos"

    sent = Table(
        "qos",
        Stage.QOS,
        purpose="Hold what a port sends to its bandwidth limit, and mark it.",
        matches=(SOURCE, "eth_type"),
        next=(Shared.heard,),
        miss=Shared.heard,
    )

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Of a port that is here, what its policy says."""
        where = view.locality(port.id)
        if not isinstance(where, Local):
            return
        name = qos_policy(port, view.get(LogicalSwitch, port.network))
        policy = None if name is None else view.get(QosPolicy, name)
        if policy is None:
            return
        sent, got = limits(port, policy)
        yield from (*sent, *got)
        limit = held(sent)
        if limit:
            yield self.sent.flow(10, match((SOURCE, port.key)), *limit, goto=Shared.heard)
        if policy.dscp is not None:
            for eth_type in _IP:
                marked = match((SOURCE, port.key), eth_type=eth_type)
                yield self.sent.flow(20, marked, *limit, *set_field(ip_dscp=policy.dscp), goto=Shared.heard)
        if got:
            count = *held(got), load(LIMITED, 1), Resubmit(Delivery.delivery.number)
            # A clone, for a meter that drops this port's copy of a flood mustn't take those of the ports after it.
            yield Delivery.delivery.flow(_LIMIT, match((DESTINATION, port.key), (LIMITED, 0)), Clone(count))
            if not port.trunked:  # its copy of what it floods goes nowhere, so it mustn't count
                own = match((DESTINATION, port.key), (SOURCE, port.key), in_port=where.ofport)
                yield Delivery.delivery.flow(_NOT_BACK, own)


class Limits(NamedTuple):
    """The meters of what a port sends and of what it gets: none or one each."""

    sent: tuple[Meter, ...] = ()
    got: tuple[Meter, ...] = ()


def limits(port: LogicalPort, policy: QosPolicy | None) -> Limits:
    """The port's own meters under the policy. Those of a floating IP's port are the floating IP's, which ``dnat`` applies."""
    if policy is None:
        return Limits()
    return Limits(_meters(_SENT, port, policy.egress), _meters(_GOT, port, policy.ingress))


def held(meters: tuple[Meter, ...]) -> tuple[Action, ...]:
    """Drop what exceeds the limit."""
    return tuple(ApplyMeter(meter.id) for meter in meters)


def _meters(direction: int, port: LogicalPort, limit: BandwidthLimit | None) -> tuple[Meter, ...]:
    return () if limit is None else (Meter(direction | port.key, limit.rate, limit.burst, bits=True),)
