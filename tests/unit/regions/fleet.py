"""Several regions in memory, and what tenants, operators and the orchestrator do with them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from dragonflow.regions.act import perform
from dragonflow.regions.agreement import Agreement, agree
from dragonflow.regions.claims import lost
from dragonflow.regions.cloud import Agent, CloudError, FixedIp, Network, Pool, Port, Rejected, SecurityGroup, Subnet
from dragonflow.regions.consent import Place, tag
from dragonflow.regions.plan import Plan, plan
from dragonflow.regions.view import OWNER, Home, Underlay, View, read
from dragonflow.testing.clouds import FakeCloud, eui64

V4, V6 = "192.0.2.0/24", "2001:db8::/64"
HOSTS = ("h1", "h2")


class Fleet:
    """Regions ``a``, ``b``, … which share a clock. Each has two chassis."""

    def __init__(self, *names: str) -> None:
        ticks = itertools.count(1)
        self._ids = itertools.count(1)
        self.clock = lambda: f"{next(ticks):012}"
        self.clouds = {name: FakeCloud(name, self.clock) for name in names}
        self.underlays = {name: Underlay() for name in names}
        for number, cloud in enumerate(self.clouds.values(), 1):
            for host, last in zip(HOSTS, (1, 2), strict=True):
                agent = Agent(id=f"agent-{host}", host=host, configurations={"tunneling_ip": f"198.51.{number}.{last}"})
                cloud.all_agents[host] = agent

    def new_id(self) -> str:
        return str(uuid.UUID(int=next(self._ids)))

    def network(self, region: str, *, vni: int = 7, **attributes: Any) -> Place:
        """A dual-stack network of a project of the region's; addresses of IPv6 follow from MACs."""
        cloud, project = self.clouds[region], f"project-{region}"
        values: dict[str, Any] = {"network_type": "geneve", "segmentation_id": vni, "mtu": 1442}
        made = Network(id=self.new_id(), project_id=project, **(values | attributes))
        cloud.all_networks[made.id] = made
        share = 10 * (ord(region) - ord("a")) + 10
        self.subnet(Place(region, made.id), V4, pool=(f"192.0.2.{share}", f"192.0.2.{share + 9}"))
        self.subnet(Place(region, made.id), V6)
        cloud.default_group(project)
        return Place(region, made.id)

    def subnet(self, place: Place, cidr: str, pool: tuple[str, str] | None = None, **attributes: Any) -> Subnet:
        six = ":" in cidr
        values: dict[str, Any] = {
            "ip_version": 6 if six else 4,
            "gateway_ip": cidr.partition("/")[0] + "1" if six else cidr.rpartition(".")[0] + ".1",
            "ipv6_address_mode": "slaac" if six else None,
            "ipv6_ra_mode": "slaac" if six else None,
            "allocation_pools": (Pool(*pool),) if pool else (),
        }
        made = Subnet(id=self.new_id(), network_id=place.network, cidr=cidr, **(values | attributes))
        self.clouds[place.region].all_subnets[made.id] = made
        return made

    def change_network(self, place: Place, **changes: Any) -> None:
        networks = self.clouds[place.region].all_networks
        networks[place.network] = msgspec.structs.replace(networks[place.network], **changes)

    def change_subnet(self, place: Place, of: str, **changes: Any) -> None:
        found = self.subnet_of(place, of)
        self.clouds[place.region].all_subnets[found.id] = msgspec.structs.replace(found, **changes)

    def subnet_of(self, place: Place, cidr: str) -> Subnet:
        subnets = self.clouds[place.region].all_subnets.values()
        return next(it for it in subnets if it.network_id == place.network and it.cidr == cidr)

    def name_each_other(self, *places: Place) -> None:
        """Each consents to all others."""
        for one, other in itertools.permutations(places, 2):
            self.consent(one, other)

    def consent(self, place: Place, peer: Place) -> None:
        tags = self.clouds[place.region].all_networks[place.network].tags
        self.change_network(place, tags=tuple({*tags, tag(peer)}))

    def leave(self, place: Place, peer: Place) -> None:
        tags = self.clouds[place.region].all_networks[place.network].tags
        self.change_network(place, tags=tuple(it for it in tags if it != tag(peer)))

    def port(self, place: Place, last: int, **attributes: Any) -> Port:
        """A VM's port with the address 192.0.2.``last`` and a MAC of it, both unless given."""
        cloud = self.clouds[place.region]
        mac = attributes.pop("mac_address", f"02:00:00:00:00:{last:02x}")
        fixed = [
            FixedIp(self.subnet_of(place, V4).id, f"192.0.2.{last}"),
            FixedIp(self.subnet_of(place, V6).id, eui64(V6, mac)),
        ]
        values: dict[str, Any] = {
            "project_id": cloud.all_networks[place.network].project_id,
            "device_owner": "compute:nova",
            "host": HOSTS[0],
            "status": "ACTIVE",
            "port_security_enabled": True,
            "security_groups": (cloud.default_group(cloud.all_networks[place.network].project_id),),
            "fixed_ips": tuple(fixed),
            "created_at": self.clock(),
            "name": f"vm{last}",
        }
        return cloud.plug(Port(id=self.new_id(), network_id=place.network, mac_address=mac, **(values | attributes)))

    def change(self, region: str, port: Port, **changes: Any) -> Port:
        cloud = self.clouds[region]
        return cloud.plug(msgspec.structs.replace(cloud.all_ports[port.id], **changes))

    def group(self, region: str, name: str) -> str:
        """A security group of the region's project."""
        made = SecurityGroup(id=self.new_id(), name=name, project_id=f"project-{region}")
        self.clouds[region].all_groups[made.id] = made
        return made.id

    # -- what the orchestrator does ------------------------------------------------------------------------------------

    def views(self) -> Mapping[str, View | None]:
        return {name: self._read(name) for name in self.clouds}

    def _read(self, name: str) -> View | None:
        try:
            return read(self.clouds[name], self.underlays[name])
        except CloudError:
            return None

    def agreement(self) -> Agreement:
        return agree(self.views())

    def plans(self) -> dict[str, Plan]:
        views = self.views()
        agreement = agree(views)
        losers = lost(views, agreement)
        return {name: plan(name, views, agreement, losers) for name, view in views.items() if view is not None}

    def round(self) -> bool:
        """Plan for all regions from what all hold, then do it. Returns whether there was nothing to do."""
        plans = self.plans()
        for name, each in plans.items():
            for step in each.steps:
                try:
                    perform(step, self.clouds[name])
                except Rejected:  # others go on, the next plan sees to it
                    continue
                except CloudError:
                    break
        return not any(each.steps for each in plans.values())

    def settle(self, rounds: int = 4) -> int:
        """Rounds until nothing is to be done. Returns how many there were."""
        for number in range(rounds):
            if self.round():
                return number
        raise AssertionError(f"still to be done after {rounds} rounds: {[it.steps for it in self.plans().values()]}")

    def announced(self, place: Place) -> dict[Home, Port]:
        """What is announced in a network; there must be no two for the same."""
        ports = [it for it in self.clouds[place.region].all_ports.values() if it.device_owner == OWNER]
        found = {Home.of(it.device_id) or Home("", it.id): it for it in ports if it.network_id == place.network}
        assert len(found) == sum(it.network_id == place.network for it in ports), "doubled"
        return found

    def foreign(self) -> dict[str, dict[str, Port]]:
        """All ports that are none of the orchestrator's."""
        return {
            name: {key: it for key, it in cloud.all_ports.items() if it.device_owner != OWNER}
            for name, cloud in self.clouds.items()
        }
