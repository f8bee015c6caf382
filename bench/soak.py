"""Break a lab at random for as long as one wants, and print what came of it: ``python bench/soak.py --store etcd --minutes 30``.

Each round one fault of ``dragonflow.lab.chaos`` strikes while ports change; a silent partition lasts more than a minute, in
which 200 change. The same seed gives the same order of faults, hosts and changes. Exit code 1: something was lost, late or wrong.
Needs root.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dragonflow.lab import Lab, LabError, clean, state
from dragonflow.lab.chaos import FAULTS, Fault, Ground, Outcome, repairs, suffer
from dragonflow.lab.servers import BUSES, STORES

SCALES = {"partition, silent": 10.0}
"""How much longer than in CI a fault lasts, and how many more ports change meanwhile; others as in ``FAULTS``."""

DISK = 64


def order(faults: Sequence[Fault], chance: random.Random) -> list[Fault]:
    """Each fault once, in an order by chance: so none is left out of a soak that is long enough."""
    return chance.sample(faults, len(faults))


def soak(ground: Ground, end: float, chance: random.Random, console: Console, chosen: Sequence[str]) -> list[Outcome]:
    """Strike until the time is up; each fault once at least."""
    faults = [fault for fault in FAULTS if fault.who(ground.lab) and (not chosen or fault.name in chosen)]
    outcomes: list[Outcome] = []
    while not outcomes or time.monotonic() < end:
        for fault in order(faults, chance):
            if outcomes and time.monotonic() > end and len(outcomes) >= len(faults):
                break
            outcome = suffer(ground, fault, scale=SCALES.get(fault.name, 1.0))
            outcomes.append(outcome)
            console.print(f"[{time.strftime('%H:%M:%S')}] {outcome}", markup=False, highlight=False, soft_wrap=True)
        found = repairs(ground)
        for finding in found:
            console.print(finding, markup=False, highlight=False, soft_wrap=True)
        outcomes[-1].violations += found
    return outcomes


def table(outcomes: Sequence[Outcome]) -> Table:
    """Faults and their outcomes."""
    made = Table(title="What came of it", title_justify="left", header_style="bold")
    for column in ("fault", "times", "changes", "all right: median s", "longest s", "violations"):
        made.add_column(column, justify="left" if column == "fault" else "right")
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.fault == name]
        took = [outcome.recovery for outcome in mine if outcome.recovery is not None]
        median, longest = (
            (f"{statistics.median(took):.1f}", f"{max(took):.1f}") if len(took) == len(mine) else ("-", "never")
        )
        bad = sum(len(outcome.violations) for outcome in mine)
        changes = sum(outcome.changes for outcome in mine)
        made.add_row(name, str(len(mine)), str(changes), median, longest, f"[red]{bad}[/]" if bad else "0")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="etcd")
    parser.add_argument("--bus", choices=BUSES, default="zmq")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="default: by the clock; it is printed")
    parser.add_argument("--fault", action="append", default=[], choices=[fault.name for fault in FAULTS])
    parser.add_argument("--keep", action="store_true", help="leave the lab up if something was wrong")
    options = parser.parse_args()
    console = Console()
    seed = int(time.time()) if options.seed is None else options.seed
    console.print(f"seed {seed}", highlight=False)
    disk = None if options.store == "sqlite" else DISK
    name = "soak"
    with state.locked(name):
        clean(name)
    try:
        lab = Lab.up(
            name,
            hosts=options.hosts,
            store=options.store,
            bus=options.bus,
            neutron_servers=2,
            lossy=options.bus != "store",
            disk=disk,
            progress=lambda text: console.print(text, highlight=False, soft_wrap=True),
        )
    except LabError as error:
        console.print(f"error: {error}", highlight=False, soft_wrap=True)
        return 1
    bad = True
    try:
        ground = Ground(lab, seed)
        began = time.monotonic()
        outcomes = soak(ground, began + 60 * options.minutes, random.Random(seed), console, options.fault)
        ground.close()
        probes = ground.matrix.sent(began)
        bad = any(outcome.violations for outcome in outcomes)
        console.print(table(outcomes))
        changes = sum(outcome.changes for outcome in outcomes)
        minutes = (time.monotonic() - began) / 60
        console.print(
            f"{minutes:.1f} minutes, {len(outcomes)} faults, {changes} changes, {probes} probes", highlight=False
        )
    finally:
        if bad and options.keep:
            console.print(f"the lab {name!r} stays up: `dragonflow lab info --name {name}`", highlight=False)
        else:
            lab.down()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
