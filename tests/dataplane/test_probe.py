"""Ports that prove themselves on a real Open vSwitch, and what is said of them when somebody meddles with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chassis import BRIDGE, TestChassis, chassis
from test_apps import across

from dragonflow.controller import proof
from dragonflow.controller.probe import Mode, Planner
from dragonflow.controller.proof import Prover
from dragonflow.controller.report import Claim, claims
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Binding, FixedIP, LogicalPort, OvsPort
from dragonflow.switch.unixctl import Unixctl
from dragonflow.testing import worlds


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at ports that are proven already every 0.1 s instead of every second."""
    monkeypatch.setattr(proof, "_ROUND", 0.1)


class Proving:
    """As much of the controller as claims, proves and mends, on a chassis with ports a and b here and c there."""

    def __init__(self, here: TestChassis, mode: Mode = "tunnelled", control: str | None = None) -> None:
        self.here = here
        self.said: dict[str, Claim] = {}
        self.history: list[dict[str, Claim]] = []
        self._told = asyncio.Event()
        self._doubted = asyncio.Event()
        unixctl = Unixctl(f"unix:{here.vswitch.db_sock}", control)
        planner = Planner(here.replica, here.engine.locality, here.me, mode)
        self.prover = Prover(
            unixctl,
            BRIDGE,
            planner,
            here.replica,
            on_verdicts=self._tell,
            on_fault=self._doubted.set,
            now=lambda: 0.0,
        )

    def _tell(self) -> None:
        self.history.append(self.prover.gate(self.said))
        self._told.set()

    async def settle(self) -> None:
        self.prover.unsettled()
        self.here.engine.settle(self.here.switch.want)
        synced = await self.here.switch.sync()
        self.said = claims(self.here.me, self.here.replica, self.here.engine.locality)
        self.prover.settled(self.said, self.here.switch.connections, changed=synced.mods > 0)
        self._tell()

    async def until(self, **statuses: str) -> dict[str, Claim]:
        """Until these are the statuses that may be told."""
        async with asyncio.timeout(10):
            while True:
                told = self.prover.gate(self.said)
                if {port: claim.status for port, claim in told.items()} == statuses:
                    return told
                self._told.clear()
                await self._told.wait()

    async def mend(self) -> None:
        """What the controller does when it is told of a fault."""
        async with asyncio.timeout(10):
            await self._doubted.wait()
        self._doubted.clear()
        self.here.switch.doubt()
        await self.settle()


@contextlib.asynccontextmanager
async def proving(vswitch: VSwitch, mode: Mode = "tunnelled", control: str | None = None) -> AsyncIterator[Proving]:
    async with chassis(vswitch) as here:
        await across(here)
        await here.now(*(Binding(id=name, host="here", network="net", generation=0) for name in ("a", "b")))
        it = Proving(here, mode, control)
        running = asyncio.create_task(it.prover.run())
        try:
            await it.settle()
            yield it
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_healthy_ports_are_proven_and_nothing_is_said_before(vswitch: VSwitch) -> None:
    async with proving(vswitch) as it:
        assert it.history[0] == {}
        assert it.prover.awaited
        await it.until(a="ACTIVE", b="ACTIVE")
        assert not it.prover.awaited
        assert it.prover.status()["proven"] == 2
        probe = it.prover.of("a")
        assert probe is not None
        assert (probe["verdict"], probe["trace"]) == ("proven", [])


