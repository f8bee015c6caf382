"""A process that outlives the command that started it, and that the next command finds again.

Each daemon leads a session of its own, logs to a file, and carries the lab's home in its environment. What is known of it lies
in a small file: process id and start time, so that a process id that has gone to somebody else is never mistaken for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from dragonflow.lab.system import LabError, inside, wait_until

MARK = "DRAGONFLOW_LAB_HOME"
"""The environment variable by which the clean-up knows what a crashed lab left behind."""

_STOP_TIMEOUT = 15.0


class _Record(msgspec.Struct, frozen=True):
    pid: int
    started: int
    boot: str


class Daemon:
    """One process of a lab, running or not. ``home`` is the lab's directory, ``directory`` where this one's files lie."""

    def __init__(
        self,
        name: str,
        home: Path,
        directory: Path,
        command: Sequence[str],
        *,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.home, self.directory, self.netns = name, home, directory, netns
        self._command = [*inside(netns), *command]
        self._env = dict(env or {}) | {MARK: str(home)}
        self._file = directory / f"{name}.process"
        self.log = directory / f"{name}.log"

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        try:
            record = msgspec.json.decode(self._file.read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return record.pid if record.boot == _boot() and _started(record.pid) == record.started else None

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start it if it doesn't run; returns at once. ``env`` is for this start only."""
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=os.environ | self._env | dict(env or {}),
                start_new_session=True,
            )
        started = _started(child.pid)
        if started is not None:
            record = _Record(child.pid, started, _boot())
            part = self._file.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(record))
            part.replace(self._file)
        child.returncode = 0  # it is nobody's child: without this, Popen would warn that it still runs

    def kill(self) -> None:
        """SIGKILL to it and to whatever it started in its session."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that doesn't help."""
        try:
            self._end(signal.SIGTERM)
        except LabError:
            self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            return

        def gone() -> bool:
            members = [each for each in all_pids() if session_of(each) == pid and alive(each)]
            for each in members if how == signal.SIGKILL else ():  # again and again: one may have forked meanwhile
                send(each, how)
            return not members

        send(pid, how)
        wait_until(gone, f"end of {self.name} (pid {pid})", _STOP_TIMEOUT)
        with contextlib.suppress(ChildProcessError):  # reap it, if this process was its parent
            os.waitpid(pid, os.WNOHANG)

    def expect_alive(self) -> None:
        """:raises LabError: it has ended; the message ends with the last lines of its log."""
        if self.pid is None:
            raise LabError(f"{self.name} ended; {self.log} says:\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"


def marked(home: Path) -> set[int]:
    """The processes that carry the mark of the lab in ``home``."""
    mark = f"{MARK}={home}".encode()
    found = set()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def end_all(pids: Iterable[int]) -> None:
    """SIGKILL to all of them; returns when they are gone."""
    pids = set(pids) - {os.getpid()}
    for pid in pids:
        send(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), f"end of processes {sorted(pids)}", _STOP_TIMEOUT)


def send(pid: int, how: signal.Signals) -> None:
    """Send a signal; a process that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and only waits to be reaped doesn't."""
    return _started(pid) is not None


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; with the process id it names a process for good."""
    return _started(pid)


def all_pids() -> list[int]:
    """Every process of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, see proc(5); None for a process that is gone, or dead and not yet reaped."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def session_of(pid: int) -> int | None:
    """The process that leads the session of a process; None if that is gone."""
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: the second, the name, may hold anything, also spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
