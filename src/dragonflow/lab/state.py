"""What the lab remembers between two commands: its shape, in one JSON file that is replaced whole.

Everything else (addresses, file names, namespaces) follows from it, so that a clean-up after a crash needs no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dragonflow.lab.system import LabError, listed

ROOT = Path("/var/lib/dragonflow-lab")
LOCKS = Path("/run/lock/dragonflow-lab")
FILE = "lab.json"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


class RegionState(msgspec.Struct, frozen=True):
    """One region; ``index`` counts from 1 and stands in its addresses.

    The TCP ports: one a Neutron server; those of the DF DB's servers and of the bus's, none where these have none.
    """

    name: str
    index: int
    hosts: tuple[str, ...]
    neutron_ports: tuple[int, ...]
    nova_port: int
    store_ports: tuple[int, ...] = ()
    bus_ports: tuple[int, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.neutron_ports, self.nova_port, *self.store_ports, *self.bus_ports)


class Vm(msgspec.Struct, frozen=True):
    """A stand-in for a VM: a namespace whose interface is plugged into a host's integration bridge.

    ``plugged`` is the time (seconds since the epoch) just before the bridge was told.
    """

    port_id: str
    region: str
    host: str
    netns: str
    mac: str
    ips: tuple[str, ...]
    interface: str
    plugged: float


class Known(NamedTuple):
    """What is needed to plug a port, as Neutron's API gives it: the port, its network's subnets and MTU."""

    port: dict[str, Any]
    subnets: list[dict[str, Any]]
    mtu: int


class State(msgspec.Struct, frozen=True):
    """A lab. ``maker`` is the process (id and start time) that brings it up; None once it is up.

    ``lossy`` says that the bus can be told to lose messages; ``disk`` is the size of the store's own disk in MiB, if it has one;
    ``orchestrator_ports`` are the TCP ports on which instances of the orchestrator answer, one each.
    """

    name: str
    store: str
    bus: str
    regions: tuple[RegionState, ...]
    lossy: bool = False
    disk: int | None = None
    orchestrator_ports: tuple[int, ...] = ()
    vms: tuple[Vm, ...] = ()
    maker: tuple[int, int] | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """All TCP ports of the lab's servers."""
        return (*(port for region in self.regions for port in region.ports), *self.orchestrator_ports)


def home_of(name: str) -> Path:
    """The directory of a lab.

    :raises LabError: the name is none for a lab; it becomes part of the names of namespaces, so it is kept plain.
    """
    if not _NAME.fullmatch(name):
        raise LabError(f"{name!r}: a lab's name is a lower-case letter, then at most 19 letters, digits and dashes")
    return ROOT / name


def names() -> list[str]:
    """The labs of this machine."""
    return sorted(path.parent.name for path in ROOT.glob(f"*/{FILE}"))


def load(name: str) -> State:
    """:raises LabError: there is no such lab; the message lists those there are."""
    try:
        return msgspec.json.decode((home_of(name) / FILE).read_bytes(), type=State)
    except FileNotFoundError:
        raise LabError(f"no lab {name!r} (there are: {listed(names())}); `dragonflow lab up` makes one") from None
    except msgspec.DecodeError as error:
        raise LabError(f"{home_of(name) / FILE}: {error}; `dragonflow lab down` clears the lab away") from None


def save(state: State) -> None:
    """Replace what is remembered, whole."""
    home = home_of(state.name)
    home.mkdir(parents=True, exist_ok=True)
    part = home / f"{FILE}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    part.replace(home / FILE)


def locked(name: str) -> contextlib.AbstractContextManager[None]:
    """Keep other commands from changing a lab meanwhile."""
    home_of(name)
    return _locked(f"lab-{name}")


def allocating() -> contextlib.AbstractContextManager[None]:
    """Keep other labs from choosing what must differ between labs, until it is saved."""
    return _locked("allocation")


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold a lock that ends with the process. It lies apart from the lab's directory, so that a lab can vanish under it."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    handle = os.open(LOCKS / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