@pytest.mark.parametrize(
    ("sabotage", "says"),
    [
        (("del-flows", "table=192,reg7=0xb"), 'dropped in table delivery (192) by the flow "priority 0"'),
        (("add-flow", "table=96,priority=60000,arp,dl_dst=02:00:00:00:00:0b,actions=drop"), "table l2_lookup (96)"),
        (("add-flow", "table=0,priority=60000,in_port=1,actions=drop"), "table ports (0)"),
        (
            ("mod-flows", "table=192,reg7=0xb,actions=output:2"),
            "came out at OpenFlow port 2 instead of OpenFlow port 1",
        ),
        (("add-flow", "table=1,priority=60000,actions=set_field:99->metadata,goto_table:96"), "l2_lookup (96)"),
        (("del-flows", "table=0"), "table ports (0)"),
        (("del-flows", "table=9,reg6=0xb"), "table guard (9)"),
    ],
)
async def test_a_port_with_a_broken_pipeline_is_down_until_it_is_mended(
    vswitch: VSwitch, sabotage: tuple[str, str], says: str
) -> None:
    async with proving(vswitch) as it:
        await it.until(a="ACTIVE", b="ACTIVE")
        vswitch.ofctl(sabotage[0], BRIDGE, sabotage[1])
        async with asyncio.timeout(10):
            while (claim := it.prover.gate(it.said)["a"]).status == "ACTIVE":
                await asyncio.sleep(0.01)
        assert claim.reason.startswith("probe failed: a packet ")
        assert says in claim.reason
        if "add-flow" in sabotage and "drop" in sabotage[1]:
            assert "which is not Dragonflow's" in claim.reason
        probe = it.prover.of("a")
        assert probe is not None
        assert probe["trace"]
        await it.mend()
        await it.until(a="ACTIVE", b="ACTIVE")


KINDS = (
    worlds.port("v6", 21, fixed_ips=(FixedIP("v6", "fd00::e"),)),
    worlds.port("bare", 22, fixed_ips=()),
    worlds.port("open", 23, port_security=False),
    worlds.port("alone", 24, net="solo"),
    worlds.port("standby", 25, on="there", standby=("here",)),
    worlds.port("lone-standby", 26, on="there", standby=("here",), net="solo2"),
)


async def test_every_kind_of_port_is_proven_and_found_broken(vswitch: VSwitch) -> None:
    async with proving(vswitch) as it:
        bindings = [
            Binding(id=row.id, host="here", network=row.network, generation=0, active=row.chassis == "here")
            for row in KINDS
        ]
        await it.here.now(worlds.network("solo", 2), worlds.network("solo2", 3), *KINDS, *bindings)
        for row in KINDS:
            options = ("type=internal", f"external_ids:iface-id={row.id}")
            vswitch.vsctl("add-port", BRIDGE, f"t{row.key}", "--", "set", "Interface", f"t{row.key}", *options)
        everything = dict.fromkeys(("a", "b", *(row.id for row in KINDS)), "ACTIVE")
        await it.here.until(lambda: all(_wired(it.here, row) for row in KINDS))
        await it.settle()
        await it.until(**everything)
        assert it.prover.status()["proven"] == len(everything)
        for table in ("table=96", "table=0"):
            vswitch.ofctl("del-flows", BRIDGE, table)
            async with asyncio.timeout(20):
                for port in everything:
                    while it.prover.gate(it.said)[port].status == "ACTIVE":
                        await asyncio.sleep(0.01)
            await it.mend()
            await it.until(**everything)


def _wired(here: TestChassis, row: LogicalPort) -> bool:
    return any(interface.ofport is not None for interface in here.replica.where(OvsPort, iface_id=row.id))


async def test_while_the_switch_changes_ports_are_proven_but_no_fault_is_found(vswitch: VSwitch) -> None:
    """In a storm of changes the switch is hardly ever quiet; what is missing then is on its way."""
    async with proving(vswitch) as it:
        it.prover.unsettled()
        await it.until(a="ACTIVE", b="ACTIVE")
        vswitch.ofctl("del-flows", BRIDGE, "table=96")
        await it.here.now(worlds.port("a", 11, device_id="other"))
        it.said = claims(it.here.me, it.here.replica, it.here.engine.locality)
        it.prover.settled(it.said, it.here.switch.connections, changed=True)
        it.prover.unsettled()
        await asyncio.sleep(0.3)
        assert it.prover.status()["failed"] == 0
        assert set(it.prover.gate(it.said)) == {"b"}
        it.prover.settled(it.said, it.here.switch.connections, changed=False)
        await it.until(a="DOWN", b="ACTIVE")
        await it.mend()
        await it.until(a="ACTIVE", b="ACTIVE")


