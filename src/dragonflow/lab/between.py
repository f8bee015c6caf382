"""What stands between the regions of a lab: their clouds.yaml, instances of the orchestrator, and a network that can be cut.

The regions' underlays meet in the fabric's namespace alone, which routes from one's subnet to the other's. So a cut is a routing
rule there, and goes with the namespace: packets are dropped without a word, as by a dead line or by a firewall.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from dragonflow import secrecy
from dragonflow.lab import system
from dragonflow.lab.daemon import Daemon
from dragonflow.lab.host import subnet
from dragonflow.lab.process import Process, Server
from dragonflow.lab.region import Region
from dragonflow.lab.state import State
from dragonflow.lab.system import LabError, wait_until

CLOUDS = "clouds.yaml"
START_TIMEOUT = 60.0
PERIOD = 1.0
"""Seconds between two looks of an orchestrator at a region."""


ALL, TUNNELS = "all", "tunnels"
CUTS: Mapping[str, Sequence[str]] = {ALL: ("",), TUNNELS: ("udp", "gre")}
"""What of the traffic between two regions is dropped, by IP protocol. With ``tunnels`` a ping still passes: Geneve and VXLAN lie
in UDP, and BFD in them."""


class Cut(NamedTuple):
    """Two regions between which packets are dropped; ``what`` is a key of ``CUTS``."""

    regions: tuple[str, str]
    what: str


class Orchestrator:
    """One instance: its process, and where it answers."""

    def __init__(self, name: str, port: int, home: Path, directory: Path) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.config = directory / f"{name}.conf"
        dragonflow = str(Path(sys.executable).with_name("dragonflow"))
        command = [dragonflow, "orchestrator", "--config-file", str(self.config)]
        self.daemon = Daemon(name, home, directory, command)

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.daemon.start()
        wait_until(self._answers, f"{self.daemon.name} to answer", START_TIMEOUT, 0.1)

    def _answers(self) -> bool:
        self.daemon.expect_alive()
        return bool(self.status())

    def status(self) -> dict[str, Any]:
        """What it says of itself and of the regions; nothing if it doesn't answer."""
        try:
            answer: dict[str, Any] = httpx.get(f"{self.url}/status", timeout=5).json()
        except httpx.HTTPError:
            return {}
        return answer


class Between:
    """What the regions of a lab have in common; ``netns`` is the fabric's."""

    def __init__(self, lab: State, home: Path, regions: Mapping[str, Region], netns: str) -> None:
        self._regions, self._netns = regions, netns
        self.clouds = home / CLOUDS
        self._directory = home / "orchestrators"
        ports = lab.orchestrator_ports
        names = (
            ["orchestrator"] if len(ports) == 1 else [f"orchestrator-{number}" for number in range(1, len(ports) + 1)]
        )
        self._orchestrators = [Orchestrator(*each, home, self._directory) for each in zip(names, ports, strict=True)]
        self.processes: dict[str, Process] = {
            each.daemon.name: Server(each.daemon, each.start) for each in self._orchestrators
        }

    def up(self, progress: Callable[[str], None]) -> None:
        """Write the clouds.yaml, and start the orchestrators; the regions must be up."""
        secrecy.write(self.clouds, _clouds_yaml(self._regions.values()).encode())
        self._directory.mkdir(parents=True, exist_ok=True)
        for each in self._orchestrators:
            each.config.write_text(f"[orchestrator]\n{self._settings}status_address = 127.0.0.1:{each.port}\n")
            each.start()
            progress(f"{each.daemon.name} works for {system.listed(self._regions)}; it answers at {each.url}/status")

    @property
    def _settings(self) -> str:
        """What all orchestrators share of their group of options."""
        election = (
            f"election = sqlite://{self._directory / 'election.sqlite'}\n" if len(self._orchestrators) > 1 else ""
        )
        hints = "".join(
            f"hints = {name} {region.settings['pubsub_url']} {region.store.url}\n"
            for name, region in self._regions.items()
        )
        return f"regions = {','.join(self._regions)}\nclouds_file = {self.clouds}\nperiod = {PERIOD}\n{election}{hints}"

    @property
    def config(self) -> Path | None:
        """The configuration of the first orchestrator, which ``dragonflow stretch`` reads too."""
        return self._orchestrators[0].config if self._orchestrators else None

    def roles(self) -> dict[str, str]:
        """Which orchestrator leads now."""
        return {each.daemon.name: "leader" for each in self._orchestrators if each.status().get("leads")}

    def down(self) -> None:
        """End the orchestrators."""
        for each in self._orchestrators:
            each.daemon.kill()

    # The network between the regions

    def sever(self, one: Region, other: Region, what: str = ALL) -> None:
        """Drop what goes from one region's underlay to the other's, both ways; a cut that there was is replaced.

        :raises LabError: it is one and the same region, or ``what`` is no kind of cut.
        """
        if what not in CUTS:
            raise LabError(f"no way {what!r} to cut two regions apart; there are: {system.listed(CUTS)}")
        if one is other:
            raise LabError(f"{one.name} can't be cut off from itself")
        self.rejoin(one, other)
        system.ip(
            self._netns,
            *(
                f"rule add from {subnet(a.index)} to {subnet(b.index)} {f'ipproto {protocol}' if protocol else ''} blackhole"
                for a, b in ((one, other), (other, one))
                for protocol in CUTS[what]
            ),
        )

    def rejoin(self, one: Region, other: Region) -> None:
        """Let everything pass again between two regions."""
        pair = {one.index, other.index}
        for rule in self._rules():
            if {rule["a"], rule["b"]} == pair:
                protocol = f"ipproto {rule['ipproto']}" if rule["ipproto"] else ""
                system.ip(self._netns, f"rule del from {subnet(rule['a'])} to {subnet(rule['b'])} {protocol} blackhole")

    def cuts(self) -> list[Cut]:
        """Which regions are cut apart now."""
        names = {region.index: name for name, region in self._regions.items()}
        found = {
            Cut((names[rule["a"]], names[rule["b"]]), TUNNELS if rule["ipproto"] else ALL)
            for rule in self._rules()
            if rule["a"] < rule["b"]
        }
        return sorted(found)

    def _rules(self) -> list[dict[str, Any]]:
        """Our rules, with the regions' indices as ``a`` and ``b``."""
        by_subnet = {subnet(region.index).partition("/")[0]: region.index for region in self._regions.values()}
        rules = json.loads(system.run(["ip", "-n", self._netns, "-json", "rule"]))
        return [
            {"a": by_subnet[rule["src"]], "b": by_subnet[rule["dst"]], "ipproto": rule.get("ipproto")}
            for rule in rules
            if rule.get("action") == "blackhole"
        ]


def _clouds_yaml(regions: Iterable[Region]) -> str:
    """One cloud a region, as openstacksdk and ``openstack --os-cloud`` take it: Neutron alone, which asks for no token here."""
    clouds = "".join(
        f"  {region.name}:\n    auth_type: none\n    auth:\n      endpoint: {region.neutron.url}\n"
        for region in regions
    )
    return f"clouds:\n{clouds}"
