"""From the numbers in a flow to what they stand for: cookies to owners, register values to networks and ports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from dragonflow.apps import APPS
from dragonflow.controller.view import Me
from dragonflow.model import (
    Chassis,
    Derived,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    RemoteChassis,
    Row,
    RuleClass,
    SecurityGroup,
    worked_out,
)
from dragonflow.pipeline.facts import Owner
from dragonflow.switch.ledger import cookie

_COOKIE = re.compile(r"\bcookie=(0x[0-9a-fA-F]+)|^\s*(0x[0-9a-fA-F]+)\s*$")
_TABLE = re.compile(r"table=(\w+)")
_NETWORK = re.compile(
    r"metadata=(?P<match>0x[0-9a-f]+)(?:/0x[0-9a-f]+)?|(?P<load>0x[0-9a-f]+)(?:/0x[0-9a-f]+)?->metadata"
)
_ROUTER = re.compile(r"\breg1=(?P<match>0x[0-9a-f]+)(?:/0x[0-9a-f]+)?|(?P<load>0x[0-9a-f]+)(?:/0x[0-9a-f]+)?->reg1\b")
_CLAUSE = re.compile(r"conjunction\((\d+),")
_PORT = re.compile(r"reg[67]=(?P<match>0x[0-9a-f]+)|(?P<load>0x[0-9a-f]+)->reg[67]")

_Keyed = LogicalPort | LogicalRouter | LogicalSwitch


def cookie_of(line: str) -> str | None:
    """The cookie in a line of ``ovs-ofctl dump-flows``, or the line itself where it is nothing but a number; else None."""
    found = _COOKIE.search(line)
    return None if found is None else found[1] or found[2]


class Book:
    """Everything in the DF DB by the numbers that stand for it in flows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = tuple(rows)
        self._objects: dict[tuple[str, str], Row | Derived] = {
            (type(it).__name__, it.id): it for it in (*rows, *worked_out(rows))
        }
        self._networks = self._by_key(LogicalSwitch)
        self._ports = self._by_key(LogicalPort)
        self._routers = self._by_key(LogicalRouter)
        self._classes = {it.number: it for it in self._objects.values() if isinstance(it, RuleClass)}
        self._owners = {cookie(owner): owner for owner in _owners(self._objects)}
        self._tables = {str(table.number): table.name for app in APPS for table in app.tables()}

    def _by_key(self, kind: type[_Keyed]) -> dict[int, _Keyed]:
        return {row.key: row for row in self._objects.values() if isinstance(row, kind)}

    def explain(self, line: str) -> dict[str, Any] | None:
        """What is known of one flow; None for a line without a cookie."""
        number = cookie_of(line)
        if number is None:
            return None
        owner = self._owners.get(int(number, 16)) or self._of_clauses(line)
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

    def _of_clauses(self, line: str) -> Owner | None:
        """Of a flow that is shared by all whose conjunctions have its match: the class of rules that it names first."""
        classes = (self._classes.get(int(number)) for number in _CLAUSE.findall(line))
        return next((Owner(it.direction, RuleClass.__name__, it.id) for it in classes if it is not None), None)

    def _describe(self, owner: Owner) -> str:  # noqa: PLR0911 - a list of kinds
        row = self._objects.get((owner.kind, owner.id))
        if isinstance(row, LogicalPort):
            return f"port {_named(row)} ({row.mac} {' '.join(row.ips)}, on {row.chassis or 'no chassis'})"
        if isinstance(row, LogicalSwitch):
            return f"network {_named(row)} ({row.network_type} {row.segmentation_id})"
        if isinstance(row, LogicalRouter):
            return f"router {_named(row)}"
        if isinstance(row, FloatingIp):
            return f"floating IP {row.address} (for {row.fixed_ip or 'nobody'})"
        if isinstance(row, RuleClass):
            return self._described_rules(row)
        if isinstance(row, Chassis):
            return f"chassis {row.id} (VTEP {row.tunnel_ip})"
        if isinstance(row, RemoteChassis):
            return f"the chassis of another region at VTEP {row.vtep}"
        return f"the host {owner.id} itself" if owner.kind == Me.__name__ else f"{owner.kind} {owner.id}"

    def _described_rules(self, rules: RuleClass) -> str:
        group = self._objects.get((SecurityGroup.__name__, rules.group))
        name = f"{group.name} {group.id}" if isinstance(group, SecurityGroup) else rules.group
        return f"{rules.direction} rules of security group {name} for IPv{rules.ip_version} and {rules.remote}"

    def _numbers(self, line: str) -> Iterator[tuple[str, str]]:
        known = (
            ("network", _NETWORK, self._networks),
            ("router", _ROUTER, self._routers),
            ("port", _PORT, self._ports),
        )
        for kind, pattern, rows in known:
            for found in pattern.finditer(line):
                if row := rows.get(int(found["match"] or found["load"], 16)):
                    yield found[0], f"{kind} {_named(row)}"


def _named(row: _Keyed) -> str:
    return f"{row.name} {row.id}" if row.name else row.id


def _owners(objects: Iterable[tuple[str, str]]) -> Iterator[Owner]:
    """Every owner that the objects can have, on any chassis."""
    rendered = {app.name: {model.__name__ for model in app.renderings()} for app in APPS}
    for kind, name in objects:
        for app, kinds in rendered.items():
            if kind in kinds:
                yield Owner(app, kind, name)
            if kind == Chassis.__name__ and Me.__name__ in kinds:
                yield Owner(app, Me.__name__, name)
