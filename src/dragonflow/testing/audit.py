"""Compare a living switch with what a fresh process computes from the DF DB and OVSDB, knowing nothing of the controller:

    python -m dragonflow.testing.audit --store URL --chassis NAME --ovsdb unix:PATH --openflow unix:PATH [--within SECONDS]

prints each difference on a line and ends with 1 if there are any. It only reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from dragonflow.apps import APPS
from dragonflow.apps.base import App
from dragonflow.controller.recall import recall
from dragonflow.controller.replica import Replica
from dragonflow.controller.topology import needed_scopes
from dragonflow.controller.view import Me
from dragonflow.model import Chassis, CodecError, LogicalSwitch, Neighbour, OvsPort, Row, decode
from dragonflow.store import open_store
from dragonflow.store.protocol import Record, Store
from dragonflow.switch.ledger import Change, Ledger, describe
from dragonflow.switch.openflow.connection import Connection
from dragonflow.switch.ovsdb import bfd_state
from dragonflow.switch.readback import Found, read_back
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

_INTERVAL = 0.1
"""Seconds between two looks while differences may still go away."""


def audit(world: World, found: Found, apps: Sequence[App] = APPS) -> tuple[str, ...]:
    """How the switch differs from what this world calls for: one line a difference, none if all is well.

    Flows are compared whole, by table, priority, match, instructions and cookie; groups by their buckets.
    """
    ledger = Ledger(lambda: 0.0)
    for owner, facts in compile_world(apps, world).facts.items():
        ledger.set(owner, facts)
    lines = [
        f"{clash.what}: {clash.winner} and {', '.join(map(str, clash.losers))} disagree" for clash in ledger.clashes
    ]
    lines += [f"{owner}: {degraded}" for owner, degraded in ledger.refused.items()]
    ledger.adopt(found.flows, found.groups, found.meters)
    difference = ledger.difference(finely=True)
    for change in (*difference.before, *difference.bundle, *difference.after):
        lines.append(_describe(ledger, change, found))
    return tuple(lines)


def _describe(ledger: Ledger, change: Change, found: Found) -> str:
    what = describe(change.kind, change.name)
    if change.value is None:
        return f"too much: {what}"
    owners = ", ".join(map(str, ledger.owners_of(change)))
    return f"{'wrong' if change.name in found.flows else 'missing'}: {what} of {owners}"


async def read_world(store: Store, chassis: str) -> World:
    """The world of a chassis as the DF DB has it now, without interfaces. Rows that can't be read are absent.

    :raises LookupError: the DF DB doesn't know the chassis.
    """
    replica = Replica()
    while missing := needed_scopes(chassis, replica) - replica.scopes:
        snapshot = await store.snapshot(missing)
        for scope in missing:
            records = [record for record in snapshot.records if record.key.scope == scope]
            replica.reset_scope(scope, _rows(records), snapshot.revision)
    me = replica.get(Chassis, chassis)
    if me is None:
        raise LookupError(f"the DF DB has no chassis {chassis}")
    return World.held_by(replica, Me.of(me))


def _rows(records: Sequence[Record]) -> list[tuple[Row, int]]:
    rows = []
    for record in records:
        try:
            row = decode(record.key.kind, record.key.id, record.data or b"", record.key.scope)
        except CodecError:
            continue
        if row.scope == record.key.scope:
            rows.append((row, record.revision))
    return rows


def read_ports(ovsdb: str, bridge: str) -> tuple[OvsPort, ...]:
    """The bridge's interfaces as ovs-vsctl tells them. :raises subprocess.CalledProcessError: it can't."""
    vsctl = ("ovs-vsctl", f"--db={ovsdb}", "--timeout=10")
    names = set(_output(*vsctl, "list-ifaces", bridge).split())
    columns = "--columns=name,ofport,external_ids,error,bfd_status"
    table = json.loads(_output(*vsctl, "--format=json", columns, "list", "Interface"))
    return tuple(_ovs_port(*row) for row in table["data"] if row[0] in names)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _ovs_port(name: str, ofport: Any, external_ids: Any, error: Any, bfd_status: Any) -> OvsPort:
    ids = dict(external_ids[1])
    return OvsPort(
        id=name,
        ofport=ofport if isinstance(ofport, int) and ofport > 0 else None,
        iface_id=ids.get("iface-id"),
        attached_mac=ids.get("attached-mac"),
        tunnel=ids.get("df-tunnel"),
        patch=ids.get("df-patch"),
        error=error if isinstance(error, str) else None,
        bfd=bfd_state(dict(bfd_status[1])),
    )


async def audit_chassis(store_url: str, chassis: str, ovsdb: str, openflow: str) -> tuple[str, ...]:
    """Compare one chassis's switch with its world. :raises StoreError, Disconnected, LookupError: one of the sides is away."""
    store = open_store(store_url)
    try:
        world = await read_world(store, chassis)
    finally:
        await store.close()
    me = next(row for row in world.rows if isinstance(row, Chassis) and row.id == chassis)
    world = msgspec.structs.replace(world, ports=read_ports(ovsdb, me.bridge))
    connection = await Connection.open(openflow)
    try:
        found = await read_back(connection)
    finally:
        connection.close()
    return audit(msgspec.structs.replace(world, neighbours=tuple(_neighbours(world, found))), found)


def _neighbours(world: World, found: Found) -> Iterator[Neighbour]:
    """The neighbours to which the switch has flows: what answered to a controller, nobody else can know."""
    networks = {row.key: row.id for row in world.rows if isinstance(row, LogicalSwitch)}
    for key, address, mac in recall(found.flows):
        if (network := networks.get(key)) is not None:
            yield Neighbour(id=f"{network}/{address}", network=network, address=str(address), mac=mac.hex(":"))


async def _run(options: argparse.Namespace) -> tuple[str, ...]:
    end = time.monotonic() + options.within
    while True:
        lines = await audit_chassis(options.store, options.chassis, options.ovsdb, options.openflow)
        if not lines or time.monotonic() > end:
            return lines
        await asyncio.sleep(_INTERVAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m dragonflow.testing.audit", description=__doc__)
    parser.add_argument("--store", required=True, help="URL of the DF DB")
    parser.add_argument("--chassis", required=True, help="name of the chassis")
    parser.add_argument(
        "--ovsdb", required=True, help="unix:PATH or tcp:ADDRESS:PORT (loopback) of its Open vSwitch's database"
    )
    parser.add_argument(
        "--openflow", required=True, help="unix:PATH or tcp:ADDRESS:PORT (loopback) of its integration bridge"
    )
    parser.add_argument("--within", type=float, default=0.0, help="seconds that differences may take to go away")
    lines = asyncio.run(_run(parser.parse_args(arguments)))
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
