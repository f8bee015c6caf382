"""The embedded DF DB: one SQLite file that several processes of one machine share, with no server.

All SQL runs in one thread per store, so the event loop never waits for the disk. The same thread looks whether another process
has committed (``PRAGMA data_version``, microseconds) and so wakes the watches: when inotify(7) tells that a file was written,
and else four times a second; ``hint`` has it look at once.
Whichever process looks first ends the leases whose time has come. What the file itself promises is said in ``_sqlitefile``.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from dragonflow.store._bell import Bell, rings
from dragonflow.store._common import PolledWatch, Scopes, Wake, check_txn
from dragonflow.store._sqlitefile import SqliteFile
from dragonflow.store.pace import Pace
from dragonflow.store.protocol import Key, Record, Snapshot, StoreError, Txn, Unavailable, check_key

T = TypeVar("T")

POLL = 0.25
"""Seconds between two looks for commits of other processes when nothing tells of one."""

SETTLES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Seconds between the looks after a file was written, until there is a new version: SQLite writes first and commits then."""

EXPIRY = 0.25
"""Seconds between two looks for leases whose time has come: so much later than promised a lease may end."""

HISTORY = 100_000
"""How many deletions are remembered for watchers that come late. What is alive needs no history."""

PATIENCE = 5.0
"""Seconds to wait for other processes' locks before a request is ``Unavailable``."""


class SqliteStore:
    """A client of the file at ``path``. A file that is not there is made (mode 0600) by the first request, if ``create``.

    Build it anywhere; thread and file are opened by the first request, so in the process and after the fork that uses them.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        history: int = HISTORY,
        patience: float = PATIENCE,
        poll: float = POLL,
        create: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._file = SqliteFile(self.path, history=history, patience=patience, create=create, clock=clock)
        self._poll = poll
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._wakes: set[Wake] = set()
        self._written = False
        self._hinted = False
        self._closed = False

    async def snapshot(self, scopes: Collection[str]) -> Snapshot:
        """See ``Store``."""
        wanted = Scopes(scopes)
        return await self._run(lambda: self._file.snapshot(wanted))

    def watch(self, after: Mapping[str, int]) -> PolledWatch:
        """See ``Store``."""
        return PolledWatch(after, lambda wanted: self._run(lambda: self._file.changes(wanted)), self._wakes)

    async def get(self, key: Key) -> Record | None:
        """See ``Store``."""
        check_key(key)
        return await self._run(lambda: self._file.get(key))

    async def commit(self, txn: Txn) -> int:
        """See ``Store``."""
        check_txn(txn)
        return await self._run(lambda: self._file.commit(txn), wakes=True)

    async def grant_lease(self, ttl: float) -> str:
        """See ``Store``."""
        return await self._run(lambda: self._file.grant_lease(ttl))

    async def keep_alive(self, lease: str) -> None:
        """See ``Store``."""
        await self._run(lambda: self._file.keep_alive(lease))

    async def revoke(self, lease: str) -> None:
        """See ``Store``."""
        await self._run(lambda: self._file.revoke(lease), wakes=True)

    async def compact(self) -> None:
        """Forget all deletions up to now, as the history's limit does by itself; watchers that missed some start anew."""
        await self._run(self._file.compact, wakes=True)

    @property
    def needs_hints(self) -> bool:
        """See ``Store``. Only where inotify has no more watches to give."""
        return not rings()

    def hint(self) -> None:
        """See ``Store``. May be called from any thread."""
        if self._wakes and not self._hinted:
            self._hinted = True
            self._jobs.put(_nothing)

    async def close(self) -> None:
        """See ``Store``."""
        with self._starting:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
        waiting = tuple(self._wakes)
        self._wakes.clear()
        for wake in waiting:
            wake()

    # -- the SQL thread --------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T], wakes: bool = False) -> T:
        """Have the SQL thread do the work; a job whose caller was cancelled before its turn is not begun."""
        done: Future[T] = Future()

        def job() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                result = work()
            except BaseException as error:  # whatever it is, it is the caller's
                done.set_exception(error)
            else:
                done.set_result(result)
                if wakes:
                    self._wake_all()

        with self._starting:
            if self._closed:
                raise Unavailable("the store was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=f"sqlite {self.path.name}", daemon=True)
                self._thread.start()
            self._jobs.put(job)
        return await asyncio.wrap_future(done)

    def _serve(self) -> None:
        seen: tuple[int, int] | None = None
        look = expiry = time.monotonic()
        settling: Iterator[float] = iter(())
        pace = Pace()
        with Bell(self.path.parent, self._ring) as bell:
            while True:
                now = time.monotonic()
                with contextlib.suppress(queue.Empty):
                    job = self._jobs.get(timeout=max(0.0, min(look, expiry) - now))
                    if job is None:
                        break
                    job()
                    del job  # or the last result would stay alive until the next job
                now = time.monotonic()
                if now >= expiry:
                    expiry = now + EXPIRY
                    self._expire()
                    if self._wakes:
                        bell.hang()
                if self._written or self._hinted:
                    look = max(now, pace.over)
                if now >= look:
                    if self._written:
                        self._written, settling = False, iter(SETTLES)
                    self._hinted = False
                    before, seen = seen, self._look(seen)
                    if seen != before:
                        settling = iter(())
                        pace.found(now)
                    look = now + next(settling, self._poll)
        self._file.close()

    def _ring(self) -> None:
        """A file was written, by whomever. Called by the bell's thread."""
        if self._wakes and not self._written:
            self._written = True
            self._jobs.put(_nothing)

    def _expire(self) -> None:
        with contextlib.suppress(StoreError):  # whoever uses the store will be told
            if self._file.expire():
                self._wake_all()

    def _look(self, seen: tuple[int, int] | None) -> tuple[int, int] | None:
        """Wake the watches if there is news, or trouble: they will look themselves and tell their readers."""
        try:
            version = self._file.data_version()
        except StoreError:
            version = None
        if version is None or version != seen:
            self._wake_all()
        return version

    def _wake_all(self) -> None:
        for wake in tuple(self._wakes):
            wake()


def _nothing() -> None:
    """A job that only has the SQL thread look around."""
