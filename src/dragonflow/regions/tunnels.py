"""Tunnels between regions, as the chassis at their ends find them: told in the agents' configurations (``remote_tunnels``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dragonflow.regions.agreement import HEADERS
from dragonflow.regions.cloud import Agent
from dragonflow.regions.reading import Reading
from dragonflow.regions.view import View


class Tunnel(NamedTuple):
    """How a chassis finds its tunnel to a chassis of another region.

    ``up`` is what BFD says, and None where it has said nothing yet; ``rtt_ms`` and ``mtu`` (bytes of an IP packet) are of the
    path. ``needs`` is the largest IP packet that the networks on it can make.
    """

    region: str
    host: str
    remote_region: str | None
    remote_ip: str
    up: bool | None
    rtt_ms: float | None
    mtu: int | None
    needs: int

    def __str__(self) -> str:
        return f"{self.region} {self.host} to {self.remote_region or 'no region that is known'} {self.remote_ip}"


def tunnels(reading: Reading) -> list[Tunnel]:
    """All tunnels between regions, as their ends that are alive see them."""
    owners = {
        vtep: region.name
        for region in reading.regions.values()
        if region.view is not None
        for vtep in region.view.vteps.values()
    }
    return [
        Tunnel(region.name, agent.host, owners.get(ip), ip, *state, _needs(region.view, ip))
        for region in reading.regions.values()
        if region.view is not None
        for agent in sorted(region.agents, key=lambda agent: agent.host)
        if agent.alive
        for ip, state in _states(agent)
    ]


def _states(agent: Agent) -> Iterator[tuple[str, tuple[bool | None, float | None, int | None]]]:
    found = agent.configurations.get("remote_tunnels")
    for ip, state in sorted(found.items()) if isinstance(found, dict) else ():
        yield ip, (state.get("up"), state.get("rtt_ms"), state.get("mtu"))


def _needs(view: View, remote_ip: str) -> int:
    outer = 40 if ":" in remote_ip else 20
    sizes = [
        network.mtu + outer + HEADERS[kind]
        for port in view.announced
        if port.profile.get("host_ip") == remote_ip and (network := view.networks.get(port.network_id)) is not None
        if (kind := port.profile.get("network_type", network.network_type)) in HEADERS
    ]
    return max(sizes, default=0)
