"""Fan-out: one publisher, hundreds of subscribers with sockets of their own, over each bus and over each store's own watch.

    .venv/bin/python bench/pubsub.py [--subscribers 500] [--messages 200] [--drivers zmq+ipc,redis,…] [--json]

- latency: from the publish (or commit) call until a subscriber has the message, over all subscribers; messages come one at a time
- last: the same until the last of the subscribers has it
- deliveries/s: messages as fast as they can be published, until all subscribers have all
- publisher: CPU time of the publishing process a message

The subscribers live in a few processes, each with a connection of its own (SQLite: a client a process, for it has no server).
A subscriber of ZeroMQ only listens here: in production each binds a socket too, but then there are as many processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from statistics import quantiles
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from dragonflow.lab.etcd import EtcdCluster
from dragonflow.lab.redis import RedisServers
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import CHANGES, Message
from dragonflow.pubsub.zmq import ZmqPubSub
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Record, Store, Txn, Unavailable

ROW = b'{"schema":"LogicalPort/1"}'.ljust(300, b" ")
"""A port's row is about this long."""

DRIVERS = ("zmq+ipc", "zmq+tcp", "redis", "watch sqlite", "watch redis", "watch etcd")

SINGLE = 50
"""Messages that are sent one at a time, each when all have the last."""

SCOPE, KIND = "net:bench", "Row"


class Ways(msgspec.Struct):
    """How a driver is reached."""

    store: str
    bus: str | None
    """None for the store's own watch."""


