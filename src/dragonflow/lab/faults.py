"""Faults other than the end of a process: a wrong clock, a full disk, lost messages; and whom to hit to hit the leader."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from dragonflow.lab.system import LabError, run
from dragonflow.model import CodecError, Leader, decode
from dragonflow.neutron.leader import KEY
from dragonflow.store import open_store
from dragonflow.store.protocol import StoreError

_FAKETIME = "faketime/libfaketimeMT.so.1"
_ASK_TIMEOUT = 3.0


def wrong_clock(offset: str) -> dict[str, str]:
    """The environment in which a process sees the time of day off by ``offset``, as faketime(1) takes it: ``+1h``, ``-30m``.

    What measures how long something takes (the monotonic clock) stays right, as it does on a host whose clock is set wrong.

    :raises LabError: libfaketime is not there.
    """
    found = list(Path("/usr/lib").glob(f"*/{_FAKETIME}"))
    if not found:
        raise LabError("libfaketime: not found; run `make setup` to install what the lab needs")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Disk:
    """A small disk (a tmpfs of ``size`` MiB) for the data of a store."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory, self._size = directory, size
        self._filler = directory / "filler"

    def mount(self) -> None:
        """Make it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", f"size={self._size}m,mode=755", "dragonflow-lab", str(self.directory)])

    def unmount(self) -> None:
        """Take it away, even while something still uses it."""
        if self.directory.is_mount():
            run(["umount", "--lazy", str(self.directory)])

    def fill(self) -> None:
        """Leave no page free."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Take away what filled it."""
        self._filler.unlink(missing_ok=True)


class Loss:
    """The share of messages that every process of a region loses, each by itself; see ``testing.lossy``."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def url(self, bus: str) -> str:
        """The bus, made lossy."""
        return f"lossy+{bus}#{self._file}"

    def set(self, share: float) -> None:
        """Lose so many of the messages from now on (0 to 1). :raises LabError: that is no share."""
        if not 0 <= share <= 1:
            raise LabError(f"{share}: a share is from 0 to 1")
        part = self._file.with_suffix(".part")
        part.write_text(f"{share}")
        part.replace(self._file)


def leader_pid(store_url: str) -> int | None:
    """The process id of the API worker that leads; None if none does, or if the DF DB doesn't say so in time."""

    async def read() -> int | None:
        store = open_store(store_url, create=False)
        try:
            async with asyncio.timeout(_ASK_TIMEOUT):
                record = await store.get(KEY)
        finally:
            await store.close()
        row = None if record is None else decode(KEY.kind, KEY.id, record.data or b"")
        return int(row.server.rpartition(":")[2]) if isinstance(row, Leader) else None

    try:
        return asyncio.run(read())
    except (StoreError, TimeoutError, CodecError, ValueError):
        return None
