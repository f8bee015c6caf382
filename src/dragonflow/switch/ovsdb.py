"""The integration bridge in Open vSwitch's database: which ports it has, and which tunnel and patch ports it should have.

A patch port's other end lies on a bridge that is somebody else's (a physical network's). There, nothing but that end is touched.

Uses the official IDL (``ovs.db.idl``) on asyncio's loop. The database may come and go;
what was read stays until it says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple
from uuid import UUID

from dragonflow.model.ovs import OvsPort
from dragonflow.switch._idl import Idl, Transaction, Wake, use
from dragonflow.switch.ledger import FLOW, Patch, Tunnel
from dragonflow.switch.remote import Tls

logger = logging.getLogger(__name__)

TUNNEL_MARK = "df-tunnel"
"""The key of Interface.external_ids by which ports that we made are known; its value is the fact's name."""

PATCH_MARK = "df-patch"
"""The same for patch ports; its value is the bridge to which the port leads."""

OPENFLOW = "OpenFlow15"
_PROTOCOLS = ["OpenFlow10", "OpenFlow13", "OpenFlow14", OPENFLOW]
"""For a bridge that names none: ours, and those that people's tools use."""

_BFD = {"enable": "true", "min_rx": "250", "min_tx": "250"}
"""Of a session with a peer: who says nothing for three times 250 ms is gone (Open vSwitch's detect multiplier is 3)."""

_IPSEC = ("psk", "remote_name", "egress_pkt_mark")
"""The options of a port that encrypts: with which key, or whom a certificate must name; and the mark of what it sends."""

_RETRY = 1.0
"""Seconds before a refused transaction is tried again."""


class _Port(NamedTuple):
    """A port of ours as it should be: on which bridge, and what its interface holds. It is known by its mark."""

    bridge: str
    type: str
    options: Mapping[str, str]
    mark: tuple[str, str]
    bfd: Mapping[str, str] = {}


