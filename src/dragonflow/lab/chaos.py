"""Break one thing while ports change and others are talked to, mend it, and say what came of it.

After each fault: no packet lost between ports that did not change, but while a host's own switch was away; none passed that
security groups refuse; every status in Neutron right, every changed port reached and Nova told within ``limit`` seconds; no key
given out twice; and on every switch exactly the flows that a fresh process computes. ``tests/chaos`` runs each fault once,
``bench/soak.py`` at random for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dragonflow.lab.churn import Api, Churn
from dragonflow.lab.lab import Lab
from dragonflow.lab.matrix import Loss, Matrix, covering
from dragonflow.lab.process import Process
from dragonflow.lab.state import Vm
from dragonflow.lab.system import LabError, TimedOut, wait_until
from dragonflow.lab.uplink import BLACKHOLE, REFUSED
from dragonflow.model import CodecError, LogicalPort, LogicalSwitch, decode
from dragonflow.store import open_store
from dragonflow.store.keycheck import Audit
from dragonflow.store.keys import NETWORK, PORT, Pool
from dragonflow.store.protocol import EVERYTHING, StoreError

LIMIT = 5.0
"""Seconds after a fault's end within which everything must be right again."""

SWITCH_LIMIT = 2.0
"""Seconds after the start of a host's ovs-vswitchd for which packets may still be lost there."""

SETTLE = 60.0
"""Seconds that are waited for things to get right at all: how late it was then tells more than that it was late."""

CIDRS = ("10.20.0.0/16", "fd20::/64")
VMS_ON_HOST = 2
CLOCK = "+1h"
LOST_SHARE = 0.05


class Ground:
    """A lab with VMs that stay as they are, between which the matrix runs, and a churn beside them."""

    def __init__(self, lab: Lab, seed: int = 0) -> None:
        self.lab, self.region = lab, lab.region()
        self.chance = random.Random(seed)
        self.hosts = list(self.region.hosts)
        self.api = Api(lab)
        network = self.api.send("POST", "/networks", json={"network": {"name": "chaos"}}).json()["network"]
        for cidr in CIDRS:
            subnet = {
                "network_id": network["id"],
                "cidr": cidr,
                "ip_version": 6 if ":" in cidr else 4,
                "gateway_ip": None,
            }
            self.api.send("POST", "/subnets", json={"subnet": subnet})
        self.churn = Churn(lab, self.api, network, self.chance)
        calm = Churn(lab, self.api, network, self.chance, name="calm", bays=VMS_ON_HOST)
        for changing in calm.prepare(self.hosts * VMS_ON_HOST):
            calm.plug(changing)
        self.calm = calm
        wait_until(lambda: not [*calm.wrong(self.api.ports())], "the calm ports to be ACTIVE", SETTLE, 0.2)
        self.vms: list[Vm] = [each.vm for each in calm.ports.values() if each.vm is not None]
        self.matrix = Matrix(covering(self.vms))
        self.matrix.start()
        self.refused = Matrix(self._refused(network))
        self.refused.start(None)

    def _refused(self, network: dict[str, Any]) -> list[tuple[Vm, Vm, str]]:
        """A guest of the network in another security group, with whom the others may not talk, nor it with them."""
        body = {"security_group": {"name": "stranger"}}
        group = self.api.send("POST", "/security-groups", json=body).json()["security_group"]["id"]
        host = self.hosts[0]
        strangers = Churn(self.lab, self.api, network, self.chance, name="stranger", bays=1, groups=[group])
        (changing,) = strangers.prepare([host])
        strangers.plug(changing)
        wait_until(lambda: not [*strangers.wrong(self.api.ports())], "the stranger to be ACTIVE", SETTLE, 0.2)
        stranger = changing.vm
        assert stranger is not None
        others = {vm.host: vm for vm in self.vms}
        pairs = [(stranger, vm, ip) for vm in others.values() for ip in vm.ips]
        return [*pairs, *((vm, stranger, ip) for vm in others.values() for ip in stranger.ips)]

    def close(self) -> None:
        """Stop the matrix; the lab is the caller's."""
        self.matrix.stop()
        self.refused.stop()
        self.api.close()

    def some_host(self) -> str:
        """One of the hosts, by chance."""
        return self.chance.choice(self.hosts)


class Fault(NamedTuple):
    """``strike`` begins and ends it, on a host where it is a host's; meanwhile so many ports change.

    ``hold`` is how many seconds it lasts at least, and ``lasting`` that it ends only when all has been found right in spite of
    it. If its host's switch is ``away``, packets are lost there, and nothing can be plugged into it. ``who`` says which labs can
    suffer it.
    """

    name: str
    strike: Callable[[Ground, str], AbstractContextManager[None]]
    changes: int = 8
    hold: float = 0.0
    lasting: bool = False
    away: bool = False
    who: Callable[[Lab], bool] = lambda lab: True


@dataclass
class Outcome:
    """What came of a fault: ``recovery`` is in seconds from its end until all was right, ``violations`` what wasn't in time."""

    fault: str
    host: str
    seconds: float = 0.0
    changes: int = 0
    recovery: float | None = None
    lost: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        took = "never" if self.recovery is None else f"{self.recovery:.1f} s after"
        text = f"{self.fault} ({self.host}, {self.seconds:.1f} s, {self.changes} changes): right {took}"
        return "\n  ".join([text, *self.violations])


