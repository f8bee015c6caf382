"""What stands between the regions of a lab: their clouds.yaml, instances of the orchestrator, and a network that can be cut.

The regions' underlays meet in the fabric's namespace alone, which routes from one's subnet to the other's. So a cut is a routing
rule there, and goes with the namespace: packets are dropped without a word, as by a dead line or by a firewall.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dragonflow.lab import system
from dragonflow.lab.daemon import Daemon
from dragonflow.lab.host import subnet
from dragonflow.lab.process import Process, Server
from dragonflow.lab.region import Region
from dragonflow.lab.state import State
from dragonflow.lab.system import LabError, wait_until
from dragonflow.observe.control import ControlError, ask

CLOUDS = "clouds.yaml"
START_TIMEOUT = 60.0

ALL, TUNNELS = "all", "tunnels"
CUTS: Mapping[str, Sequence[str]] = {ALL: ("",), TUNNELS: ("udp", "gre")}
"""What of the traffic between two regions is dropped, by IP protocol. With ``tunnels`` a ping still passes: Geneve and VXLAN lie
in UDP, and BFD in them."""


class Cut(NamedTuple):
    """Two regions between which packets are dropped; ``what`` is a key of ``CUTS``."""

    regions: tuple[str, str]
    what: str


class Between:
    """What the regions of a lab have in common; ``netns`` is the fabric's."""

    def __init__(self, lab: State, home: Path, regions: Mapping[str, Region], netns: str) -> None:
        self._regions, self._netns = regions, netns
        self.clouds = home / CLOUDS
        self._directory = home / "orchestrators"
        count = lab.orchestrators
        names = ["orchestrator"] if count == 1 else [f"orchestrator-{number}" for number in range(1, count + 1)]
        self._daemons = [self._daemon(name, home) for name in names]
        self.processes: dict[str, Process] = {
            each.name: Server(each, lambda each=each: self._start(each))  # type: ignore[misc]
            for each in self._daemons
        }

    def _daemon(self, name: str, home: Path) -> Daemon:
        dragonflow = str(Path(sys.executable).with_name("dragonflow"))
        command = [dragonflow, "orchestrator", "--config-file", str(self._config(name))]
        return Daemon(name, home, self._directory, command)

    def _config(self, name: str) -> Path:
        return self._directory / f"{name}.conf"

    def control_socket(self, name: str) -> str:
        """Where an orchestrator answers questions."""
        return str(self._directory / f"{name}.sock")

    def up(self, progress: Callable[[str], None]) -> None:
        """Write the clouds.yaml, and start the orchestrators; the regions must be up."""
        self.clouds.write_text(_clouds_yaml(self._regions.values()))
        for daemon in self._daemons:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._config(daemon.name).write_text(self._settings(daemon.name))
            self._start(daemon)
            progress(f"{daemon.name} works for {system.listed(self._regions)}")

    def _start(self, daemon: Daemon) -> None:
        daemon.start()

        def answers() -> bool:
            daemon.expect_alive()
            try:
                ask(self.control_socket(daemon.name), "status")
            except ControlError:
                return False
            return True

        wait_until(answers, f"{daemon.name} to answer", START_TIMEOUT, 0.1)

    def _settings(self, name: str) -> str:
        """An orchestrator's configuration."""
        return f"[df]\ncontrol_socket = {self.control_socket(name)}\n"

    def roles(self) -> dict[str, str]:
        """Which orchestrator leads now; none that says so, none is named."""
        found = {}
        for name in self.processes:
            with contextlib.suppress(ControlError):
                if ask(self.control_socket(name), "status").get("leads"):
                    found[name] = "leader"
        return found

    def down(self) -> None:
        """End the orchestrators."""
        for daemon in self._daemons:
            daemon.kill()

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