class Ovsdb:
    """One bridge's part of the database at ``remote`` (see ``switch.remote``), by ``tls`` if it says so.

    ``psk`` is the key of tunnels that are encrypted by one; it is written there and nowhere else.

    ``on_ports(present, gone)`` gets the ports that are new or changed and the names of those that went; its first call holds
    all ports there are, and from then on ``in_sync`` is true.
    """

    def __init__(
        self,
        remote: str,
        bridge: str,
        datapath_type: str,
        on_ports: Callable[[list[OvsPort], list[str]], None],
        psk: str | None = None,
        *,
        tls: Tls | None = None,
    ) -> None:
        if tls is not None:
            use(tls)
        self.in_sync = False
        self.other_config: Mapping[str, str] = {}
        """``Open_vSwitch.other_config``, as of the last news."""
        self._psk = psk
        self._remote = remote
        self._bridge = bridge
        self._datapath_type = datapath_type
        self._on_ports = on_ports
        self._tunnels: Mapping[str, Tunnel] | None = None
        self._patches: Mapping[str, Patch] = {}
        self._sweep = False
        self._unsettled = True
        self._settings: tuple[Any, ...] | None = None
        self._unjoined: dict[str, str] = {}
        self._ports: dict[str, OvsPort] = {}
        self._members: dict[UUID, list[Any]] = {}
        self._seen: dict[UUID, OvsPort] = {}
        self._transaction: Any = None
        self._retry_at = 0.0
        self._wake = asyncio.Event()

    def want(self, tunnels: Mapping[str, Tunnel], patches: Mapping[str, Patch], *, sweep: bool) -> None:
        """These ports (of tunnels, internal ones, and patches) should stand; with ``sweep`` those of ours that nobody wants go.

        Without it none goes for now: what may go when just these ports are wanted may go for good.

        A pair of patch ports stands only while the bridge at its other end does, and has the same type of data path.
        """
        if (tunnels, patches) != (self._tunnels, self._patches) or (sweep and not self._sweep):
            self._tunnels, self._patches, self._sweep = dict(tunnels), dict(patches), sweep
            self._unsettled = True
            self._wake.set()

    async def run(self) -> None:
        """Follow the database for ever."""
        while True:
            try:
                await self._follow(Idl(self._remote))
            except Exception:  # the IDL asserts on what it doesn't expect; a fresh one starts from a fresh dump
                logger.exception("Lost track of OVSDB at %s; reading it anew", self._remote)
                self._transaction, self._unsettled = None, True
                self._members.clear()
                await asyncio.sleep(_RETRY)

    async def _follow(self, idl: Idl) -> None:
        try:
            seqno = idl.change_seqno
            while True:
                idl.run()
                if idl.change_seqno != seqno:
                    seqno = idl.change_seqno
                    self._take(idl)
                self._settle(idl)
                await self._wait(idl)
        finally:
            idl.close()

    async def _wait(self, idl: Idl) -> None:
        """Until the database has news, a timer of the IDL is due, or somebody wants something."""
        wake, loop = Wake(), asyncio.get_running_loop()
        idl.wait(wake)
        if self._transaction is not None:
            self._transaction.wait(wake)
        elif self._unsettled and self._retry_at:
            wake.timer_wait(int((self._retry_at - time.monotonic()) * 1000) + 1)
        for fd in wake.readable:
            loop.add_reader(fd, self._wake.set)
        for fd in wake.writable:
            loop.add_writer(fd, self._wake.set)
        try:
            async with asyncio.timeout(None if wake.milliseconds is None else wake.milliseconds / 1000):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            for fd in wake.readable:
                loop.remove_reader(fd)
            for fd in wake.writable:
                loop.remove_writer(fd)
        self._wake.clear()

    # Reading

    def _take(self, idl: Idl) -> None:
        """Tell what changed on our bridge."""
        for root in idl.tables["Open_vSwitch"].rows.values():
            self.other_config = dict(root.other_config)
        bridge = self._find(idl)
        if bridge is None:
            self._settings, self._unsettled = None, True
            self._tell({})
            return
        if (settings := (_settings(bridge), *self._far_ends(idl))) != self._settings:
            self._settings, self._unsettled = settings, True
        touched, before = idl.touched, self._seen
        if touched["Bridge"] or touched["Port"]:
            for uuid in touched["Port"]:
                self._members.pop(uuid, None)
            self._members = {port.uuid: self._members.get(port.uuid) or list(port.interfaces) for port in bridge.ports}
        known = {uuid: port for uuid, port in before.items() if uuid not in touched["Interface"]}
        for uuids in touched.values():
            uuids.clear()
        interfaces = [interface for members in self._members.values() for interface in members]
        self._seen = {interface.uuid: known.get(interface.uuid) or _ovs_port(interface) for interface in interfaces}
        if any(self._is_ours(port) for port in _unlike(before, self._seen)):
            self._unsettled = True
        present = {port.id: port for port in self._seen.values()}
        self.in_sync, first = True, not self.in_sync
        self._tell(present, always=first)

    def _tell(self, present: dict[str, OvsPort], *, always: bool = False) -> None:
        changed = [port for name, port in present.items() if self._ports.get(name) is not port]
        changed = [port for port in changed if self._ports.get(port.id) != port]
        gone = [name for name in self._ports if name not in present]
        self._ports = present
        if changed or gone or always:
            self._on_ports(changed, gone)

    def _find(self, idl: Idl, name: str | None = None) -> Any:
        """A bridge by name, ours by default; None if it isn't there."""
        wanted = name or self._bridge
        return next((row for row in idl.tables["Bridge"].rows.values() if row.name == wanted), None)

    def _far_ends(self, idl: Idl) -> Iterator[Any]:
        """What there is on other bridges that we write, or that decides whether we do."""
        for patch in self._patches.values():
            bridge = self._find(idl, patch.bridge)
            yield None if bridge is None else (bridge.uuid, bridge.datapath_type)
            for port in () if bridge is None else bridge.ports:
                if port.name == patch.peer:
                    yield [(it.type, it.options, it.external_ids) for it in port.interfaces]

    def _is_ours(self, port: OvsPort) -> bool:
        """Whether a port is ours to write: most that come and go are VMs', and cost no look at all that are ours."""
        marked = port.tunnel is not None or port.patch is not None
        return marked or port.id in (self._tunnels or ()) or port.id in self._patches

    # Writing

    def _settle(self, idl: Idl) -> None:
        """Carry on with the transaction on its way, or begin one if the database isn't as it should be."""
        if self._transaction is None:
            if not self._unsettled or not idl.has_ever_connected() or time.monotonic() < self._retry_at:
                return
            self._transaction = Transaction(idl)
            self._unsettled = False
            self._write(idl, self._transaction)
        status = self._transaction.commit()
        if status == Transaction.INCOMPLETE:
            return
        transaction, self._transaction = self._transaction, None
        self._retry_at = 0.0
        if status not in (Transaction.SUCCESS, Transaction.UNCHANGED):
            self._unsettled, self._retry_at = True, time.monotonic() + _RETRY
            if status == Transaction.ERROR:
                logger.error("OVSDB refuses: %s", transaction.get_error())
        elif self._unsettled:
            self._wake.set()  # something else was wanted meanwhile, and no news need come of that

    def _write(self, idl: Idl, transaction: Any) -> None:
        bridge = self._find(idl)
        if bridge is None:
            roots = list(idl.tables["Open_vSwitch"].rows.values())
            if not roots:
                return  # nobody has initialised the database yet; the row is news
            logger.info("Making bridge %s", self._bridge)
            bridge = transaction.insert(idl.tables["Bridge"])
            bridge.name = self._bridge
            bridge.ports = [self._insert_port(idl, transaction, self._bridge, "internal")]
            roots[0].addvalue("bridges", bridge)
        _assign(bridge, "fail_mode", ["secure"])
        _assign(bridge, "datapath_type", self._datapath_type)
        protocols = _read(bridge, "protocols", [])
        _assign(bridge, "protocols", sorted({*(protocols or _PROTOCOLS), OPENFLOW}))
        if self._tunnels is not None:
            self._write_ports(idl, transaction, dict(self._ports_of_ours(idl, bridge, self._tunnels)))

    def _ports_of_ours(self, idl: Idl, bridge: Any, tunnels: Mapping[str, Tunnel]) -> Iterator[tuple[str, _Port]]:
        """All that should stand, by name."""
        for name, tunnel in tunnels.items():
            yield name, self._tunnel(name, tunnel)
        unjoined = {}
        for name, patch in self._patches.items():
            far = self._find(idl, patch.bridge)
            if far is None:
                unjoined[patch.bridge] = "it isn't there"
            elif (far.datapath_type or "system") != (bridge.datapath_type or "system"):
                unjoined[patch.bridge] = f"its datapath_type is not {self._bridge}'s"
            else:
                yield name, _Port(self._bridge, "patch", {"peer": patch.peer}, (PATCH_MARK, patch.bridge))
                yield patch.peer, _Port(patch.bridge, "patch", {"peer": name}, (PATCH_MARK, self._bridge))
        for name, reason in unjoined.items():
            if self._unjoined.get(name) != reason:
                logger.warning("%s can't be joined to bridge %s: %s", self._bridge, name, reason)
        self._unjoined = unjoined

    def _tunnel(self, name: str, tunnel: Tunnel) -> _Port:
        """A tunnel port, or an internal one. Of two with the same ends Open vSwitch gives packets to the one with their key."""
        options, bfd = dict[str, str](), dict[str, str]()
        if tunnel.local is not None and tunnel.remote is not None:
            peer = tunnel.remote != FLOW
            keys = {"in_key": "0", "out_key": FLOW} if peer else {"key": FLOW}
            options = {"local_ip": tunnel.local, "remote_ip": tunnel.remote, **keys}
            bfd = _BFD if peer else {}
        if tunnel.ipsec is not None:
            options |= self._encryption(tunnel)
        return _Port(self._bridge, tunnel.type, options, (TUNNEL_MARK, name), bfd)

    def _encryption(self, tunnel: Tunnel) -> dict[str, str]:
        """What has ovs-monitor-ipsec encrypt; by its mark the kernel drops what leaves in clear (``ipsec_skb_mark``)."""
        who = {"psk": self._psk or ""} if tunnel.ipsec == "psk" else {"remote_name": tunnel.remote or ""}
        return {"egress_pkt_mark": "1", **who}

    def _write_ports(self, idl: Idl, transaction: Any, wanted: Mapping[str, _Port]) -> None:
        there = {}
        for bridge in idl.tables["Bridge"].rows.values():
            for port in bridge.ports:
                expected = wanted.get(port.name)
                if expected is not None and expected.bridge == bridge.name:
                    there[port.name] = port
                elif self._sweep and self._is_marked(bridge, port):
                    bridge.delvalue("ports", port)
        for name, port in wanted.items():
            if name not in there:
                there[name] = self._insert_port(idl, transaction, name, port.type)
                self._find(idl, port.bridge).addvalue("ports", there[name])
            interface = there[name].interfaces[0]
            _assign(interface, "type", port.type)
            others = {name: value for name, value in _read(interface, "options", {}).items() if name not in _IPSEC}
            _assign(interface, "options", {**others, **port.options})
            _assign(interface, "bfd", {**_read(interface, "bfd", {}), **port.bfd})
            mark, value = port.mark
            _assign(interface, "external_ids", {**_read(interface, "external_ids", {}), mark: value})

    def _is_marked(self, bridge: Any, port: Any) -> bool:
        """Whether a port is one of ours; on other bridges only the ends of patches to our bridge are."""
        for interface in port.interfaces:
            ids = _read(interface, "external_ids", {})
            if bridge.name == self._bridge:
                if TUNNEL_MARK in ids or PATCH_MARK in ids:
                    return True
            elif ids.get(PATCH_MARK) == self._bridge:
                return True
        return False

    @staticmethod
    def _insert_port(idl: Idl, transaction: Any, name: str, kind: str) -> Any:
        interface = transaction.insert(idl.tables["Interface"])
        interface.name, interface.type = name, kind
        port = transaction.insert(idl.tables["Port"])
        port.name, port.interfaces = name, [interface]
        return port


