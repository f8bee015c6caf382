"""Proves that ports work before the chassis says so, and goes on asking afterwards.

    claims (after a barrier) ──settled──> queue ──> ofproto/trace ──> verdicts ──gate──> claims that may be told
                                            ^                            │
                              backoff, a slow round over all      a fault: the switch is read anew

A verdict holds for one state of its port (``Rests``); what else happens on the chassis doesn't touch it. While a new state is
being proven, the status stays as it stands. A fault counts only if nothing was sent to the switch while the packets were on their
way, and only if a second look finds it too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec

from dragonflow.controller.probe import Plan, Planner, Probe
from dragonflow.controller.replica import Replica
from dragonflow.controller.report import Claim
from dragonflow.model import LogicalSwitch
from dragonflow.observe import metrics
from dragonflow.switch.trace import Traced, parse
from dragonflow.switch.unixctl import CommandFailed, Unixctl, Unreachable

LOG = logging.getLogger(__name__)

Verdict = Literal["proven", "failed", "unproven"]

_BATCH = 24
"""Ports proven in one go: some 50 packets, for which vswitchd needs a few milliseconds."""

_ROUND = 1.0
"""Seconds between two looks at ports that are proven already: one costs vswitchd and us about half a millisecond each."""

_UNSURE = 0.05
"""Seconds until a port that waits for its first verdict is tried again, if the switch was changing while it was asked."""

_AGAIN = (0.1, 2.0)
"""Seconds until a port that failed is tried again, at first and at the most."""

_MEND = (0.5, 30.0)
"""Seconds between two readings of the whole switch because of faults, at first and at the most."""

_RECONNECT = 1.0
"""Seconds until a control socket that nobody answers is tried again."""


class Rests(NamedTuple):
    """What a verdict rests on: revisions of the rows of port and network, where it is wired, which connection to the switch."""

    port: int
    generation: int
    network: int
    ofport: int
    connection: int


class Proof(msgspec.Struct, frozen=True):
    """A verdict, why, and since when (seconds of the epoch, for people). ``trace`` are the last lines of a fault's trace."""

    rests: Rests
    verdict: Verdict
    at: float
    reason: str = ""
    trace: tuple[str, ...] = ()
    tries: int = 1