def now() -> float:
    """A clock that all processes of the machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


# -- subscribers, in processes of their own ---------------------------------------------------------------------------


class Reader:
    """What one subscriber heard: ``single`` are the arrivals of messages sent one at a time, ``end`` that of the last of all."""

    def __init__(self, heard_alone: Callable[[str], None]) -> None:
        self._heard_alone = heard_alone
        self._begun = False
        self.single: dict[str, float] = {}
        self.burst = 0
        self.end = 0.0

    def hear(self, label: str) -> bool:
        """Note a message; False says that it was the last."""
        kind = label.partition(":")[0]
        if kind == "meet" and not self._begun:
            self._begun = True
            self._heard_alone("met")
        elif kind == "single":
            self.single[label] = now()
            self._heard_alone(label)
        elif kind in ("burst", "end"):
            self.burst += 1
            self.end = now()
        return kind != "end"


async def labels(ways: Ways, store: Store) -> AsyncIterator[str]:
    """The messages of one subscriber, over a bus or a watch."""
    if ways.bus is None:
        start = await revision_of(store)
        async with aclosing(store.watch({SCOPE: start})) as watch:
            while True:
                try:
                    changes = await anext(watch)
                except Unavailable:  # so many at once were too much for this machine; the watch resumes by itself
                    await asyncio.sleep(random.uniform(0.1, 0.5))
                    continue
                for record in changes.records:
                    yield record.key.id
    bus = open_pubsub(ways.bus, store)
    if isinstance(bus, ZmqPubSub):
        bus._bind = lambda: None  # type: ignore[method-assign] # it only listens; see above
    async with aclosing(bus.subscribe([CHANGES])) as messages:
        async for message in messages:
            yield message.records[0].key.id
    await bus.close()


async def run_readers(ways: Ways, count: int) -> None:
    """Print a line whenever all have heard a message that was sent alone, and what they heard when all have heard the last."""
    heard_by: Counter[str] = Counter()

    def heard_alone(label: str) -> None:
        heard_by[label] += 1
        if heard_by[label] == count:
            print(label, flush=True)

    own = ways.bus is None and not ways.store.startswith("sqlite")
    stores = [open_store(ways.store) for _ in range(count if own else 1)]

    async def read(number: int) -> Reader:
        reader = Reader(heard_alone)
        async with aclosing(labels(ways, stores[number % len(stores)])) as heard:
            async for label in heard:
                if not reader.hear(label):
                    break
        return reader

    readers = await asyncio.gather(*map(read, range(count)))
    print(json.dumps([[reader.single, reader.burst, reader.end] for reader in readers]), flush=True)
    for store in stores:
        await store.close()


async def revision_of(store: Store) -> int:
    """Where to begin; tried again where so many connections at once take a small machine too long."""
    async with asyncio.timeout(100):
        while True:
            with contextlib.suppress(Unavailable):
                return (await store.snapshot(())).revision
            await asyncio.sleep(random.uniform(0.5, 1.5))


# -- the publisher ----------------------------------------------------------------------------------------------------


async def publisher(ways: Ways) -> AsyncIterator[Callable[[str], Any]]:
    store = open_store(ways.store)
    bus = None if ways.bus is None else open_pubsub(ways.bus, store)
    revision = 0

    async def publish(label: str) -> None:
        nonlocal revision
        revision += 1
        key = Key(SCOPE, KIND, label)
        if bus is None:
            await store.commit(Txn((Put(key, ROW),)))
        else:
            await bus.publish(Message(CHANGES, (Record(key, ROW, revision),)))

    yield publish
    if bus is not None:
        await bus.close()
    await store.close()


async def measure(ways: Ways, subscribers: int, processes: int, messages: int) -> dict[str, float]:
    """The figures of one driver."""
    share = [len(range(number, subscribers, processes)) for number in range(processes)]
    readers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--readers",
            str(count),
            "--ways",
            msgspec.json.encode(ways).decode(),
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        for count in share
        if count
    ]
    try:
        async with contextlib.aclosing(publisher(ways)) as made:
            publish = await anext(made)
            await meet(publish, readers)
            sent = {}
            for number in range(SINGLE):
                label = f"single:{number}"
                sent[label] = now()
                await publish(label)
                for line in await asyncio.gather(*map(line_of, readers)):
                    assert line.decode().strip() == label
            began, used = now(), time.process_time()
            for number in range(messages - 1):
                await publish(f"burst:{number}")
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await publish("end:")
            lines = await asyncio.gather(*(line_of(reader) for reader in readers))
            used = time.process_time() - used
    finally:
        for reader in readers:
            with contextlib.suppress(ProcessLookupError):
                reader.kill()
            await reader.wait()
    heard = [one for line in lines for one in json.loads(line)]
    latencies = [at - sent[label] for single, _, _ in heard for label, at in single.items()]
    last = [max(single.get(label, began) for single, _, _ in heard) - at for label, at in sent.items()]
    return {
        "p50_ms": quantiles(latencies, n=100)[49] * 1e3,
        "p99_ms": quantiles(latencies, n=100)[98] * 1e3,
        "last_p50_ms": quantiles(last, n=100)[49] * 1e3,
        "last_p99_ms": quantiles(last, n=100)[98] * 1e3,
        "deliveries_per_s": sum(burst for _, burst, _ in heard) / (max(end for _, _, end in heard) - began),
        "missed": subscribers * messages - sum(burst for _, burst, _ in heard),
        "publisher_us": used / messages * 1e6,
    }


async def meet(publish: Callable[[str], Any], readers: list[asyncio.subprocess.Process]) -> None:
    """Publish until every subscriber has heard something: sockets take their time to find each other."""
    ready = asyncio.gather(*(line_of(reader) for reader in readers))
    number = 0
    async with asyncio.timeout(120):
        while not ready.done():
            with contextlib.suppress(Unavailable):
                await publish(f"meet:{number}")
            number += 1
            await asyncio.sleep(0.5)
    await ready


async def line_of(reader: asyncio.subprocess.Process) -> bytes:
    assert reader.stdout is not None
    async with asyncio.timeout(120):
        line = await reader.stdout.readline()
    if not line:
        raise SystemExit("a process of subscribers ended; see above")
    return line


@contextlib.contextmanager
def servers(driver: str, directory: Path) -> Iterator[Ways]:
    """What a driver needs, as long as the context."""
    sqlite = f"sqlite://{directory}/db"
    with contextlib.ExitStack() as ends:
        match driver:
            case "zmq+ipc":
                yield Ways(sqlite, f"zmq+ipc://{directory}/bus")
            case "zmq+tcp":
                yield Ways(sqlite, "zmq+tcp://127.0.0.1")
            case "watch sqlite":
                yield Ways(sqlite, None)
            case "watch etcd":
                etcd = EtcdCluster(directory, directory / "etcd", 1)
                etcd.make()
                ends.callback(etcd.kill)
                etcd.start()
                yield Ways(etcd.url, None)
            case "redis" | "watch redis":
                redis = ends.enter_context(RedisServers(directory, directory / "redis", size=1, sentinels=0))
                yield Ways(sqlite, redis.url) if driver == "redis" else Ways(redis.url, None)
            case _:
                raise SystemExit(f"no driver {driver!r}; there are: {', '.join(DRIVERS)}")


def table(result: dict[str, dict[str, float]], options: argparse.Namespace) -> Table:
    table = Table("over", title=f"one publisher, {options.subscribers} subscribers", title_justify="left")
    for head in ("latency p50/p99", "last p50/p99", "deliveries/s", "missed", "publisher"):
        table.add_column(head, justify="right")
    for driver, found in result.items():
        table.add_row(
            driver,
            f"{found['p50_ms']:.1f} / {found['p99_ms']:.1f} ms",
            f"{found['last_p50_ms']:.1f} / {found['last_p99_ms']:.1f} ms",
            f"{found['deliveries_per_s']:,.0f}",
            f"{found['missed']:,.0f}",
            f"{found['publisher_us']:,.0f} µs",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4, help="processes that share the subscribers")
    parser.add_argument("--messages", type=int, default=200, help="messages of the measurement of deliveries a second")
    parser.add_argument("--drivers", default=",".join(DRIVERS))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--readers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ways", help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.readers:
        asyncio.run(run_readers(msgspec.json.decode(options.ways, type=Ways), options.readers))
        return
    console = Console(stderr=options.json)
    conditions = (
        f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}, subscribers in {options.processes} processes, messages of {len(ROW)} bytes",
    )
    console.print(*conditions, sep="\n", highlight=False)
    result: dict[str, dict[str, float]] = {}
    for driver in options.drivers.split(","):
        with (
            tempfile.TemporaryDirectory(prefix="dragonflow-bench-") as directory,
            servers(driver, Path(directory)) as ways,
        ):
            result[driver] = asyncio.run(measure(ways, options.subscribers, options.processes, options.messages))
    if options.json:
        print(json.dumps({"conditions": conditions, "subscribers": options.subscribers, "drivers": result}, indent=2))
    else:
        console.print(table(result, options))


if __name__ == "__main__":
    main()
