"""Keeps one region as all regions' views say it should be: look, plan, act, wait; in a thread of its own, whatever others do."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from dragonflow.observe.metrics import REGION_LAG, REGION_PORTS, REGION_READ_SECONDS, REGION_STEPS, REGION_UP
from dragonflow.regions.act import perform, target
from dragonflow.regions.agreement import related
from dragonflow.regions.board import Board
from dragonflow.regions.cloud import CloudError, RegionApi, Unauthorized, Unreachable
from dragonflow.regions.plan import Plan, Step, plan
from dragonflow.regions.view import Underlay, read

LOG = logging.getLogger(__name__)

AGAIN = 0.5
"""Seconds after something was done in a region until it is looked at again, to see what came of it."""

GATHER = 0.1
"""Seconds at least that news of other regions are gathered before it is planned by them; five times as long as planning took."""

HASTE = 1.0
"""Seconds at least between the beginnings of two looks that are due to hints."""

REST = 10.0
"""How many times as long as a look takes a region is left alone: a port that is read costs Neutron more than a millisecond."""

LOOKS = 3
"""Of so many looks the quickest tells how long it takes: one may have met a server that had just started, or a busy one."""

REST_OF_HINTED = 3.0
"""The same from the beginning of one look to that of the next, if that is due to a hint."""

ROUND = 60.0
"""Seconds between two looks for announced ports in networks that bear no marks; at once, where marks have changed."""

LONGEST = 30.0
"""Seconds at most between two tries of what fails again and again."""

AWAY = 5.0
"""Seconds at most between two tries to reach a region: it is to be served soon after it is back."""


class Failure(msgspec.Struct, frozen=True):
    """A step that failed, or a region that did."""

    error: str
    since: float
    """Unix time of the first try that failed."""
    times: int


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How a region stands with the orchestrator. Times are Unix times."""

    error: Failure | None = None
    """Why nothing is known of it, or nothing can be done in it."""
    seen: float | None = None
    """When it was last read."""
    right: float | None = None
    """When it last was as it should be."""
    read_seconds: float | None = None
    plan: Plan = Plan()
    """What was to be done at the last look."""
    failures: dict[str, Failure] = {}
    """What was tried and failed, by what it was; it is tried again."""

    @property
    def known(self) -> bool:
        """Whether it answered when it was last asked."""
        return self.error is None


