"""One chassis's Open vSwitch as the controller sees it: say what is wanted, sync, and hear of ports."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from dragonflow.model.ovs import OvsPort
from dragonflow.pipeline.facts import Fact, Owner
from dragonflow.pipeline.fields import Field
from dragonflow.pipeline.punt import PacketOut
from dragonflow.switch.bundle import Synced, bring_up_to_date
from dragonflow.switch.connections import Cut
from dragonflow.switch.ledger import Clash, Degraded, Ledger
from dragonflow.switch.openflow.connection import Connection, Disconnected, Refused
from dragonflow.switch.openflow.decode import Unreadable, decode_counters
from dragonflow.switch.openflow.messages import ask_flows
from dragonflow.switch.ovsdb import Ovsdb
from dragonflow.switch.packet_in import encode_packet_out
from dragonflow.switch.readback import Found, GroupsUnreadable, read_back
from dragonflow.switch.remote import Tls

logger = logging.getLogger(__name__)

_REVALIDATED = 2.0
"""Seconds after which the data path goes by the flows as they are. Open vSwitch looks its cache over as soon as flows change, and
keeps no more than it can look over within a second or so."""

_FIRST_BACKOFF, _MAX_BACKOFF = 0.05, 0.2
"""Seconds between two tries to connect: what OVS loses by a restart should be back as soon as it listens. A try costs little."""


class Switch:
    """All on one asyncio loop. ``openflow`` and ``ovsdb`` are as ``switch.remote`` has them, with ``tls`` where they say so.

    ``on_ports(present, gone)`` is told of the bridge's ports (first of all that there are); ``on_connect()`` that a bridge was
    connected and read back, which is when a ``sync`` makes sense again; ``on_packet(body)`` of each packet that a flow punts,
    as ``packet_in.decode_packet_in`` reads it; ``on_read(found)`` of what was read back. Losing the switch loses nothing: what is
    wanted is kept, and what the next one has is read back before anything is sent.
    """

    def __init__(
        self,
        openflow: str,
        ovsdb: str,
        bridge: str,
        *,
        datapath_type: str = "system",
        tls: Tls | None = None,
        psk: str | None = None,
        on_ports: Callable[[list[OvsPort], list[str]], None],
        on_connect: Callable[[], None],
        on_packet: Callable[[bytes], None] = lambda _: None,
        on_read: Callable[[Found], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._target, self._tls = openflow, tls
        self._bridge = bridge
        self._on_connect = on_connect
        self._on_packet = on_packet
        self._on_read = on_read
        self._ledger = Ledger(now)
        self._ovsdb = Ovsdb(ovsdb, bridge, datapath_type, on_ports, psk, tls=tls)
        self._connection: Connection | None = None
        self._syncing = asyncio.Lock()
        self._with_groups = True
        self._doubted = False
        self.connections = 0
        """How many bridges were connected and read back so far."""

    @property
    def connected(self) -> bool:
        """Whether a bridge is connected and was read back."""
        return self._connection is not None

    @property
    def ovsdb_in_sync(self) -> bool:
        """Whether ``on_ports`` has told of all ports that there are; stays true if the database goes away later."""
        return self._ovsdb.in_sync

    @property
    def zones(self) -> Collection[int]:
        """The conntrack zones in which flows that are wanted translate."""
        return self._ledger.zones

    @property
    def other_config(self) -> Mapping[str, str]:
        """Open vSwitch's settings for all its bridges (``Open_vSwitch.other_config``), as far as known."""
        return self._ovsdb.other_config

    @property
    def clashes(self) -> Sequence[Clash]:
        """Where owners contradict each other now."""
        return self._ledger.clashes

    @property
    def degraded(self) -> Mapping[Owner, Degraded]:
        """The owners whose facts are not, or not all, on the switch: refused by it, or losing a clash."""
        lost = {
            owner: Degraded(f"{clash.what} belongs to {clash.winner}", clash.at)
            for clash in self._ledger.clashes
            for owner in clash.losers
        }
        return {**lost, **self._ledger.refused}

    def want(self, owner: Owner, facts: Sequence[Fact]) -> None:
        """From now on the owner wants exactly these facts; nothing is sent before ``sync``."""
        self._ledger.set(owner, facts)

    def ask_for_ports(self) -> None:
        """Have OVSDB make the tunnel and patch ports that are wanted so far, ahead of a ``sync``; none is removed."""
        self._ovsdb.want(self._ledger.tunnels, self._ledger.patches, sweep=False)

    def doubt(self) -> None:
        """Somebody else may have changed the bridge: the next ``sync`` reads it back before it sends the difference."""
        self._doubted = True

    async def sync(self, *, sweep: bool = True) -> Synced:
        """Bring the switch to what is wanted, in one bundle, and return when a barrier has confirmed it.

        Tunnel and patch ports are only asked of OVSDB here; they show up in ``on_ports``. Those that nobody wants any more go
        after the flows that sent to them. Without ``sweep`` nothing is removed.

        :raises Disconnected: there is no switch; ``on_connect`` will say when there is.
        """
        self.ask_for_ports()
        async with self._syncing:
            connection = self._connection
            if connection is None:
                raise Disconnected(f"{self._target}: not connected")
            try:
                if self._doubted:
                    await self._read_again(connection)
                synced = await bring_up_to_date(connection, self._ledger, sweep=sweep)
            except BaseException:
                # what arrived is unknown: a new connection starts by reading
                connection.close("broken off")
                self._connection = None
                raise
            if synced.cuts:
                asyncio.get_running_loop().call_later(_REVALIDATED, self._cut_again, connection, synced.cuts)
        self._ovsdb.want(self._ledger.tunnels, self._ledger.patches, sweep=sweep)
        return synced

    def _cut_again(self, connection: Connection, cuts: Sequence[Cut]) -> None:
        """Packets that came before the data path went by the new flows may have begun the connections anew."""
        with suppress(Disconnected):
            for cut in cuts:
                connection.post(cut.message)

    def send(self, out: PacketOut) -> bool:
        """Send a packet. Returns whether it is on its way; it isn't without a switch, or with one that is slow to take more.

        :raises ValueError: the packet is too long.
        """
        message = encode_packet_out(out)
        try:
            return self._connection is not None and self._connection.post(message)
        except Disconnected:
            return False

    async def packets(self, table: int) -> list[tuple[dict[Field, int], int]]:
        """What each flow of a table matches, and how many packets it has had, as of half a second ago.

        :raises Disconnected: there is no switch, or none that answers in a way that can be read.
        """
        if self._connection is None:
            raise Disconnected(f"{self._target}: not connected")
        try:
            return [it for body in await self._connection.request(ask_flows(table)) for it in decode_counters(body)]
        except (Refused, struct.error, Unreadable) as error:
            raise Disconnected(f"{self._target} doesn't tell its counters: {error}") from error

    async def run(self) -> None:
        """Keep connected to OVSDB and to the bridge for ever; ends only by being cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ovsdb.run())
            group.create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            try:
                connection = await Connection.open(self._target, self._tls)
                try:
                    await self._adopt(connection)
                    backoff = _FIRST_BACKOFF
                    reason = await asyncio.shield(connection.lost)
                    logger.warning("Lost %s: %s", self._target, reason)
                finally:
                    self._connection = None
                    connection.close()
            except GroupsUnreadable as error:
                logger.warning("The switch can't tell its groups, all are sent anew: %s", error)
                self._with_groups = False
            except (Disconnected, Refused) as error:
                logger.info("No switch: %s", error)
            except Exception:  # a switch that sends what can't be read must not end the controller
                logger.exception("Can't read back %s", self._target)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    async def _adopt(self, connection: Connection) -> None:
        """Read the bridge back; from then on the ledger's difference is right for it."""
        async with self._syncing:
            self._ledger.forgive()
            flows = await self._read(connection)
            await connection.listen(self._on_packet)
            self._connection = connection
            self.connections += 1
        logger.info("Connected to %s, which has %d flows", self._target, flows)
        self._on_connect()

    async def _read_again(self, connection: Connection) -> None:
        try:
            await self._read(connection)
        except GroupsUnreadable:
            self._with_groups = False
            raise
        except (Refused, struct.error, ValueError) as error:
            raise Disconnected(f"{self._target} can't be read back: {error}") from error

    async def _read(self, connection: Connection) -> int:
        """Take what the bridge has for what it has, whatever was sent before. Returns how many flows that are."""
        self._doubted = False
        found = await read_back(connection, with_groups=self._with_groups)
        self._with_groups = True
        self._ledger.adopt(found.flows, found.groups, found.meters)
        self._on_read(found)
        return len(found.flows)
