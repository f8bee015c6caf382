"""How much of a core an idle controller takes.

    .venv/bin/python bench/idle.py [--store URL ...] [--known 1000,10000] [--seconds 20]

Needs root, as bench/controller.py, whose world this is: 100 ports are plugged here and proven again, one a second; the rest
are on 99 other chassis. A DF DB other than SQLite must be empty and is not emptied afterwards. Nothing changes meanwhile.
The budget is 0.5 % of a core; ovs-vswitchd's own share is shown beside, with a controller and without one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from controller import LOCAL, Bench
from dragonflow.lab.vswitch import VSwitch

_TICK = os.sysconf("SC_CLK_TCK")


class Idle(NamedTuple):
    """Per cent of a core."""

    controller: float
    vswitchd: float
    vswitchd_alone: float


async def measure(store: str | None, known: int, seconds: float) -> Idle:
    netns = f"df-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="df-bench-") as name:
        subprocess.run(["ip", "netns", "add", netns], check=True)
        switch = VSwitch(Path(name) / "ovs", netns)
        try:
            taps = "".join(f"tuntap add vm{number} mode tap\n" for number in range(LOCAL))
            subprocess.run(["ip", "-n", netns, "-batch", "-"], input=taps.encode(), check=True)
            switch.start()
            bench = Bench(Path(name), switch, store)
            await bench.fill(known, 2)
            vswitchd = switch.pids["ovs-vswitchd"]
            async with bench.controller() as (process, _):
                await bench.plug(range(min(LOCAL, known)))
                await asyncio.sleep(2)
                (own, others) = await _shares([process.pid, vswitchd], seconds)
            (alone,) = await _shares([vswitchd], seconds / 2)
        finally:
            switch.stop()
            subprocess.run(["ip", "netns", "delete", netns], check=True)
    return Idle(own, others, alone)


async def _shares(pids: list[int], seconds: float) -> list[float]:
    """Per cent of a core that each process takes in the coming seconds."""
    before, began = [_ticks(pid) for pid in pids], time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return [(_ticks(pid) - was) / _TICK / took * 100 for pid, was in zip(pids, before, strict=True)]


def _ticks(pid: int) -> int:
    """User and system time of all threads, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", help="the URL of an empty DF DB; may be repeated. Default: SQLite")
    parser.add_argument("--known", default="1000,10000", help="numbers of known ports, ascending, with commas")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look on")
    options = parser.parse_args()
    table = Table(title="idle, % of a core", title_justify="left")
    for column in ("DF DB", "ports known", "controller", "vswitchd", "vswitchd alone"):
        table.add_column(column, justify="left" if column == "DF DB" else "right")
    for store in options.store or [None]:
        for known in map(int, options.known.split(",")):
            it = asyncio.run(measure(store, known, options.seconds))
            table.add_row((store or "sqlite").partition(":")[0], f"{known:,}", *(f"{share:.2f}" for share in it))
    Console().print(table)


if __name__ == "__main__":
    main()