class Worker:
    """Of the region behind ``api``; from ``start`` to ``stop``. ``clock`` tells the time for statuses."""

    def __init__(
        self,
        api: RegionApi,
        underlay: Underlay,
        board: Board,
        *,
        period: float,
        concurrency: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = api.name
        self.condition = Condition()
        self._api = api
        self._underlay = underlay
        self._board = board
        self._period = period
        self._concurrency = concurrency
        self._clock = clock
        self._lock = threading.Lock()  # of the failures, which several threads note
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._hinted = False
        self._given_up = False  # for this turn: nothing that is left of it will fare better
        self._settled: frozenset[str] | None = None  # see ``read``
        self._rounds = 0.0
        self._related: frozenset[str] = frozenset()
        self._planned: tuple[list[object], Plan] | None = None  # what it was planned by, and the plan
        self._plan_seconds = 0.0
        self._looks: deque[float] = deque(maxlen=LOOKS)  # seconds that the last ones took
        self._retry: dict[str, float] = {}  # when a step that failed is tried again, by ``target``
        self._thread = threading.Thread(target=self._run, name=f"region {self.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._board.listen(self.name, self._changed)
        self._thread.start()

    def stop(self) -> None:
        """Begin no further step. Returns at once."""
        self._stop.set()
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait until it has ended, for so many seconds at most. Returns whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def hint(self) -> None:
        """Something has changed in the region: look soon, if there is anything to look for."""
        view = self._board.views()[self.name]
        if view is not None and view.networks:
            self._hinted = True
            self._wake.set()

    def _changed(self, region: str) -> None:
        if region in self._related:
            self._wake.set()

    # -- its thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                pause = AGAIN if self.turn() else max(self._period, REST * min(self._looks, default=0.0))
            except CloudError as error:
                pause = self._failed(error)
            except Exception as error:
                pause = self._bug(error)
            try:
                self._wait(began, pause)
            except Exception as error:
                self._stop.wait(self._bug(error))

    def _wait(self, began: float, pause: float) -> None:
        """Until the pause is over, or there is reason to look before. A region that failed has its rest in any case."""
        end = time.monotonic() + pause
        while not self._stop.is_set() and (left := end - time.monotonic()) > 0:
            if not self._wake.wait(left):
                return
            self._stop.wait(max(GATHER, 5 * self._plan_seconds))
            self._wake.clear()
            if not self.condition.known:
                continue
            if self._hinted:
                self._hinted = False
                soonest = began + max(HASTE, REST_OF_HINTED * min(self._looks, default=0.0))
                end = min(end, max(soonest, time.monotonic()))
            elif self._due(self._plan()):
                return

    def turn(self) -> bool:
        """Look, plan, and do what is to be done. Returns whether something was done.

        :raises CloudError: the region is away, or refuses everything.
        """
        began = time.monotonic()
        self._given_up = False
        try:
            view = read(self._api, self._underlay, self._settled if began < self._rounds else None)
        except CloudError:
            self._board.hang(self.name, None)
            raise
        seconds = time.monotonic() - began
        self._looks.append(seconds)
        REGION_READ_SECONDS.labels(self.name).observe(seconds)
        if began >= self._rounds:
            self._rounds = began + ROUND
        self._settled = None if view.has_strays else frozenset(view.networks)
        self._board.hang(self.name, view)
        planned = self._plan()
        self._note(planned, seconds)
        done = self._act(planned)
        self._well()
        return done

    def _plan(self) -> Plan:
        """What is to be done by what is known now; worked out again if a region that matters here was seen to have changed."""
        judged = self._board.look()
        self._related = related(self.name, judged.views, judged.agreement)
        whole = judged.agreement.disputed | {self.name}
        seen: list[object] = []
        for name in sorted(self._related):
            view = judged.views[name]
            seen += [view] if view is None or name in whole else view.holdings
        if self._planned is None or not _same(seen, self._planned[0]):
            began = time.monotonic()
            self._planned = seen, plan(self.name, *judged)
            self._plan_seconds = time.monotonic() - began
        return self._planned[1]

    def _act(self, planned: Plan) -> bool:
        done = 0
        for step in self._due(planned, networks=True):
            done += self._try(step)
        for steps in (planned.deletions, planned.updates, planned.creations):
            due = self._due_of(steps)
            if len(due) == 1 or self._concurrency == 1:
                done += sum(self._try(step) for step in due)
            elif due:
                with ThreadPoolExecutor(min(len(due), self._concurrency), f"writes in {self.name}") as pool:
                    done += sum(pool.map(self._try, due))
        return bool(done)

    def _due(self, planned: Plan, *, networks: bool = False) -> Sequence[Step]:
        """What is to be tried now of a plan, or of its steps for networks alone."""
        return self._due_of(planned.networks if networks else planned.steps)

    def _due_of(self, steps: Sequence[Step]) -> Sequence[Step]:
        now = time.monotonic()
        return [step for step in steps if self._retry.get(target(step), now) <= now]

    def _try(self, step: Step) -> bool:
        """Do one step. Returns whether it was done. :raises CloudError: there is no point in trying others."""
        if self._stop.is_set() or self._given_up:
            return False
        what, kind = target(step), type(step).__name__
        try:
            perform(step, self._api)
        except CloudError as error:
            REGION_STEPS.labels(self.name, kind, "failed").inc()
            if isinstance(error, Unreachable | Unauthorized):
                self._given_up = True
                raise
            with self._lock:
                before = self.condition.failures.get(what)
                failure = self._failure(error, before)
                self._set(failures=self.condition.failures | {what: failure})
                self._retry[what] = time.monotonic() + self._rest(failure)
            if before is None:
                LOG.warning("region %s: %s (%s): %s", self.name, what, step.why, error)
            return False
        self._well()
        REGION_STEPS.labels(self.name, kind, "done").inc()
        LOG.info("region %s: %s: %s", self.name, what, step.why)
        return True

    # -- what it says of itself ------------------------------------------------------------------------------------------

    def _set(self, **changes: object) -> None:
        self.condition = msgspec.structs.replace(self.condition, **changes)

    def _note(self, planned: Plan, seconds: float) -> None:
        """The region was read, and this is to be done."""
        now = self._clock()
        wanted = {target(step) for step in planned.steps}
        self._retry = {what: when for what, when in self._retry.items() if what in wanted}
        self._set(
            seen=now,
            read_seconds=seconds,
            plan=planned,
            right=self.condition.right if planned.steps else now,
            failures={what: failure for what, failure in self.condition.failures.items() if what in wanted},
        )
        REGION_LAG.labels(self.name).set(self.lag or 0.0)
        for name in ("wanted", "announced", "active"):
            REGION_PORTS.labels(self.name, name).set(sum(getattr(count, name) for count in planned.counts.values()))
        REGION_PORTS.labels(self.name, "troubled").set(len(planned.troubles))

    @property
    def lag(self) -> float | None:
        """For how many seconds the region hasn't been as it should be, or nobody knows; None if it never was."""
        condition = self.condition
        if condition.right is None:
            return None
        waits = condition.error is not None or condition.plan.steps
        return max(0.0, self._clock() - condition.right) if waits else 0.0

    def _well(self) -> None:
        """It did what was asked of it: something was written, or nothing had to be."""
        with self._lock:
            if self.condition.error is not None:
                LOG.info("region %s: back after %d tries", self.name, self.condition.error.times)
                self._set(error=None)
        REGION_UP.labels(self.name).set(1)

    def _bug(self, error: Exception) -> float:
        LOG.exception("region %s: this should not happen", self.name)
        return self._failed(Unreachable(self.name, repr(error)))

    def _failed(self, error: CloudError) -> float:
        """Note it; returns for how many seconds to leave the region alone."""
        before = self.condition.error
        failure = self._failure(error, before)
        if before is None or before.error != failure.error:
            LOG.warning("%s", error)
        self._set(error=failure)
        REGION_UP.labels(self.name).set(0)
        REGION_LAG.labels(self.name).set(self.lag or 0.0)
        return (
            min(self._rest(failure), max(AWAY, self._period)) if isinstance(error, Unreachable) else self._rest(failure)
        )

    def _failure(self, error: CloudError, before: Failure | None) -> Failure:
        if before is None:
            return Failure(str(error), self._clock(), 1)
        return Failure(str(error), before.since, before.times + 1)

    def _rest(self, failure: Failure) -> float:
        """How long not to try again: at first a period, then longer and longer."""
        return min(max(LONGEST, self._period), self._period * 2.0 ** min(failure.times - 1, 10))


def _same(ones: Sequence[object], others: Sequence[object]) -> bool:
    """Whether these are the very same; a board keeps old views, and holdings, if new ones are equal."""
    return len(ones) == len(others) and all(one is other for one, other in zip(ones, others, strict=True))
