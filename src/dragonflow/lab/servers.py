"""What keeps a region's DF DB and what carries its messages: SQLite and ZeroMQ, which need no server, or etcd and Redis.

Each is made on a directory and on ports that stay its own, so a member that is started again is found where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dragonflow.lab.etcd import EtcdCluster
from dragonflow.lab.process import Process
from dragonflow.lab.redis import RedisServers
from dragonflow.lab.state import RegionState, State
from dragonflow.lab.system import LabError

MEMBERS = 3
"""Members of an etcd cluster; Redis servers, and Sentinels beside them."""

PORTS = 2 * MEMBERS
"""TCP ports that etcd (clients, peers) or Redis (servers, Sentinels) takes."""

DISK = "disk"
"""The directory of a region on which a disk of its own is mounted, if the store's data have one."""

STORES = ("sqlite", "etcd", "redis")
BUSES = ("zmq", "redis", "store")


_FILLER = "filler/"
_FILLER_SIZE = 1 << 20  # bytes; etcd takes requests up to 1.5 MiB


class Room(Protocol):
    """Where a store's data lie, and which can be full."""

    def fill(self) -> None:
        """Leave no room."""
        ...

    def free(self) -> None:
        """Make the room again."""
        ...


class Servers(Protocol):
    """A store or a bus."""

    @property
    def url(self) -> str:
        """For ``[df] store_url`` or ``pubsub_url``."""
        ...

    @property
    def ports(self) -> Sequence[int]:
        """The TCP ports of 127.0.0.1 on which hosts reach it."""
        ...

    @property
    def processes(self) -> Mapping[str, Process]:
        """Its members by name."""
        ...

    def make(self) -> None:
        """Make what must be there before the first start."""
        ...

    def start(self) -> None:
        """Start what doesn't run; returns when it serves."""
        ...

    def kill(self) -> None:
        """End it without a warning."""
        ...

    def first(self) -> str | None:
        """The name of the member that leads (etcd) or is the master (Redis) now; None if there is none."""
        ...


class SQLite:
    """The DF DB in a file; available while its directory lies where everybody looks for it.

    It has no process: its fault moves the files away, which each of its users sees as an outage, and back.
    """

    pid = None
    log = None
    ports: Sequence[int] = ()
    processes: Mapping[str, Process] = {}

    def __init__(self, directory: Path) -> None:
        self._here = directory / "dfdb"
        self._away = directory / "dfdb.away"
        self.url = f"sqlite://{self._here / 'dfdb.sqlite'}"

    def make(self) -> None:
        """Make its directory."""
        self._here.mkdir(parents=True, exist_ok=True)

    def kill(self) -> None:
        """Take it away: whoever reads or writes it from now on finds that it is gone."""
        if self._here.exists():
            self._here.rename(self._away)

    stop = kill

    def start(self) -> None:
        """Put it back, with all that was in it."""
        if self._away.exists():
            self._away.rename(self._here)

    def first(self) -> None:
        """Nobody leads a file."""


class NoServers:
    """A bus that is no process's: ``store`` is the DF DB's own watch, and over ZeroMQ each process speaks with each."""

    ports: Sequence[int] = ()
    processes: Mapping[str, Process] = {}

    def __init__(self, url: str) -> None:
        self.url = url

    def make(self) -> None:
        """There is nothing to make."""

    def start(self) -> None:
        """There is nothing to start."""

    def kill(self) -> None:
        """There is nothing to end."""

    def first(self) -> None:
        """There is none."""


class Etcd(EtcdCluster):
    """A cluster of three, each with so much room (in MiB) as etcd's own quota leaves it. See ``Room``."""

    def __init__(self, home: Path, directory: Path, ports: Sequence[int], tail: str, room: int | None) -> None:
        options = {} if room is None else {"quota-backend-bytes": str(room << 20)}
        super().__init__(home, directory, MEMBERS, ports=ports, name=f"etcd{tail}-", options=options)
        self.ports = ports[:MEMBERS]

    def fill(self) -> None:
        """Write, beside the DF DB, until the quota is used up and etcd takes no more (alarm NOSPACE)."""
        for number in itertools.count():
            try:
                self.ctl("put", f"{_FILLER}{number}", stdin="x" * _FILLER_SIZE)
            except LabError as error:
                if "database space exceeded" in str(error):
                    return
                raise

    def free(self) -> None:
        """What an operator does then: delete, compact, defragment, disarm."""
        self.ctl("del", "--prefix", _FILLER)
        self.ctl("compact", str(self.leader().status()["header"]["revision"]))
        for member in self.members.values():
            self.ctl("defrag", endpoints=member.endpoint)
        self.ctl("alarm", "disarm")

    def first(self) -> str | None:
        """See ``Servers``."""
        try:
            return self.leader().name
        except LabError:
            return None


def servers_of(lab: State, region: RegionState, home: Path, directory: Path, tail: str) -> tuple[Servers, Servers]:
    """The DF DB and the bus of a region; one and the same where Redis is both. ``tail`` goes into the names of processes."""
    store: Servers
    match lab.store:
        case "etcd":
            store = Etcd(home, directory / "etcd", region.store_ports, tail, lab.disk)
        case "redis":
            place = directory if lab.disk is None else directory / DISK
            store = RedisServers(home, place / "redis", ports=region.store_ports, name=f"redis{tail}")
        case _:
            store = SQLite(directory)
    match lab.bus:
        case "redis" if lab.store == "redis":
            return store, store
        case "redis":
            return store, RedisServers(home, directory / "bus", ports=region.bus_ports, name=f"redis{tail}")
        case "store":
            return store, NoServers("store")
    return store, NoServers(f"zmq+ipc://{directory / 'pubsub'}")
