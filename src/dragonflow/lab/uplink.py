"""A host's way to the region's servers, which listen on the machine's own loopback: ``uplink.py NETNS SOCKET PORT…``.

A host's namespace has a loopback of its own. The uplink listens there on the servers' very addresses (127.0.0.1:PORT, so what
Sentinel or etcd announces is right too) and relays each connection to the real server. It is the one place where a host can be
cut off from the store:

- ``open``: bytes pass;
- ``blackhole``: as behind a dead switch nothing passes and nobody is told. What is under way is held and arrives when the uplink
  opens again; a new connection is taken, but nothing answers;
- ``refused``: as with a firewall that rejects, connections are reset and new ones refused.

The mode is the line that is written to SOCKET; the answer is the mode that now holds. Run as a file, not as a module: so it needs
nothing but the standard library, and starts in a tenth of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

OPEN, BLACKHOLE, REFUSED = MODES = ("open", "blackhole", "refused")

_LOOPBACK = "127.0.0.1"
_CLONE_NEWNET = 0x40000000  # setns(2); os.setns comes with Python 3.12


@contextlib.contextmanager
def entered(netns: str) -> Iterator[None]:
    """Be in a network namespace (a file) with this thread: sockets made meanwhile stay there.

    :raises OSError: there is no such namespace, or the caller may not enter it.
    """
    with open("/proc/thread-self/ns/net", "rb") as here, open(netns, "rb") as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(here.fileno())


def _setns(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class _End(asyncio.Protocol):
    """One end of a relayed connection; what it receives goes to ``other``."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._full = self._ended = False
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._uplink.ends.add(self)
        self.listen()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self.other is None or self.other.transport is None or self.other._ended:
            return False
        self.other.transport.write_eof()
        return True  # the other direction may go on

    def connection_lost(self, exc: Exception | None) -> None:
        self._uplink.ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            (self.other.transport.close if exc is None else self.other.reset)()

    def pause_writing(self) -> None:
        self._full = True
        if self.other is not None:
            self.other.listen()

    def resume_writing(self) -> None:
        self._full = False
        if self.other is not None:
            self.other.listen()

    def reset(self) -> None:
        """End it so that the peer sees a reset, not an orderly end."""
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def listen(self) -> None:
        """Read from this end, or don't: while the uplink is a black hole, while there is no other end, or while it is full."""
        if self.transport is None or self.transport.is_closing() or self._ended:
            return
        if self._uplink.mode == OPEN and self.other is not None and not self.other._full:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class Uplink:
    """Relays from ``ports`` of a namespace's loopback to the same ports of this one's."""

    def __init__(self, netns: str, ports: list[int]) -> None:
        self._netns, self._ports = netns, ports
        self._servers: list[asyncio.Server] = []
        self._opened = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ends: set[_End] = set()
        self.mode = REFUSED

    async def turn(self, mode: str) -> None:
        """Be in a mode from now on."""
        self.mode = mode
        if mode == OPEN:
            self._opened.set()
        else:
            self._opened.clear()
        if mode == REFUSED:
            for server in self._servers:
                server.close()
            self._servers.clear()
            for end in self.ends:
                end.reset()
        elif not self._servers:
            await self._listen()
        for end in self.ends:
            end.listen()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for port in self._ports:
            with entered(self._netns):
                listening = socket.create_server((_LOOPBACK, port), backlog=512)
            self._servers.append(await loop.create_server(lambda port=port: self._accepted(port), sock=listening))  # type: ignore[misc]

    def _accepted(self, port: int) -> _End:
        end = _End(self)
        task = asyncio.get_running_loop().create_task(self._connect(end, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return end

    async def _connect(self, near: _End, port: int) -> None:
        """Join an accepted connection to the server. One that nobody serves is reset: refused would be too late."""
        await self._opened.wait()
        try:
            _, far = await asyncio.get_running_loop().create_connection(lambda: _End(self), _LOOPBACK, port)
        except OSError:
            near.reset()
            return
        near.other, far.other = far, near
        for end, other in ((near, far), (far, near)):
            if end.transport is None or end.transport.is_closing():
                if other.transport is not None:
                    other.transport.close()
            else:
                end.listen()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one who asks for a mode by a line."""
        with contextlib.suppress(ConnectionError):
            wanted = (await reader.readline()).decode(errors="replace").strip()
            if wanted in MODES:
                await self.turn(wanted)
            writer.write(f"{self.mode}\n".encode())
            await writer.drain()
        writer.close()


async def main(netns: str, path: str, *ports: str) -> None:
    """Relay until the process ends."""
    uplink = Uplink(netns, [int(port) for port in ports])
    await uplink.turn(OPEN)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(uplink.control, path)
    await server.serve_forever()


def turn(path: Path, mode: str, timeout: float = 5.0) -> str:
    """Ask the uplink behind a socket for a mode (or, by an empty line, for none); returns the mode that holds.

    :raises OSError: nobody answers there in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(f"{mode}\n".encode())
        with connection.makefile() as lines:
            return lines.readline().strip()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
