"""What one region holds, as far as stretched networks are concerned: read by its API, and planned upon."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from dragonflow.regions.cloud import Network, Port, RegionApi, SecurityGroup, Subnet
from dragonflow.regions.consent import former_mtu_tags, peers

OWNER = "dragonflow:remote_port"
"""The ``device_owner`` of announced ports. Ports of any other are never touched."""


class Home(NamedTuple):
    """The port that an announced one stands for."""

    region: str
    port: str

    @classmethod
    def of(cls, device_id: str) -> Home | None:
        """From an announced port's ``device_id``; None if that says nothing."""
        region, _, port = device_id.partition("/")
        return cls(region, port) if region and port else None

    def __str__(self) -> str:
        return f"{self.region}/{self.port}"


class Underlay(msgspec.Struct, frozen=True):
    """What the operator says of the way between a region's chassis and those of others.

    ``path_mtu`` is the size in bytes of the largest IP packet that passes; None: any. ``ipsec``: tunnels to others are encrypted.
    """

    path_mtu: int | None = None
    ipsec: bool = False


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A region at one time."""

    networks: Mapping[str, Network] = {}
    """Those that name a peer, or keep a former MTU."""
    subnets: Mapping[str, Subnet] = {}
    """Of those networks."""
    ports: tuple[Port, ...] = ()
    """The region's own ports in those networks."""
    announced: tuple[Port, ...] = ()
    """Ports of other regions, in whatever network."""
    vteps: Mapping[str, str] = {}
    """Each chassis' tunnel address."""
    groups: tuple[SecurityGroup, ...] = ()
    """Of the projects of those networks and ports."""
    underlay: Underlay = Underlay()

    @property
    def holdings(self) -> tuple[object, ...]:
        """What the region holds of its own: all but what is announced in it."""
        return self.networks, self.subnets, self.ports, self.vteps, self.groups, self.underlay

    @property
    def has_strays(self) -> bool:
        """Whether anything is announced in a network that bears no marks."""
        return any(it.network_id not in self.networks for it in self.announced)


def read(api: RegionApi, underlay: Underlay, settled: Collection[str] | None = None) -> View:
    """Read a region. Subnets, groups and chassis are read after the ports that name them, so they are there.

    Announced ports in other networks than the marked ones are strays, and asked for, unless the marked ones are ``settled``:
    those of an earlier view, in which there were no strays.

    :raises CloudError: nothing is known of the region then, as far as the caller is concerned.
    """
    marked = {it.id: it for it in api.networks() if any(peers(it.tags)) or former_mtu_tags(it.tags)}
    found = {it.id: it for it in api.ports(network_id=list(marked))}
    if settled is None or marked.keys() != set(settled):
        found |= {it.id: it for it in api.ports(device_owner=OWNER)}
    ports = sorted(found.values(), key=_by_id)
    projects = ({it.project_id for it in marked.values()} | {it.project_id for it in ports}) - {""}
    return View(
        networks=marked,
        subnets={it.id: it for it in api.subnets(network_id=list(marked))},
        ports=tuple(it for it in ports if it.device_owner != OWNER),
        announced=tuple(it for it in ports if it.device_owner == OWNER),
        groups=tuple(sorted(api.security_groups(project_id=projects), key=_by_id)),
        vteps={agent.host: agent.tunnel_ip for agent in api.agents() if agent.tunnel_ip} if marked else {},
        underlay=underlay,
    )


def _by_id(each: Port | SecurityGroup) -> str:
    return each.id
