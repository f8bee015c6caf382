"""The DF DB for plain threads: the same protocol, but each call blocks and has a time limit.

``Portal`` is a hidden event loop in a thread of its own, started by the first call. So all of this may be built before a
server forks its workers: each process has its own loop and opens its own files and sockets when it first needs them.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from dragonflow.store import open_store
from dragonflow.store.feed import Changes, Feed, ScopeReset
from dragonflow.store.protocol import Key, Record, Snapshot, Store, StoreError, Txn, Unavailable

T = TypeVar("T")

TIMEOUT = 15.0
"""Seconds after which a blocking call gives up; longer than any driver waits for a lock."""


class Portal:
    """An event loop in a thread, for threads to run coroutines on. Survives a fork by beginning anew in the child."""

    def __init__(self, name: str = "dragonflow") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        forked = weakref.WeakMethod(self._forked)

        def after_fork() -> None:
            method = forked()
            if method is not None:
                method()

        os.register_at_fork(after_in_child=after_fork)

    def run(self, work: Callable[[], Awaitable[T]], timeout: float | None = TIMEOUT) -> T:
        """Call ``work`` on the loop and wait for what it returns.

        :raises Unavailable: it took too long, or the portal was closed meanwhile; the work was cancelled.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call on the loop's own thread would wait for itself")
        done = self.start(work)
        try:
            return done.result(timeout)
        except TimeoutError:
            if done.done() and not done.cancelled():  # it is the work's own
                raise
            done.cancel()
            raise Unavailable(f"no answer within {timeout:g} s") from None
        except CancelledError:
            raise Unavailable("the loop was ended meanwhile") from None

    def start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Call ``work`` on the loop and don't wait."""

        async def call() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(call(), self._running())

    def close(self) -> None:
        """Cancel what runs on the loop and end the thread. A later call begins anew."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._loop = self._thread = None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class PerProcess(Generic[T]):
    """Something that must not cross a fork: made once in each process, on the portal's loop."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}  # a parent's stays referenced, for its destructor must not run in a child

    def get(self) -> T:
        """This process's own. Call it on the loop only."""
        pid = os.getpid()
        if pid not in self._made:
            self._made[pid] = self._make()
        return self._made[pid]

    def pop(self) -> T | None:
        """Forget this process's own, to close it."""
        return self._made.pop(os.getpid(), None)


class BlockingStore:
    """``Store`` for threads. Every method may raise ``Unavailable`` after ``timeout`` seconds; see ``Store`` for the rest."""

    def __init__(self, portal: Portal, url: str, *, timeout: float = TIMEOUT) -> None:
        open_store(url)  # refuses an unknown URL now, and opens nothing yet
        self.portal = portal
        self._timeout = timeout
        self._store: PerProcess[Store] = PerProcess(lambda: open_store(url))

    def call(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Run a coroutine function over the asynchronous store, on the loop: for what takes several steps."""
        return self.portal.run(lambda: work(self._store.get()), self._timeout)

    def underlying(self) -> Store:
        """The asynchronous store of this process; to be used on the portal's loop only."""
        return self._store.get()

    def snapshot(self, scopes: Collection[str]) -> Snapshot:
        """See ``Store``."""
        return self.call(lambda store: store.snapshot(scopes))

    def get(self, key: Key) -> Record | None:
        """See ``Store``."""
        return self.call(lambda store: store.get(key))

    def commit(self, txn: Txn) -> int:
        """See ``Store``."""
        return self.call(lambda store: store.commit(txn))

    def grant_lease(self, ttl: float) -> str:
        """See ``Store``."""
        return self.call(lambda store: store.grant_lease(ttl))

    def keep_alive(self, lease: str) -> None:
        """See ``Store``."""
        self.call(lambda store: store.keep_alive(lease))

    def revoke(self, lease: str) -> None:
        """See ``Store``."""
        self.call(lambda store: store.revoke(lease))

    def hint(self) -> None:
        """See ``Store``. Does not wait."""

        async def hint() -> None:
            self._store.get().hint()

        self.portal.start(hint)

    def feed(self, scopes: Iterable[str]) -> BlockingFeed:
        """A ``Feed`` of these scopes, for one thread to read."""
        feed = BlockingFeed(self)
        feed.add(scopes)
        return feed

    def close(self) -> None:
        """See ``Store``. A later call opens it again."""

        async def close() -> None:
            store = self._store.pop()
            if store is not None:
                await store.close()

        self.portal.run(close, self._timeout)


class BlockingFeed(Iterator[ScopeReset | Changes]):
    """``Feed`` for threads: iterate, or ask with a time limit. One thread reads; any may add, drop and close."""

    def __init__(self, store: BlockingStore) -> None:
        self._portal = store.portal

        async def make() -> Feed:
            return Feed(store.underlying())

        self._feed = self._portal.run(make)

    def __next__(self) -> ScopeReset | Changes:
        try:
            return self._portal.run(self._feed.__anext__, None)
        except StopAsyncIteration:
            raise StopIteration from None

    def next(self, timeout: float) -> ScopeReset | Changes | None:
        """The next item; None if there is none within so many seconds, or none any more. Nothing is lost in either case."""

        async def item() -> ScopeReset | Changes | None:
            try:
                async with asyncio.timeout(timeout):
                    return await anext(self._feed)
            except (TimeoutError, StopAsyncIteration):
                return None

        return self._portal.run(item, None)

    def add(self, scopes: Iterable[str]) -> None:
        """See ``Feed.add``."""
        self._portal.run(lambda: self._feed.add(scopes))

    def drop(self, scopes: Iterable[str]) -> None:
        """See ``Feed.drop``."""

        async def drop() -> None:
            self._feed.drop(scopes)

        self._portal.run(drop)

    @property
    def in_sync(self) -> bool:
        """See ``Feed.in_sync``."""
        return self._feed.in_sync

    @property
    def revision(self) -> int:
        """See ``Feed.revision``."""
        return self._feed.revision

    @property
    def last_error(self) -> StoreError | None:
        """See ``Feed.last_error``."""
        return self._feed.last_error

    def close(self) -> None:
        """End the iteration, also that of a thread that waits in it."""
        self._portal.run(self._feed.aclose)
