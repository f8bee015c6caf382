"""What of a lab can be faulted: a daemon, or several that are ended and started together.

A fault is a SIGKILL, a clean stop and a start. Nothing is restarted by itself, so that a fault lasts as long as one wants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from dragonflow.lab.daemon import Daemon


class Process(Protocol):
    """Something that can be killed, stopped and started again. What has no process of its own has no pid and no log."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        ...

    @property
    def log(self) -> Path | None:
        """Where it logs."""
        ...

    def kill(self) -> None:
        """End it without a warning."""
        ...

    def stop(self) -> None:
        """End it as a service manager would."""
        ...

    def start(self) -> None:
        """Start it on the data and configuration it had; returns when it does its work."""
        ...


class Server:
    """A daemon with what is needed to start it and to know that it works."""

    def __init__(self, daemon: Daemon, start: Callable[[], None]) -> None:
        self.daemon = daemon
        self.start = start
        self.kill = daemon.kill
        self.stop = daemon.stop

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.daemon.pid

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self.daemon.log


class Whole(Protocol):
    """Servers that make one thing together, such as a cluster of a store."""

    @property
    def processes(self) -> Mapping[str, Process]:
        """Its members by name."""
        ...

    def start(self) -> None:
        """Start what doesn't run; returns when all of it does its work."""
        ...


class Group:
    """All members of a whole under one name: each is ended, and all are started together."""

    pid = None
    log = None

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self.start = whole.start

    def kill(self) -> None:
        """SIGKILL to each."""
        for member in self._whole.processes.values():
            member.kill()

    def stop(self) -> None:
        """SIGTERM to each."""
        for member in self._whole.processes.values():
            member.stop()
