"""The DF DB and the bus, each from the outside: as the processes of one machine use them.

    .venv/bin/python bench/store.py [--rows 100000] [--commits 1000] [--directory DIR | --store URL]

Without --store it is the embedded one, with its bus. With it, the DF DB of the URL, which nobody else should use: the rows stay.

- commits: fsynced transactions a second of one process one after the other, of several processes at once, and of 100 rows each
- watch: from the writer's commit call until another process's watch yields, woken by its poll or by a message on the bus
- snapshot: all rows at once; the longest that the event loop was kept from turning meanwhile; and a feed's catching up
- pub/sub: from publish to a subscriber in another process, and deliveries a second to many subscribers
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from statistics import quantiles

import zmq
from rich.console import Console
from rich.table import Table

from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.news import commit, pass_hints
from dragonflow.pubsub.protocol import CHANGES, Message
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Record, Store, Txn

ROW = b'{"schema":"LogicalPort/1","id":"%s"}'.ljust(300, b" ")
"""A port's row is about this long."""

ECHO = Key("net:bench", "Echo", "1")


async def commits(store: Store, count: int, rows: int = 1) -> float:
    """Transactions a second, one after the other."""
    began, tag = time.perf_counter(), random.randrange(2**32)
    for i in range(count):
        await store.commit(Txn(tuple(Put(Key("net:bench", "Row", f"{tag}.{i}.{j}"), ROW) for j in range(rows))))
    return count / (time.perf_counter() - began)


async def together(url: str, count: int, processes: int) -> float:
    """Transactions a second of several processes that write at once."""
    began = time.perf_counter()
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, __file__, "--writer", str(count), "--store", url)
        for _ in range(processes)
    ]
    for writer in writers:
        await writer.wait()
    return processes * count / (time.perf_counter() - began)