class Prover:
    """``on_verdicts()`` is called when ``gate`` may answer otherwise; ``on_fault()`` when the switch should be read anew."""

    def __init__(
        self,
        unixctl: Unixctl,
        bridge: str,
        planner: Planner,
        replica: Replica,
        *,
        on_verdicts: Callable[[], None],
        on_fault: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._unixctl, self._bridge, self._planner, self._replica = unixctl, bridge, planner, replica
        self._on_verdicts, self._on_fault, self._now = on_verdicts, on_fault, now
        self._rests: dict[str, Rests] = {}
        """The ports to prove, and on what that rests now."""
        self._proofs: dict[str, Proof] = {}
        self._queue: dict[str, None] = {}
        self._asking = False
        """Whether ports that waited for their first verdict are being proven."""
        self._unsure: dict[str, float] = {}
        self._again: dict[str, float] = {}
        self._round: deque[str] = deque()
        self._next_round = 0.0
        self._epoch = 0
        self._quiet = False
        self._wake = asyncio.Event()
        self._unreachable: str | None = None
        self._retry_at = 0.0
        self._mend_at, self._mend_wait = 0.0, _MEND[0]

    # What the controller tells

    def unsettled(self) -> None:
        """The switch is about to change: what is seen meanwhile is no fault."""
        self._epoch += 1
        self._quiet = False

    def settled(self, said: Mapping[str, Claim], connection: int, *, changed: bool) -> None:
        """The barrier has confirmed the flows behind these claims; ``changed`` if any had to be sent."""
        self._epoch += 1
        self._quiet = True
        wanted: dict[str, bool] = {}
        self._rests = {}
        for port, claim in said.items():
            if claim.status != "ACTIVE" or claim.ofport is None:
                continue
            if claim.network not in wanted:
                wanted[claim.network] = self._planner.wants(claim.network)
            if wanted[claim.network]:
                network = self._replica.revision(LogicalSwitch, claim.network)
                self._rests[port] = Rests(claim.revision, claim.generation, network, claim.ofport, connection)
        for port in self._proofs.keys() - self._rests.keys():
            del self._proofs[port]
        for times in (self._again, self._unsure):
            for port in times.keys() - self._rests.keys():
                del times[port]
        for port, rests in self._rests.items():
            proof = self._proofs.get(port)
            if proof is None or proof.rests != rests:
                self._queue[port] = None
        self._unsure = dict.fromkeys(self._unsure, 0.0)
        if changed:
            self._again = dict.fromkeys(self._again, 0.0)
        if self._unreachable is not None:
            self._let_pass(self._queue, self._unreachable)  # who can't be asked now keeps nobody waiting
        self._wake.set()

    def gate(self, said: Mapping[str, Claim]) -> dict[str, Claim]:
        """The claims that may be told: failed ports are DOWN, and nothing is said of those whose proof is under way."""
        told = {}
        for port, claim in said.items():
            rests = self._rests.get(port)
            if rests is not None and claim.status == "ACTIVE":
                proof = self._proofs.get(port)
                if proof is None or proof.rests != rests:
                    continue
                if proof.verdict == "failed":
                    told[port] = msgspec.structs.replace(claim, status="DOWN", reason=f"probe failed: {proof.reason}")
                    continue
            told[port] = claim
        return told

    @property
    def awaited(self) -> bool:
        """Whether a port waits for the first verdict on its present state, and somebody can be asked for it."""
        return self._unreachable is None and bool(self._queue or self._unsure or self._asking)

    # What operators ask

    def status(self) -> dict[str, Any]:
        """How many ports are proven and how many not, and whether vswitchd can be asked at all."""
        verdicts = Counter(proof.verdict for proof in self._proofs.values())
        return {
            "mode": self._planner.mode,
            "vswitchd": self._unreachable or "answers",
            **{verdict: verdicts[verdict] for verdict in ("proven", "failed", "unproven")},
            "waiting": len(self._queue),
        }

    def of(self, port: str) -> dict[str, Any] | None:
        """The last proof of a port; None if there was none."""
        proof = self._proofs.get(port)
        if proof is None:
            return None
        return {"verdict": proof.verdict, "reason": proof.reason, "at": proof.at, "trace": list(proof.trace)}

    # The work

    async def run(self) -> None:
        """Prove what waits, then what failed, then one after the other of all, for ever."""
        self._next_round = _clock() + _ROUND
        try:
            while True:
                await self._wait()
                self._asking = self.awaited
                batch = self._due()
                if batch:
                    await self._prove(batch)
                self._asking = False
        finally:
            self._unixctl.close()

    async def _wait(self) -> None:
        """Until something is due. While the switch changes, only what waits for its first proof is."""
        while True:
            now = _clock()
            times = [now] if self._queue else [*self._unsure.values()]
            if self._quiet and self._rests:
                times += [self._next_round, *self._again.values()]
            due = max(self._retry_at, min(times)) if times else None
            if due is not None and due <= now:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(None if due is None else due - now):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _due(self) -> list[str]:
        now = _clock()
        waiting = list(islice(self._queue, _BATCH))
        if waiting:
            for port in waiting:
                del self._queue[port]
            return [port for port in waiting if port in self._rests]
        unsure = [port for port, due in self._unsure.items() if due <= now][:_BATCH]
        for port in unsure:
            del self._unsure[port]
        if unsure or not self._quiet:
            return unsure
        failed = [port for port, due in self._again.items() if due <= now]
        if failed:
            return failed[:_BATCH]
        self._next_round = now + _ROUND
        if not self._round:
            self._round.extend(self._rests)
        while self._round:
            port = self._round.popleft()
            if port in self._rests:
                self._planner.refresh(port)
                return [port]
        return []

    async def _prove(self, ports: Sequence[str]) -> None:
        epoch, rests = self._epoch, {port: self._rests[port] for port in ports}
        plans = {port: plan for port in ports if (plan := self._planner.plan(port, rests[port].ofport)) is not None}
        try:
            with metrics.PROBE_SECONDS.time():
                faults = await self._faults(plans)
                suspects = {port: plans[port] for port, fault in faults.items() if fault.reason}
                if suspects and self._unmoved(epoch):
                    faults |= await self._faults(suspects)
        except Unreachable as error:
            self._cannot(str(error), rests)
            return
        if self._unreachable is not None:
            LOG.info("ovs-vswitchd's control socket answers again: ports are proven before they are ACTIVE")
            self._unreachable = None
        changed = False
        for port, fault in faults.items():
            if self._rests.get(port) != rests[port]:
                continue  # what is now will be, or is being, proven by itself
            if fault.reason and not self._unmoved(epoch):
                proof = self._proofs.get(port)
                if proof is None or proof.rests != rests[port]:
                    self._unsure[port] = _clock() + _UNSURE  # somebody waits for it, and the switch may never rest
                else:
                    self._again[port] = 0.0  # to be looked at when the switch is quiet
                continue
            changed |= self._file(port, rests[port], fault)
        if changed:
            self._on_verdicts()

    def _unmoved(self, epoch: int) -> bool:
        """Whether nothing was sent to the switch since then, nor is on its way."""
        return self._quiet and epoch == self._epoch

    async def _faults(self, plans: Mapping[str, Plan]) -> dict[str, _Fault]:
        """What is wrong with each port. What it sends may go wrong by the receiver's fault, so then another one is tried."""
        found: dict[str, _Fault] = {}
        doubtful: dict[str, Probe] = {}
        both = [
            (port, probe) for port, plan in plans.items() for probe in (plan.sent[0], plan.got) if probe is not None
        ]
        for (port, probe), fault in zip(both, await self._ask([probe for _, probe in both]), strict=True):
            sent = plans[port].sent
            if fault.reason and probe is sent[0] and len(sent) > 1:
                doubtful[port] = sent[1]
            elif fault.reason:
                doubtful.pop(port, None)
            if port not in found or not found[port].reason:
                found[port] = fault if fault is not _NOTHING else found.get(port, _NOTHING)
        if doubtful:
            for port, fault in zip(doubtful, await self._ask(list(doubtful.values())), strict=True):
                if not fault.reason:
                    found[port] = fault
        return found

    async def _ask(self, probes: Sequence[Probe]) -> list[_Fault]:
        answers = await self._unixctl.ask("ofproto/trace", [(self._bridge, probe.flow) for probe in probes])
        return [_judge(probe, answer) for probe, answer in zip(probes, answers, strict=True)]

    def _file(self, port: str, rests: Rests, fault: _Fault) -> bool:
        """Keep the verdict; returns whether it differs from the one before."""
        before = self._proofs.get(port)
        verdict: Verdict = "failed" if fault.reason else "unproven" if fault.unknown else "proven"
        metrics.PROBES.labels(verdict).inc()
        tries = before.tries + 1 if before is not None and before.verdict == verdict == "failed" else 1
        proof = Proof(rests, verdict, self._now(), fault.reason or fault.unknown, fault.trace, tries)
        self._proofs[port] = proof
        if verdict == "failed":
            first, most = _AGAIN
            crowd = len(self._again) / 50  # whole hosts that fail are tried at fifty ports a second
            self._again[port] = _clock() + max(crowd, min(first * 2.0 ** min(tries - 1, 10), most))
            self._mend()
        else:
            self._again.pop(port, None)
        same = before is not None and (before.rests, before.verdict, before.reason) == (rests, verdict, proof.reason)
        if not same and verdict == "failed":
            LOG.warning("port %s doesn't work: %s", port, fault.reason)
        elif before is not None and before.verdict == "failed" and verdict != "failed":
            LOG.info("port %s works again", port)
        return not same

    def _mend(self) -> None:
        """Have the switch read anew, but not over and over for a fault that doesn't go away by that."""
        now = _clock()
        if now < self._mend_at:
            return
        first, most = _MEND
        self._mend_wait = first if now > self._mend_at + most else min(self._mend_wait * 2, most)
        self._mend_at = now + self._mend_wait
        self._on_fault()

    def _cannot(self, error: str, rests: Collection[str]) -> None:
        """Nobody can be asked: what was confirmed by a barrier counts as it is, until somebody can."""
        if self._unreachable is None:
            LOG.warning("ports are ACTIVE on the switch's barrier alone, they can't be proven: %s", error)
        self._unreachable = error
        self._retry_at = _clock() + _RECONNECT
        changed = self._let_pass((*rests, *self._queue), error)
        self._queue = dict.fromkeys(port for port, proof in self._proofs.items() if proof.verdict == "unproven")
        if changed:
            self._on_verdicts()

    def _let_pass(self, ports: Iterable[str], error: str) -> bool:
        """Let those of the ports count as they are that have no proof of their present state; returns whether there were any."""
        changed = False
        for port in ports:
            rests, proof = self._rests.get(port), self._proofs.get(port)
            if rests is not None and (proof is None or proof.rests != rests):
                self._proofs[port] = Proof(rests, "unproven", self._now(), error)
                changed = True
        return changed


class _Fault(msgspec.Struct, frozen=True):
    """What is wrong, or why it isn't known; nothing if neither."""

    reason: str = ""
    trace: tuple[str, ...] = ()
    unknown: str = ""


_NOTHING = _Fault()


def _judge(probe: Probe, answer: str | CommandFailed) -> _Fault:
    if isinstance(answer, CommandFailed):
        return _Fault(unknown=f"ovs-vswitchd doesn't trace it: {answer}")
    traced: Traced = parse(answer)
    reason = probe.fault(traced)
    return _Fault(reason, traced.lines) if reason else _NOTHING


def _clock() -> float:
    return asyncio.get_running_loop().time()