@contextlib.contextmanager
def _killed(*processes: Process) -> Iterator[None]:
    for process in processes:
        process.kill()
    try:
        yield
    finally:
        for process in processes:
            process.start()


def _kill(*names: str) -> Callable[[Ground, str], AbstractContextManager[None]]:
    """Processes by name; HOST in it is the fault's host."""
    return lambda ground, host: _killed(*(ground.lab.process(name.replace("HOST", host)) for name in names))


def _kill_first(ground: Ground, _: str) -> AbstractContextManager[None]:
    """The etcd member that leads, or the Redis master."""
    first = ground.region.store.first()
    if first is None:
        raise LabError("the store has nobody who leads, before any fault")
    return _killed(ground.lab.process(first))


def _kill_controllers(ground: Ground, _: str) -> AbstractContextManager[None]:
    return _killed(*(ground.lab.process(host.controller.name) for host in ground.region.hosts.values()))


@contextlib.contextmanager
def _kill_leading_worker(ground: Ground, _: str) -> Iterator[None]:
    """kill -9 of the API worker that leads: gunicorn makes another, and until then another server's leads."""
    found = ground.region.leader()
    if found is None:
        raise LabError("no Neutron server leads, before any fault")
    os.kill(found[1], signal.SIGKILL)
    wait_until(lambda: ground.region.leader() not in (None, found), "another leader", LIMIT, 0.1)
    yield


def _kill_leading_server(ground: Ground, _: str) -> AbstractContextManager[None]:
    found = ground.region.leader()
    if found is None:
        raise LabError("no Neutron server leads, before any fault")
    return _killed(ground.lab.process(found[0]))


def _cut(mode: str) -> Callable[[Ground, str], AbstractContextManager[None]]:
    @contextlib.contextmanager
    def cut(ground: Ground, host: str) -> Iterator[None]:
        ground.lab.partition(host, mode=mode)
        try:
            yield
        finally:
            ground.lab.heal(host)

    return cut


@contextlib.contextmanager
def _lose(ground: Ground, _: str) -> Iterator[None]:
    ground.lab.lose(LOST_SHARE)
    try:
        yield
    finally:
        ground.lab.lose(0)


@contextlib.contextmanager
def _fill(ground: Ground, _: str) -> Iterator[None]:
    """Ends when the store takes writes again: Sentinels hold a server with a full disk for dead, and may take 10 s over it."""
    ground.lab.fill_disk()
    try:
        yield
    finally:
        ground.lab.free_disk()
        wait_until(lambda: _takes_writes(ground), "the store to take writes again", SETTLE, 0.1)


def _takes_writes(ground: Ground) -> bool:
    async def write() -> None:
        store = open_store(ground.region.store.url, create=False)
        try:
            await store.revoke(await store.grant_lease(1.0))
        finally:
            await store.close()

    try:
        asyncio.run(write())
    except StoreError:
        return False
    return True


@contextlib.contextmanager
def _wrong_clock(ground: Ground, host: str) -> Iterator[None]:
    name = ground.region.hosts[host].controller.name
    process = ground.lab.process(name)
    process.stop()
    try:
        ground.lab.start(name, clock=CLOCK)
        yield
    finally:
        process.stop()
        process.start()


def _networked(lab: Lab) -> bool:
    return bool(lab.region().store.ports)


FAULTS = (
    Fault("first of the store", _kill_first, who=_networked),
    Fault("whole store", _kill("store")),
    Fault("leading API worker", _kill_leading_worker, who=lambda lab: len([*lab.region().neutrons]) > 1),
    Fault("leading Neutron server", _kill_leading_server, who=lambda lab: len([*lab.region().neutrons]) > 1),
    Fault("every Neutron server", _kill("neutron"), changes=0),
    Fault("every controller", _kill_controllers),
    Fault("ovs-vswitchd", _kill("ovs-HOST"), changes=4, away=True),
    Fault("partition, silent", _cut(BLACKHOLE), changes=20, hold=8.0, who=_networked),
    Fault("partition, refused", _cut(REFUSED), who=_networked),
    Fault("5 % of messages lost", _lose, changes=12, lasting=True, who=lambda lab: lab.region().loss is not None),
    Fault("full disk", _fill, who=lambda lab: lab.region().room is not None),
    Fault("clock 1 h off", _wrong_clock, lasting=True),
)