async def watch_latency(url: str, bus_url: str = "store", count: int = 200) -> list[float]:
    """Seconds from the commit call here until a watch in another process has it; that process stamps what it saw."""
    echo = subprocess.Popen(
        [sys.executable, __file__, "--echo", bus_url, "--store", url],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert echo.stdout is not None
    store = open_store(url)
    bus = open_pubsub(bus_url, store)
    try:
        assert await asyncio.to_thread(echo.stdout.readline) == "ready\n"
        if bus_url != "store":
            await bus.publish(Message(CHANGES, ()))
            await asyncio.sleep(1)  # the sockets find each other
        seconds = []
        for _ in range(count):
            await asyncio.sleep(random.uniform(0.001, 0.021))
            began = time.clock_gettime(time.CLOCK_MONOTONIC)
            await commit(store, bus, Txn((Put(ECHO, b"x"),)))
            seconds.append(float(await asyncio.to_thread(echo.stdout.readline)) - began)
        return seconds
    finally:
        echo.kill()
        echo.wait()
        await bus.close()
        await store.close()


async def run_echo(url: str, bus_url: str) -> None:
    """The other process of ``watch_latency``: print the time at which each change was seen."""
    store = open_store(url)
    bus = open_pubsub(bus_url, store)
    hints = asyncio.create_task(pass_hints(store, bus))
    async with aclosing(store.watch({ECHO.scope: (await store.snapshot(())).revision})) as watch:
        print("ready", flush=True)
        async for _ in watch:
            print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
    await hints


async def snapshot(store: Store, rows: int) -> tuple[float, float, float]:
    """Fill the store; seconds of a snapshot, the loop's longest pause meanwhile, and those of a watch of all of it."""
    start = (await store.snapshot(())).revision
    for first in range(0, rows, 100):
        keys = (Key(f"net:{i % 100}", "LogicalPort", f"{i:036d}") for i in range(first, min(rows, first + 100)))
        await store.commit(Txn(tuple(Put(key, ROW) for key in keys)))
    pauses = [0.0]

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    began = time.perf_counter()
    taken = await store.snapshot(["net:*"])
    seconds = time.perf_counter() - began
    ticking.cancel()
    with suppress(asyncio.CancelledError):
        await ticking
    assert len(taken.records) >= rows
    began = time.perf_counter()
    told = 0
    async with aclosing(store.watch({"net:*": start})) as watch:
        while told < rows:
            told += len((await anext(watch)).records)
    return seconds, max(pauses), time.perf_counter() - began


async def fan_out(directory: Path, subscribers: int, messages: int) -> float:
    """Deliveries a second of one publisher to subscribers in one other process, until all have all."""
    reader = subprocess.Popen(
        [
            sys.executable,
            __file__,
            "--readers",
            str(subscribers),
            "--commits",
            str(messages),
            "--directory",
            str(directory),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    store = open_store(f"sqlite://{directory}/db")
    bus = open_pubsub(f"zmq+ipc://{directory}/bus", store)
    try:
        line = asyncio.ensure_future(asyncio.to_thread(reader.stdout.readline))
        while not line.done():  # until all readers have heard the first
            await bus.publish(Message(CHANGES, ()))
            await asyncio.sleep(0.05)
        began = time.perf_counter()
        for revision in range(messages):
            await bus.publish(Message(CHANGES, (Record(ECHO, ROW, revision + 1),)))
            if revision % 100 == 99:
                await asyncio.sleep(0)
        assert await asyncio.to_thread(reader.stdout.readline) == "done\n"
        return subscribers * messages / (time.perf_counter() - began)
    finally:
        reader.kill()
        reader.wait()
        await bus.close()
        await store.close()


async def run_readers(directory: Path, subscribers: int, messages: int) -> None:
    """The other process of ``fan_out``."""
    store = open_store(f"sqlite://{directory}/db")
    buses = [open_pubsub(f"zmq+ipc://{directory}/bus", store) for _ in range(subscribers)]
    met = 0

    async def read(number: int) -> None:
        nonlocal met
        got = 0
        async with aclosing(buses[number].subscribe([CHANGES])) as heard:
            async for message in heard:
                if not message.records:
                    met += not got
                    got = got or 1
                    if met == subscribers:
                        met += 1
                        print("ready", flush=True)
                elif message.records[-1].revision == messages:
                    return

    await asyncio.gather(*map(read, range(subscribers)))
    print("done", flush=True)
    for bus in buses:
        await bus.close()
    await store.close()


def milliseconds(seconds: Sequence[float]) -> str:
    cuts = quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms"


async def bench(url: str, directory: Path | None, options: argparse.Namespace) -> Table:
    """The figures of a DF DB, and of the bus in a directory beside the embedded one."""
    title = "DF DB in SQLite (WAL, synchronous=FULL) and ZeroMQ (ipc)" if directory else "DF DB"
    table = Table("what", "figure", title=title, title_justify="left")
    store = open_store(url)
    await store.snapshot(())
    table.add_row("commits of 1 row, one process", f"{await commits(store, options.commits):,.0f} /s")
    table.add_row("rows, committed 100 at a time", f"{100 * await commits(store, options.commits // 10, 100):,.0f} /s")
    together_rate = await together(url, options.commits, 4)
    table.add_row("commits of 1 row, 4 processes, with their start", f"{together_rate:,.0f} /s")
    table.add_row("commit → watch of another process", milliseconds(await watch_latency(url)))
    if directory:
        hinted = await watch_latency(url, f"zmq+ipc://{directory}/bus")
        table.add_row("commit → watch of another process, by message", milliseconds(hinted))
    whole, pause, caught_up = await snapshot(store, options.rows)
    table.add_row(
        f"snapshot of {options.rows:,} rows", f"{whole:.2f} s (longest pause of the loop {pause * 1e3:.0f} ms)"
    )
    table.add_row("watch from the beginning, the same rows", f"{caught_up:.2f} s")
    await store.close()
    for subscribers in (1, 20) if directory else ():
        rate = await fan_out(directory, subscribers, 20_000 // subscribers)
        table.add_row(f"bus, {subscribers} subscribers in one process", f"{rate:,.0f} deliveries/s")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--directory", type=Path, help="where to put the DF DB: the figures are those of its disk")
    parser.add_argument(
        "--store", metavar="URL", help="the DF DB to measure instead of an embedded one; its rows stay there"
    )
    parser.add_argument("--writer", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    parser.add_argument("--readers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        asyncio.run(run_writer(options.store, options.writer))
    elif options.echo:
        asyncio.run(run_echo(options.store, options.echo))
    elif options.readers:
        asyncio.run(run_readers(options.directory, options.readers, options.commits))
    else:
        console = Console()
        conditions = (
            f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}",
            f"rows of {len(ROW)} bytes",
        )
        console.print(*conditions, sep="\n", highlight=False)
        if options.store:
            console.print(options.store.partition("?")[0], highlight=False)
            console.print(asyncio.run(bench(options.store, None, options)))
            return
        with tempfile.TemporaryDirectory(prefix="dragonflow-bench-", dir=options.directory) as directory:
            console.print(f"SQLite {sqlite3.sqlite_version}, libzmq {zmq.zmq_version()}, {directory}", highlight=False)
            console.print(asyncio.run(bench(f"sqlite://{directory}/db", Path(directory), options)))


async def run_writer(url: str, count: int) -> None:
    store = open_store(url)
    await commits(store, count)
    await store.close()


if __name__ == "__main__":
    main()
