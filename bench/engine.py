"""What the engine costs: a cold start, one rebind and one plug with 100, 1,000 and 10,000 ports known; memory with 20,000.

    python bench/engine.py

No switch takes part: facts go into the ledger, which encodes them, and are taken as confirmed. Rows are made here: one Geneve
network of dual-stack ports over 100 chassis, ten of them plugged in here, all in a security group like Neutron's default.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from dragonflow.apps import APPS
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Replica
from dragonflow.model import FixedIP, GroupMember, LogicalPort, Row, SecurityGroup, SecurityRule, decode, encode
from dragonflow.switch.ledger import Ledger
from dragonflow.testing import worlds

CHASSIS, PLUGGED, REPEATS = 100, 10, 200
GROUP = "5a0c62c4-9c2b-4b43-9d6c-3c1f2a7be1f0"
DEFAULT = (
    *(SecurityRule("egress", version) for version in (4, 6)),
    *(SecurityRule("ingress", version, remote_group=GROUP) for version in (4, 6)),
)
"""The rules of Neutron's default group: all ports are in it."""


def rows(count: int) -> list[Row]:
    """The rows as they come out of a store: each decoded from bytes of its own."""
    made: list[Row] = [worlds.chassis(f"chassis-{number}", f"10.255.0.{number + 1}") for number in range(CHASSIS)]
    made.append(worlds.network(key=1))
    made.append(SecurityGroup(id=GROUP, rules=DEFAULT, revision=1))
    for number in range(count):
        on = "here" if number < PLUGGED else f"chassis-{number % CHASSIS}"
        octets = number.to_bytes(3, "big")
        made.append(
            port := LogicalPort(
                id=f"{number:08x}-5d0c-4b43-9d6c-3c1f2a7be1f0",
                key=number + 1,
                network="net",
                name=f"vm-{number}",
                project="6f70656e737461636b",
                mac=f"fa:16:3e:{octets.hex(':')}",
                fixed_ips=(
                    FixedIP("v4", f"10.{octets[0]}.{octets[1]}.{octets[2]}"),
                    FixedIP("v6", f"fd00::{number:x}"),
                ),
                device_id=f"{number:08x}-0000-4b43-9d6c-3c1f2a7be1f0",
                device_owner="compute:nova",
                chassis=on,
                vif_type="ovs",
                vnic_type="normal",
                security_groups=(GROUP,),
                revision=4,
            )
        )
        made.append(GroupMember(id=f"{GROUP}/{port.id}", group=GROUP, port=port.id, addresses=port.ips))
        if number < PLUGGED:
            made += worlds.bindings(port)
    return [decode(type(row).__name__, row.id, encode(row)) for row in made]


class Rig:
    """Replica, engine and ledger with ``count`` ports known."""

    def __init__(self, count: int) -> None:
        self.replica = Replica()
        self.engine = Engine(APPS, self.replica, worlds.ME)
        self.ledger = Ledger(time.time)
        self.revision = 1
        known = rows(count)
        self.ports = [row for row in known if isinstance(row, LogicalPort)]
        for scope in sorted({row.scope for row in known}):
            self.replica.reset_scope(scope, [(row, 1) for row in known if row.scope == scope], 1)
        self.replica.upsert_port(worlds.tunnel_port())
        for number, port in enumerate(self.ports[:PLUGGED]):
            self.replica.upsert_port(worlds.tap(port.id, number + 1))

    def render(self) -> None:
        self.settled = self.engine.settle()

    def encode(self) -> None:
        for owner, facts in self.settled.facts.items():
            self.ledger.set(owner, facts)

    def difference(self) -> None:
        difference = self.ledger.difference()
        self.ledger.confirm((*difference.before, *difference.bundle, *difference.after))

    def turn(self) -> None:
        """All that the controller does in one turn, but for the switch."""
        self.engine.settle(self.ledger.set)
        self.difference()

    def rebind(self, number: int) -> None:
        port = self.ports[PLUGGED + number]
        self.revision += 1
        self.replica.upsert(msgspec.structs.replace(port, chassis=f"chassis-{(number + 7) % CHASSIS}"), self.revision)

    def plug(self, number: int) -> None:
        self.replica.upsert_port(worlds.tap(self.ports[number % PLUGGED].id, 1000 + number))


def seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def each(prepare: Callable[[int], None], action: Callable[[], None], times: int) -> Sequence[float]:
    taken = []
    for number in range(times):
        prepare(number)
        taken.append(seconds(action))
    return taken


def figures(taken: Sequence[float]) -> str:
    ordered = sorted(taken)
    return f"p50 {statistics.median(ordered) * 1e3:6.2f} ms, p99 {ordered[len(ordered) * 99 // 100] * 1e3:6.2f} ms"


def speed() -> None:
    medians = {}
    for count in (100, 1_000, 10_000):
        rig = Rig(count)
        cold, encoded, differed = seconds(rig.render), seconds(rig.encode), seconds(rig.difference)
        facts = sum(map(len, rig.settled.facts.values()))
        print(
            f"{count:6} ports: cold {cold:.3f} s for {facts} facts; ledger {encoded:.3f} s, difference {differed:.3f} s"
        )
        rebinds = each(rig.rebind, rig.turn, min(REPEATS, count - PLUGGED))
        plugs = each(rig.plug, rig.turn, REPEATS)
        medians[count] = statistics.median(rebinds), statistics.median(plugs)
        print(f"              rebind {figures(rebinds)}; plug {figures(plugs)}")
    (rebind, plug), (small_rebind, small_plug) = medians[10_000], medians[100]
    print(f"10,000 against 100 ports known: rebind x {rebind / small_rebind:.2f}, plug x {plug / small_plug:.2f}")


def resident() -> float:
    """This process's resident memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory() -> None:
    """To be run in a process of its own: what an earlier bench left would count."""
    before = resident()
    rig = Rig(20_000)
    rig.turn()
    rig.ports = []
    print(f"20,000 ports: {resident():.0f} MB resident, of which {before:.0f} MB before the first row")


def main() -> None:
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    speed()
    subprocess.run([sys.executable, __file__, "memory"], check=True)


if __name__ == "__main__":
    memory() if "memory" in sys.argv else main()
