"""``dragonflow explain``: from a flow's cookie to the app and the Neutron object that it serves."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console

from dragonflow.apps import APPS
from dragonflow.cli.common import ConfigFiles, Contents, Json, StoreUrl, fail, read, store_url
from dragonflow.controller.view import Me
from dragonflow.model import Chassis, LogicalPort, LogicalSwitch
from dragonflow.pipeline.facts import Owner
from dragonflow.switch.ledger import cookie

_COOKIE = re.compile(r"(?:cookie=)?(0x[0-9a-fA-F]+)")
_TABLE = re.compile(r"table=(\w+)")
_NETWORK = re.compile(r"metadata=(0x[0-9a-f]+)")
_PORT = re.compile(r"(?:reg[67]=|:|->.*reg[67]\[\] *)(0x[0-9a-f]+)")


def explain(
    flows: Annotated[
        list[str] | None,
        typer.Argument(help="Cookies, or lines of 'ovs-ofctl dump-flows'. None: read lines from standard input."),
    ] = None,
    config_file: ConfigFiles = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say for whom flows stand: which app, which object, and what its numbers mean.

    Example: ovs-ofctl -O OpenFlow15 dump-flows br-int | dragonflow explain
    """
    if not flows and sys.stdin.isatty():
        raise fail(
            "nothing to explain: give a cookie, or pipe the output of 'ovs-ofctl -O OpenFlow15 dump-flows br-int' in"
        )
    lines = flows or sys.stdin.read().splitlines()
    book = Book(read(store_url(config_file, store)))
    explained = [book.explain(line, match[1]) for line in lines if (match := _COOKIE.search(line))]
    if not explained:
        raise fail("no cookie found: give 0x…, or lines of 'ovs-ofctl -O OpenFlow15 dump-flows br-int'")
    if as_json:
        typer.echo(json.dumps(explained, indent=2))
        return
    console = Console(highlight=False)
    for entry in explained:
        console.print(f"[dim]{entry['flow'].strip()}[/]", soft_wrap=True)
        console.print(f"  [bold]{_sentence(entry)}[/]", soft_wrap=True)
        for number, meaning in entry["numbers"].items():
            console.print(f"  {number} is {meaning}", soft_wrap=True)


def _sentence(entry: dict[str, Any]) -> str:
    if entry["app"] is None:
        return "no object of the DF DB owns this cookie (its object is gone, or another program wrote the flow)"
    where = f"table {entry['table']}, " if entry["table"] else ""
    return f"{where}app {entry['app']}, for {entry['object']}"


class Book:
    """Everything in the DF DB by the numbers that stand for it in flows."""

    def __init__(self, contents: Contents) -> None:
        self._objects: dict[tuple[str, str], Any] = {(type(row).__name__, row.id): row for row in contents.rows}
        self._networks = {row.key: row for row in contents.of(LogicalSwitch)}
        self._ports = {row.key: row for row in contents.of(LogicalPort)}
        self._owners = {cookie(owner): owner for owner in _owners(contents)}
        self._tables = {str(table.number): table.name for app in APPS for table in app.tables()}

    def explain(self, line: str, number: str) -> dict[str, Any]:
        """What is known of one flow."""
        owner = self._owners.get(int(number, 16))
        table = _TABLE.search(line)
        return {
            "flow": line,
            "cookie": number,
            "table": self._tables.get(table[1], table[1]) if table else None,
            "app": owner.app if owner else None,
            "kind": owner.kind if owner else None,
            "id": owner.id if owner else None,
            "object": self._describe(owner) if owner else None,
            "numbers": dict(self._numbers(line)),
        }

    def _describe(self, owner: Owner) -> str:
        row = self._objects.get((owner.kind, owner.id))
        if isinstance(row, LogicalPort):
            return f"port {_named(row)} ({row.mac} {' '.join(row.ips)}, on {row.chassis or 'no chassis'})"
        if isinstance(row, LogicalSwitch):
            return f"network {_named(row)} ({row.network_type} {row.segmentation_id})"
        if isinstance(row, Chassis):
            return f"chassis {row.id} (VTEP {row.tunnel_ip})"
        return f"the host {owner.id} itself" if owner.kind == Me.__name__ else f"{owner.kind} {owner.id}"

    def _numbers(self, line: str) -> Iterator[tuple[str, str]]:
        for found in _NETWORK.finditer(line):
            if network := self._networks.get(int(found[1], 16)):
                yield found[0], f"network {_named(network)}"
        for found in _PORT.finditer(line):
            if port := self._ports.get(int(found[1], 16)):
                yield found[0], f"port {_named(port)}"


def _named(row: LogicalPort | LogicalSwitch) -> str:
    return f"{row.name} {row.id}" if row.name else row.id


def _owners(contents: Contents) -> Iterable[Owner]:
    """Every owner that the rows can have, on any chassis."""
    for app in APPS:
        for model in app.renderings():
            objects = contents.of(Chassis if model is Me else model)
            yield from (Owner(app.name, model.__name__, found.id) for found in objects)
