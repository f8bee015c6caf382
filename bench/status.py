"""The way back at scale: ten thousand ports that turn ACTIVE at once, beside what Neutron alone takes for as many.

    .venv/bin/python bench/status.py [--ports 10000] [--alone 300] [--json]

A real MariaDB, a DF DB in SQLite, one real Neutron process with our driver. The ports are lines in Neutron's tables, bound to a
hundred simulated chassis.

- storm: all chassis say ACTIVE of all their ports at once; until the last is ACTIVE in Neutron's SQL, ports a second
- alone: Neutron's own ``provisioning_complete``, one port after the other, in a process without Dragonflow: the floor
- restart: a server that comes up where one status in a hundred is wrong; until they are right, and the lines written
- idle: processor time of the leader while nothing happens, of a core
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

# The processes that the tests of Neutron's side run are what is measured here.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "neutron"))
from many import many_ports, say
from region import Region, Server, region, until

from dragonflow.neutron.leader import KEY

HOSTS = [f"host{number}" for number in range(100)]
TICK = 1 / os.sysconf("SC_CLK_TCK")
IDLE = 20.0
TIMEOUT = 3600.0


def processor_time(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def active(made: Region) -> int:
    with made.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT COUNT(*) FROM ports WHERE status = 'ACTIVE'").scalar_one())


def storm(made: Region, server: Server, ports: list[str]) -> dict[str, float]:
    before, used, began = active(made), processor_time(server), time.monotonic()
    say(made, "ACTIVE", ports)
    told = time.monotonic()
    until(lambda: active(made) - before == len(ports), TIMEOUT)
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "ports_per_second": len(ports) / seconds,
        "told_in_seconds": told - began,
        "processor_ms_per_port": (processor_time(server) - used) / len(ports) * 1e3,
    }


def alone(made: Region, ports: list[str]) -> dict[str, float]:
    """The same for so many ports with nothing of Dragonflow in the process."""
    script = Path(__file__).with_name("neutron_alone.py")
    conf = str(made.home / "neutron.conf")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with (made.home / "alone.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(script), conf],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit((made.home / "alone.log").read_text()[-2000:])
            warm = ports[:10]
            took, processor = [], []
            for port in ports:
                print(port, file=process.stdin, flush=True)
                report = json.loads(process.stdout.readline())
                if port not in warm:
                    took.append(report["took"])
                    processor.append(report["processor"])
        finally:
            process.kill()
            process.wait()
    return {
        "ports_per_second": len(took) / sum(took),
        "milliseconds_p50": median(took) * 1e3,
        "processor_ms_per_port": median(processor) * 1e3,
    }


def restart(made: Region, server: Server, ports: list[str]) -> dict[str, float]:
    server.end()
    wrong = ports[::100]
    say(made, "DOWN", wrong)
    until(lambda: made.dfdb.store.get(KEY) is None)
    with made.engine.begin() as connection:
        connection.exec_driver_sql("SET GLOBAL userstat = 1")
        connection.exec_driver_sql("FLUSH TABLE_STATISTICS")
    made.start_servers(1)
    until(lambda: made.leader() is not None)
    began = time.monotonic()
    until(lambda: made.all_are("DOWN", wrong), TIMEOUT)
    seconds = time.monotonic() - began
    with made.engine.begin() as connection:
        lines = connection.exec_driver_sql(
            "SELECT ROWS_CHANGED FROM information_schema.TABLE_STATISTICS WHERE TABLE_NAME = 'ports'"
        ).scalar_one()
    return {"seconds": seconds, "wrong": len(wrong), "written": int(lines)}


def idle(server: Server) -> float:
    """While the comparison in the background goes round, too. Its first pass still mends: the ports have no keys."""
    until(lambda: "df: mended key:port" in server.log.read_text(), TIMEOUT)
    time.sleep(IDLE)
    used = processor_time(server)
    time.sleep(IDLE)
    return (processor_time(server) - used) / IDLE


def measure(ports: int, floor: int, console: Console) -> dict[str, Any]:
    with region() as made:
        made.options |= {"repair_rate": "40", "reconcile_period": "5"}
        made.start_nova()
        made.chassis(*HOSTS)
        (server,) = made.start_servers(1)
        until(lambda: made.leader() is not None)
        console.print("one server leads")
        ids = many_ports(made, server, ports + floor, HOSTS)
        ours, theirs = ids[:ports], ids[ports:]
        console.print(f"{len(ids)} ports made")
        found: dict[str, Any] = {"ports": ports, "storm": storm(made, server, ours)}
        console.print(f"storm over after {found['storm']['seconds']:.0f} s")
        found["alone"] = alone(made, theirs)
        say(made, "ACTIVE", theirs)
        found["idle"] = idle(server)
        found["restart"] = restart(made, server, ours)
        found["ratio"] = found["storm"]["ports_per_second"] / found["alone"]["ports_per_second"]
        return found


def show(console: Console, found: dict[str, Any]) -> None:
    table = Table(title=f"{found['ports']} statuses", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    storm, alone, restart = found["storm"], found["alone"], found["restart"]
    rows = [
        ("storm, ports/s", f"{storm['ports_per_second']:.1f}"),
        ("Neutron alone, ports/s (the floor)", f"{alone['ports_per_second']:.1f}"),
        ("storm : alone", f"{found['ratio']:.2f}"),
        ("processor time a port, storm, ms", f"{storm['processor_ms_per_port']:.0f}"),
        ("processor time a port, alone, ms", f"{alone['processor_ms_per_port']:.0f}"),
        (f"restart: {restart['wrong']} wrong ones right after, s", f"{restart['seconds']:.1f}"),
        ("restart: lines of ports written", f"{restart['written']}"),
        ("idle leader, % of a core", f"{found['idle'] * 100:.1f}"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(found["conditions"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ports", type=int, default=10_000, help="how many ports turn at once")
    parser.add_argument("--alone", type=int, default=300, help="how many ports Neutron turns alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    found = measure(options.ports, options.alone, console)
    found["conditions"] = f"CPython {platform.python_version()}, {os.cpu_count()} cores, load {load}; DF DB in SQLite"
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(console, found)


if __name__ == "__main__":
    main()
