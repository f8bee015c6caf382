"""A private Open vSwitch: its own database and user-space data path, all in one directory and one network namespace.

The daemons detach, so a switch outlives the process that started it, and ``VSwitch(directory)`` in another process takes hold
of it again by its pid files. Two switches in user space can't share a network namespace: the second finds ``ovs-netdev`` busy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_FILES = tuple(
    f"--{option}=db:Open_vSwitch,SSL,{column}"
    for option, column in (("private-key", "private_key"), ("certificate", "certificate"), ("ca-cert", "ca_cert"))
)
"""As distributions start it: what ``ovs-vsctl set-manager`` and ``set-ssl`` say, it does."""

SOCKET_PATH_LIMIT = 107
"""Bytes that Linux allows in the path of a Unix socket."""


class VSwitchError(Exception):
    """A daemon or tool of Open vSwitch failed or didn't answer in time; the message holds what it printed."""


class VSwitch:
    """ovsdb-server and ovs-vswitchd of one chassis.

    ``netns`` names a network namespace that exists already; None stays in the caller's. ``timeout`` (seconds) bounds every
    single wait. Restarting ovs-vswitchd keeps the database, as on a real host, but no flow.
    """

    def __init__(self, directory: Path | str, netns: str | None = None, *, timeout: float = 20.0) -> None:
        self.directory = Path(directory).absolute()
        self.netns = netns
        self.timeout = timeout
        if len(os.fsencode(self.directory / ("b" * 15 + ".snoop"))) > SOCKET_PATH_LIMIT:
            raise VSwitchError(f"{self.directory}: too long a path for the Unix sockets that would lie in it")

    @property
    def db_sock(self) -> Path:
        """Where the database listens; ``unix:`` before it makes it an OVSDB connection."""
        return self.directory / "db.sock"

    def openflow(self, bridge: str) -> Path:
        """Where a bridge takes OpenFlow connections of controllers that come by themselves."""
        return self.directory / f"{bridge}.mgmt"

    @property
    def pids(self) -> dict[str, int]:
        """The living daemons: name → process id."""
        found = {name: self._pid(name) for name in ("ovsdb-server", "ovs-vswitchd")}
        return {name: pid for name, pid in found.items() if pid is not None}

    @property
    def logs(self) -> dict[str, Path]:
        """Where each daemon logs."""
        return {name: self.directory / f"{name}.log" for name in ("ovsdb-server", "ovs-vswitchd")}

    def start(self) -> None:
        """Start what isn't running; returns when both daemons answer. The database is made if there is none."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start_ovsdb()
        self.vsctl("--no-wait", "init")
        self.start_vswitchd()

    def stop(self) -> None:
        """Stop both daemons; the directory stays."""
        self.stop_vswitchd()
        self.stop_ovsdb()

    def start_ovsdb(self) -> None:
        """Start the database server alone."""
        if "ovsdb-server" in self.pids:
            return
        database = self.directory / "conf.db"
        if not database.exists():
            self._run(["ovsdb-tool", "create", str(database), str(SCHEMA)])
        remotes = (f"--remote=punix:{self.db_sock}", "--remote=db:Open_vSwitch,Open_vSwitch,manager_options")
        self._daemon("ovsdb-server", str(database), *remotes, *_FILES)

    def stop_ovsdb(self, *, kill: bool = False) -> None:
        """Stop the database server alone; ``kill`` lets it say no good-bye."""
        self._end("ovsdb-server", kill)

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd alone, under its own monitor: it comes back by itself after a crash (but not after a kill)."""
        if "ovs-vswitchd" in self.pids:
            return
        self._daemon("ovs-vswitchd", "--monitor", "--disable-system", f"unix:{self.db_sock}")

    def stop_vswitchd(self, *, kill: bool = False) -> None:
        """Stop ovs-vswitchd alone; ``kill`` (SIGKILL) is how it looks when a host's memory runs out."""
        self._end("ovs-vswitchd", kill)

    def restart_vswitchd(self, *, kill: bool = False) -> None:
        """A new ovs-vswitchd on the same database: ports come back, flows don't."""
        self.stop_vswitchd(kill=kill)
        self.start_vswitchd()

    def vsctl(self, *args: str) -> str:
        """Run ovs-vsctl; waits until ovs-vswitchd has done it, unless told ``--no-wait``."""
        return self._run(["ovs-vsctl", f"--timeout={int(self.timeout)}", f"--db=unix:{self.db_sock}", *args])

    def ofctl(self, command: str, bridge: str, *args: str, stdin: str | None = None) -> str:
        """``ofctl("dump-flows", "br-int")``: run ovs-ofctl in OpenFlow 1.5 on a bridge. Options go into ``args``."""
        target = f"unix:{self.openflow(bridge)}"
        return self._run(["ovs-ofctl", "-O", "OpenFlow15", command, target, *args], stdin=stdin)

    def appctl(self, *args: str) -> str:
        """Run ovs-appctl on ovs-vswitchd: ``appctl("ofproto/trace", "br-int", "in_port=1,…")``."""
        return self._run(["ovs-appctl", "-t", str(self.directory / "ovs-vswitchd.ctl"), *args])

    def add_bridge(self, name: str) -> None:
        """Make a bridge that forwards nothing by itself and speaks the OpenFlow versions that we and ovs-ofctl use."""
        self.vsctl(
            *("--may-exist", "add-br", name, "--"),
            *("set", "Bridge", name, "datapath_type=netdev", "fail_mode=secure"),
            "protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15",
        )

    def _daemon(self, name: str, *args: str) -> None:
        """Start a daemon; with --detach it returns once the daemon has bound its sockets."""
        options = (f"--pidfile={self.directory / name}.pid", f"--unixctl={self.directory / name}.ctl")
        log = f"--log-file={self.logs[name]}"
        self._run([name, "--detach", "--no-chdir", *options, log, "-vconsole:off", "-vsyslog:off", *args], inside=True)
        if name not in self.pids:
            raise VSwitchError(f"{name} ended at once; see {self.logs[name]}")

    def _run(self, command: list[str], *, inside: bool = False, stdin: str | None = None) -> str:
        if inside and self.netns is not None:
            command = ["ip", "netns", "exec", self.netns, *command]
        places = {f"OVS_{kind}DIR": str(self.directory) for kind in ("RUN", "LOG", "DB", "SYSCONF")}
        try:
            done = subprocess.run(
                command,
                env=os.environ | places,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=self.timeout + 5,
                check=False,
            )
        except FileNotFoundError as error:
            raise VSwitchError(
                f"{error.filename}: not found; is Open vSwitch (openvswitch-switch) installed?"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise VSwitchError(f"{' '.join(command)}: no answer within {error.timeout:.0f} s") from error
        if done.returncode:
            raise VSwitchError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _pid(self, name: str) -> int | None:
        """The daemon's process id, if it lives; a pid file left behind may name somebody else's process by now."""
        try:
            pid = int((self.directory / f"{name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(f"{self.directory / name}.pid") in command else None

    def _end(self, name: str, kill: bool) -> None:
        pid = self._pid(name)
        if pid is None:
            return
        for how in (signal.SIGKILL,) if kill else (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
            if self._wait(lambda: not _lives(pid)):
                return
        raise VSwitchError(f"{name} (pid {pid}) doesn't die")

    def _wait(self, condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + self.timeout
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def remove(self) -> None:
        """Stop the daemons and delete the directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _lives(pid: int) -> bool:
    """Whether the process still holds files and locks: a dying one does for a moment, a zombie doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"
