"""What chassis find of their tunnels to other regions, as Neutron shows it in their agents' ``configurations``. Pure.

::

    "remote_tunnels": {"198.51.100.7": {"up": true, "rtt_ms": 3.1, "mtu": 1500}}

So whoever may list Neutron's agents sees it, without a way into the DF DB: operators, and the orchestrator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dragonflow.model import TunnelState

ROOM = 4095
"""Characters that Neutron has for an agent's ``configurations``; one more, and its database refuses the agent altogether."""

RTT_CHANGE = 0.25
"""A round trip is told anew when it differs by more than this part of what was told, and by more than ``RTT_NOISE``."""

RTT_NOISE = 0.5
"""Milliseconds that mean nothing on a host that has something to do."""


class Tunnel(NamedTuple):
    """The tunnel to one VTEP, see ``TunnelState``; without the time, which alone is no news."""

    up: bool | None
    rtt_ms: float | None
    mtu: int | None


Tunnels = Mapping[str, Tunnel]
"""A chassis's tunnels by the VTEPs that they lead to."""


def by_chassis(rows: Iterable[TunnelState]) -> dict[str, dict[str, Tunnel]]:
    """The tunnels of each chassis that has any."""
    found: dict[str, dict[str, Tunnel]] = {}
    for row in rows:
        found.setdefault(row.chassis, {})[row.remote_ip] = Tunnel(row.up, row.rtt_ms, row.mtu)
    return found


def is_news(told: Tunnels, now: Tunnels) -> bool:
    """Whether ``now`` is worth a write to Neutron after ``told``: a round trip that takes a little longer isn't."""
    return told.keys() != now.keys() or any(_differs(told[vtep], tunnel) for vtep, tunnel in now.items())


def _differs(told: Tunnel, now: Tunnel) -> bool:
    if (told.up, told.mtu) != (now.up, now.mtu):
        return True
    if told.rtt_ms is None or now.rtt_ms is None:
        return told.rtt_ms is not now.rtt_ms
    return abs(told.rtt_ms - now.rtt_ms) > max(RTT_NOISE, RTT_CHANGE * told.rtt_ms)


def with_tunnels(configurations: Mapping[str, Any], tunnels: Tunnels) -> dict[str, Any]:
    """The configurations and as many of the tunnels as there is room for: first those that are down, last those that are up.

    How many had no room stands in ``remote_tunnels_left_out``.
    """
    if not tunnels:
        return dict(configurations)
    order = sorted(tunnels, key=lambda vtep: (tunnels[vtep].up is not False, tunnels[vtep].up is True, vtep))
    shown: dict[str, Any] = {}
    full = {**configurations, "remote_tunnels": shown, "remote_tunnels_left_out": len(tunnels)}
    room = ROOM - len(json.dumps(full))
    for vtep in order:
        tunnel = tunnels[vtep]._asdict()
        room -= len(
            json.dumps({vtep: tunnel})
        )  # two braces more than it takes, and two characters between two: the same
        if room < 0:
            break
        shown[vtep] = tunnel
    if len(shown) == len(tunnels):
        del full["remote_tunnels_left_out"]
    else:
        full["remote_tunnels_left_out"] = len(tunnels) - len(shown)
    return full
