"""The proxy's process: it keeps its listeners on the interface that Open vSwitch makes, and asks the controller who is who."""

from __future__ import annotations

import asyncio
import logging
import signal

import msgspec

from dragonflow.metadata import interface
from dragonflow.metadata.address import INTERFACE, PORT
from dragonflow.metadata.nova import Nova
from dragonflow.metadata.proxy import Proxy, Unknown
from dragonflow.metadata.settings import Settings
from dragonflow.metadata.whose import Asker, Instance, Whose

LOG = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at the interface, and at its addresses: somebody may have taken them away."""

_ANSWER = 5.0
"""Seconds that the controller may take to answer."""


class _Answer(msgspec.Struct, frozen=True):
    metadata: Whose


class Controller:
    """Asks the controller behind a control socket. A new connection for each question outlives any restart."""

    def __init__(self, control_socket: str) -> None:
        self._path = control_socket

    async def whose(self, guest: Asker) -> Instance | None:
        """The instance whose port asks. :raises Unknown: the controller doesn't say."""
        try:
            async with asyncio.timeout(_ANSWER):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(msgspec.json.encode({"get": "metadata", "of": list(guest)}) + b"\n")
                    said = msgspec.json.decode(await reader.readline(), type=_Answer).metadata
                finally:
                    writer.close()
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            raise Unknown(f"the controller behind {self._path} does not say: {error!r}") from error
        if not said.known:
            raise Unknown(f"the controller behind {self._path} does not know its ports yet")
        return said.instance


async def run(settings: Settings, control_socket: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    nova = Nova(settings)
    serving = asyncio.create_task(_listen(Proxy(Controller(control_socket).whose, nova)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (serving, stopping):
        task.cancel()
    await asyncio.wait((serving, stopping))
    await nova.close()
    if not serving.cancelled():
        serving.result()


async def _listen(proxy: Proxy) -> None:
    """Listen on the interface for ever. When there is a new one of its name, on that."""
    on: int | None = None
    servers: list[asyncio.Server] = []
    trouble = ""
    while True:
        found = interface.index()
        if found != on:
            for server in servers:
                server.close()
            servers, on = [], found
        try:
            if found is not None:
                await asyncio.to_thread(interface.ensure)
                if not servers:
                    servers = [await asyncio.start_server(proxy.serve, sock=it) for it in interface.listeners()]
                    LOG.info("listening on %s, port %d", INTERFACE, PORT)
            trouble = ""
        except OSError as error:
            if str(error) != trouble:
                LOG.warning("can't serve on %s, port %d: %s", INTERFACE, PORT, error)
            trouble = str(error)
        await asyncio.sleep(_LOOK)
