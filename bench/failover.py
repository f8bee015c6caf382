"""What guests notice when the chassis that serves their router's gateway dies, and when it comes back.

    .venv/bin/python bench/failover.py [--rounds 5] [--json]

A lab of three hosts with a real Neutron. A guest of another host pings a machine outside every 10 ms, under its router's address,
while the ovs-vswitchd of the gateway's host is killed (-9) and started again 3 s later. A gap is the time between two answers
that are more than 50 ms apart. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console

from dragonflow.lab import Lab, Vm
from dragonflow.lab.system import wait_until
from paths import EXTERNAL, OUTSIDE, Cloud, Way, reaches

NAME = "failover"
HOSTS = ("host1", "host2", "host3")
SETTLED, AWAY, BACK = 4.0, 3.0, 8.0
"""Seconds: until BFD sessions send at full pace, how long the host is away, and until it surely serves again."""


def gaps(lab: Lab, guest: Vm, host: str) -> tuple[float, float]:
    """The longest gap, in s, while the host is away, and after it was started again."""
    command = ["ping", "-D", "-n", "-i", "0.01", OUTSIDE]
    pinging = subprocess.Popen(lab.vm_command(guest.port_id, command), stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    lab.process(f"ovs-{host}").kill()
    time.sleep(AWAY)
    started = time.time()
    lab.process(f"ovs-{host}").start()
    time.sleep(BACK)
    pinging.terminate()
    shown, _ = pinging.communicate()
    answered = [float(at) for at in re.findall(r"\[([\d.]+)\] \d+ bytes", shown)]
    found = [(one, other - one) for one, other in pairwise(answered) if other - one > 0.05]
    down = max((gap for at, gap in found if at < started), default=0.0)
    return down, max((gap for at, gap in found if at >= started), default=0.0)


def collect(lab: Lab, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    cloud = Cloud(lab)
    inner, subnet = cloud.network("10.81.0.0/24")
    outer, _ = cloud.network("203.0.113.0/24", **EXTERNAL)
    netns = lab.peer("outside", f"{OUTSIDE}/24", vlan=150)
    router = cloud.make("router", external_gateway_info={"network_id": outer["id"]})
    cloud.join(router, subnet)
    guests = {host: cloud.vm(inner, host) for host in HOSTS}
    found = []
    for number in range(1, rounds + 1):
        wait_until(lambda: cloud.serving(router) is not None, "the gateway to be served", 30)
        host = cloud.serving(router) or ""
        guest = next(vm for name, vm in guests.items() if name != host)
        wait_until(lambda guest=guest: reaches(lab, Way("", guest, netns, OUTSIDE)), "the way outside", 30)  # type: ignore[misc]
        time.sleep(SETTLED)
        found.append(gaps(lab, guest, host))
        say(f"round {number}: {found[-1][0]:.2f} s when {host} died, {found[-1][1]:.2f} s when it came back")
    died, back = zip(*found, strict=True)
    return {"died_s": sorted(died), "came_back_s": sorted(back)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=chosen.json)
    console.print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    lab = Lab.up(NAME, hosts=len(HOSTS), progress=console.print)
    try:
        result = collect(lab, chosen.rounds, console.print)
    finally:
        lab.down()
    if chosen.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