async def test_a_switch_that_never_rests_keeps_nobody_waiting(vswitch: VSwitch) -> None:
    """A packet that went wrong while things moved is sent again, and again, though they never stop."""
    async with proving(vswitch) as it:
        await it.until(a="ACTIVE", b="ACTIVE")
        it.prover.unsettled()
        vswitch.ofctl("del-flows", BRIDGE, "table=96")
        await it.here.now(worlds.port("a", 11, device_id="other"))
        it.said = claims(it.here.me, it.here.replica, it.here.engine.locality)
        it.prover.settled(it.said, it.here.switch.connections, changed=True)
        it.prover.unsettled()
        await asyncio.sleep(0.3)
        assert set(it.prover.gate(it.said)) == {"b"}
        it.here.switch.doubt()
        await it.here.switch.sync()
        await it.until(a="ACTIVE", b="ACTIVE")


async def test_a_fault_of_one_port_is_not_laid_at_anothers_door(vswitch: VSwitch) -> None:
    """C's flow is gone: A and B, which would talk to it, talk to each other instead."""
    async with proving(vswitch) as it:
        vswitch.ofctl("del-flows", BRIDGE, "table=192,reg7=0xd")
        await it.settle()
        await it.until(a="ACTIVE", b="ACTIVE")
        it.here.switch.doubt()
        await it.settle()  # for the audit


async def test_a_new_state_is_proven_anew_while_the_others_stand(vswitch: VSwitch) -> None:
    async with proving(vswitch) as it:
        await it.until(a="ACTIVE", b="ACTIVE")
        it.history.clear()
        await it.here.now(worlds.port("a", 11, device_id="other"))
        await it.settle()
        assert it.history == [{"b": it.said["b"]}]
        await it.until(a="ACTIVE", b="ACTIVE")


async def test_without_a_control_socket_the_barrier_is_enough(
    vswitch: VSwitch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "ctl"
    async with proving(vswitch, control=str(link)) as it:
        await it.until(a="ACTIVE", b="ACTIVE")
        assert it.prover.status()["unproven"] == 2
        assert str(link) in it.prover.status()["vswitchd"]
        await it.here.now(worlds.port("a", 11, device_id="other"))
        await it.settle()
        assert set(it.history[-1]) == {"a", "b"}  # at once, without another try
        await it.until(a="ACTIVE", b="ACTIVE")
        link.symlink_to(vswitch.directory / "ovs-vswitchd.ctl")
        async with asyncio.timeout(10):
            while it.prover.status()["proven"] < 2:
                await asyncio.sleep(0.01)
        assert it.prover.status()["vswitchd"] == "answers"
    assert caplog.text.count("can't be proven") == 1


async def test_a_new_vswitchd_is_asked_when_the_old_one_is_gone(vswitch: VSwitch) -> None:
    async with proving(vswitch) as it:
        await it.until(a="ACTIVE", b="ACTIVE")
        connections = it.here.switch.connections
        vswitch.restart_vswitchd(kill=True)
        async with asyncio.timeout(10):
            while it.here.switch.connections == connections or len(it.here.engine.places) < 3:
                it.here.engine.settle(it.here.switch.want)
                await asyncio.sleep(0.01)
        await it.settle()
        await it.until(a="ACTIVE", b="ACTIVE")
        assert it.prover.status()["failed"] == 0
        async with asyncio.timeout(10):
            while it.prover.status()["proven"] < 2:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["off", "all"])
async def test_an_operator_says_which_ports_are_proven(vswitch: VSwitch, mode: Mode) -> None:
    async with proving(vswitch, mode) as it:
        await it.until(a="ACTIVE", b="ACTIVE")
        assert it.prover.status()["proven"] == (2 if mode == "all" else 0)
        assert (it.history[0] == {}) == (mode == "all")