def suffer(ground: Ground, fault: Fault, *, limit: float = LIMIT, scale: float = 1.0) -> Outcome:
    """Strike with a fault, let ports change meanwhile, end it, and look at what came of it.

    ``scale`` multiplies how many ports change and how long the fault lasts at least.
    """
    host = ground.some_host()
    outcome = Outcome(fault.name, host)
    elsewhere = [each for each in ground.hosts if each != host]
    # So that something can be plugged while no API answers; but not where there is nothing to plug into.
    prepared = ground.churn.prepare(elsewhere if fault.away else ground.hosts)
    before, began = ground.churn.changes, time.monotonic()
    with contextlib.ExitStack() as striking:
        striking.enter_context(fault.strike(ground, host))
        for changing in prepared:
            ground.churn.plug(changing)
        ground.churn.run(round(fault.changes * scale), elsewhere or ground.hosts)
        time.sleep(max(0.0, began + fault.hold * scale - time.monotonic()))  # how long it lasts is what is tried
        if not fault.lasting:
            striking.close()
        ended = time.monotonic()
        outcome.seconds, outcome.changes = ended - began, ground.churn.changes - before
        _recover(ground, outcome, ended, limit)
        losses = ground.matrix.lost(began)
        outcome.lost = max((loss.seconds for loss in losses), default=0.0)
        outcome.violations += [
            f"{loss}, {loss.first - began:.2f} s after the start"
            for loss in losses
            if not (fault.away and _switch_was_away(loss, host, ended))
        ]
        outcome.violations += [
            f"{pair}: {count} probes answered, which its security group refuses"
            for pair, count in ground.refused.answered().items()
        ]
        outcome.violations += [*keys_given_twice(ground), *differences(ground)]
    return outcome


def _recover(ground: Ground, outcome: Outcome, ended: float, limit: float) -> None:
    """Wait until all is right; note how long it took, and what wasn't within the limit."""
    left: list[str] = []

    def right() -> bool:
        said = ground.api.ports()
        left[:] = [*ground.calm.wrong(said), *ground.churn.wrong(said), *ground.churn.untold()]
        return not left

    late: list[str] = []
    with contextlib.suppress(TimedOut):
        wait_until(right, "all statuses", max(0.0, ended + limit - time.monotonic()), 0.2)
    late = [f"{limit:.0f} s after: {what}" for what in left]
    if late:
        with contextlib.suppress(TimedOut):
            wait_until(right, "all statuses", SETTLE, 0.2)
        late += [f"never right: {what}" for what in left]
    recovered = time.monotonic() - ended
    if silent := ground.churn.unreached(ground.vms, max(limit - recovered, 1.0)):
        late += [f"{limit:.0f} s after: {what}" for what in silent]
        silent = ground.churn.unreached(ground.vms, SETTLE)
        late += [f"never reached: {what}" for what in silent]
    outcome.recovery = None if left or silent else time.monotonic() - ended
    outcome.violations += late


def _hosts(loss: Loss) -> set[str]:
    return {vm.partition("/")[0] for vm in (loss.pair.source, loss.pair.target)}


def _switch_was_away(loss: Loss, host: str, started: float) -> bool:
    """Whether a loss is that of a host whose switch was away, and ended in time."""
    return host in _hosts(loss) and loss.last <= started + SWITCH_LIMIT


def keys_given_twice(ground: Ground) -> list[str]:
    """What is wrong with the keys of networks and ports."""

    async def read() -> list[str]:
        store = open_store(ground.region.store.url, create=False)
        try:
            records = (await store.snapshot([EVERYTHING])).records
        finally:
            await store.close()
        found = []
        pools: tuple[tuple[Pool, type[LogicalSwitch | LogicalPort]], ...] = (
            (NETWORK, LogicalSwitch),
            (PORT, LogicalPort),
        )
        for pool, kind in pools:
            used = {}
            for record in records:
                if record.key.kind == kind.__name__:
                    with contextlib.suppress(CodecError):
                        row = decode(record.key.kind, record.key.id, record.data or b"")
                        used[row.id] = int(getattr(row, "key", 0))
            audit = Audit(pool, (record for record in records if record.key.scope == pool.scope), used)
            found += [f"{pool.name} key of {problem.owner}: {problem.difference}" for problem in audit.problems()]
        return found

    return asyncio.run(read())


def differences(ground: Ground, within: float = 10.0) -> list[str]:
    """Where a host's switch is not what a fresh process computes from the DF DB and OVSDB."""
    audits = []
    for host in ground.region.hosts.values():
        command = [
            sys.executable,
            "-m",
            "dragonflow.testing.audit",
            "--store",
            ground.region.store.url,
            "--chassis",
            host.name,
        ]
        command += ["--ovsdb", f"unix:{host.switch.db_sock}", "--openflow", f"unix:{host.switch.openflow('br-int')}"]
        command += ["--within", f"{within}"]
        audits.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    found = []
    for name, audit in zip(ground.hosts, audits, strict=True):
        out, _ = audit.communicate(timeout=within + 60)
        if audit.returncode:
            found.append(f"flows of {name}: {out.strip()[-2000:]}")
    return found


def repairs(ground: Ground) -> list[str]:
    """What ``dragonflow repair`` finds to mend."""
    directory = ground.region.directory
    command = [str(Path(sys.executable).with_name("dragonflow")), "repair", "--json"]
    for name in ("neutron.conf", "ml2_conf.ini"):
        command += ["--config-file", str(directory / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode not in (0, 2):
        return [f"repair failed: {done.stderr.strip()[-2000:]}"]
    return [f"repair: {finding}" for finding in json.loads(done.stdout)["findings"]]
