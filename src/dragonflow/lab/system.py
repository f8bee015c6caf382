"""What the lab asks of the machine: run a command, wait for a condition, keep network namespaces.

Everything here is found again by name by the next process; nothing is kept in memory.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dragonflow.lab.uplink import entered

NETNS_DIR = Path("/run/netns")


class LabError(Exception):
    """The lab can't do what it was asked; the message says why and, where it helps, what there is instead."""


class TimedOut(LabError):
    """Something that was waited for didn't come."""


def run(
    command: Sequence[str],
    *,
    netns: str | None = None,
    stdin: str | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end, in a network namespace if one is named, and return what it printed.

    ``timeout`` is in seconds; ``env`` is added to the environment.

    :raises LabError: not found, no end in time, or an exit code other than 0; the message holds what it printed.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(
            [*inside(netns), *command],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | dict(env or {}),
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{error.filename}: not found; run `make setup` to install what the lab needs") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shown}: no end within {timeout:.0f} s") from error
    if done.returncode:
        raise LabError(f"{shown}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def inside(netns: str | None) -> list[str]:
    """What to put before a command so that it runs in a network namespace. The command keeps the process id.

    nsenter, not ``ip netns exec``: that one makes a mount namespace too, which would hold on to what is mounted today.
    """
    return [] if netns is None else ["nsenter", f"--net={NETNS_DIR / netns}", "--"]


def pings(netns: str, address: str, *options: str) -> bool:
    """Whether one of three echo requests, 0.2 s apart, is answered; the first answer ends it. ``options`` are ping's."""
    command = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", *options, address]
    with subprocess.Popen(
        [*inside(netns), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as ping:
        assert ping.stdout is not None
        answered = any("bytes from" in line for line in ping.stdout)
        ping.kill()
    return answered


def wait_until(condition: Callable[[], bool], what: str, timeout: float, interval: float = 0.02) -> None:
    """Poll ``condition`` until it holds.

    :raises TimedOut: it doesn't within ``timeout`` seconds; ``what`` says what was waited for.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimedOut(f"{what}: not within {timeout:.0f} s")
        time.sleep(interval)


def netns_exists(name: str) -> bool:
    """Whether there is a network namespace of that name."""
    return (NETNS_DIR / name).exists()


def netns_names() -> list[str]:
    """All named network namespaces of this machine."""
    return sorted(path.name for path in NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else []


def netns_add(name: str) -> None:
    """Make a network namespace with its loopback up."""
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def netns_delete(name: str) -> None:
    """Delete a network namespace; a veth end in it goes, and its other end too."""
    run(["ip", "netns", "delete", name])


def netns_pids(name: str) -> set[int]:
    """The processes that run in a network namespace."""
    return {int(pid) for pid in run(["ip", "netns", "pids", name]).split()}


def ip(netns: str, *commands: str) -> None:
    """Carry out ``ip`` commands in a namespace, in one go: ``ip(ns, "link set eth0 up", "addr add …")``."""
    run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(commands) + "\n")


def sysctl(netns: str, settings: Mapping[str, str]) -> None:
    """Write kernel settings of a network namespace, by path below /proc/sys."""
    with entered(str(NETNS_DIR / netns)):  # whose settings these files are, depends on the thread that opens them
        for path, value in settings.items():
            Path("/proc/sys", path).write_text(f"{value}\n")


def offload_off(netns: str, *interfaces: str) -> None:
    """Have checksums of what an interface sends computed at once.

    A veth leaves that to hardware that isn't there, and Open vSwitch in user space passes the wrong sums on.
    """
    for interface in interfaces:
        run(["ethtool", "-K", interface, "tx", "off"], netns=netns)


def unmount_below(directory: Path) -> None:
    """Unmount whatever is mounted below a directory, even while something still uses it."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{directory}/"):
            run(["umount", "--lazy", place])


def require_root(what: str) -> None:
    """:raises LabError: the caller is not root."""
    if os.geteuid() != 0:
        raise LabError(f"{what} needs root: it makes network namespaces and runs Open vSwitch. Try sudo.")


def listed(names: Iterable[str]) -> str:
    """Names for an error message."""
    return ", ".join(names) or "none"