def _settings(bridge: Any) -> tuple[Any, ...]:
    """What we write to a bridge, but for its ports, and which bridge it is."""
    return bridge.uuid, bridge.fail_mode, bridge.datapath_type, bridge.protocols


def _unlike(before: Mapping[UUID, OvsPort], after: Mapping[UUID, OvsPort]) -> Iterator[OvsPort]:
    """The ports of rows that came, changed or went, as they were and as they are. A row read anew counts as changed."""
    for uuid in before.keys() | after.keys():
        was, now = before.get(uuid), after.get(uuid)
        if was is not now:
            yield from (port for port in (was, now) if port is not None)


def _read(row: Any, column: str, default: Any) -> Any:
    """A column's value; a row that was just inserted has none yet."""
    return getattr(row, column, default)


def _assign(row: Any, column: str, value: Any) -> None:
    """Write only what differs, so that an unchanged database gets no transaction."""
    if _read(row, column, None) != value:
        setattr(row, column, value)


def bfd_state(status: Mapping[str, str]) -> Literal["up", "down"] | None:
    """What ``Interface.bfd_status`` says (ovs-vswitchd.conf.db(5)), as ``OvsPort.bfd`` has it.

    A session counts how often it came up or went down. So one that waits for its peer's first packet isn't taken for one that
    was lost, and a new ovs-vswitchd, here or there, starts from nothing.
    """
    if status.get("state") == "up":
        return "up"
    return None if status.get("flap_count", "0") == "0" else "down"


def _ovs_port(interface: Any) -> OvsPort:
    ofports, errors, ids = interface.ofport, interface.error, interface.external_ids
    ofport = ofports[0] if ofports and ofports[0] > 0 else None
    return OvsPort(
        id=interface.name,
        ofport=ofport,
        iface_id=ids.get("iface-id"),
        attached_mac=ids.get("attached-mac"),
        tunnel=ids.get(TUNNEL_MARK),
        patch=ids.get(PATCH_MARK),
        # with an ofport the port works; what OVS says then comes and goes whenever it reconfigures anything
        error=errors[0] if errors and ofport is None else None,
        bfd=bfd_state(interface.bfd_status),
    )
