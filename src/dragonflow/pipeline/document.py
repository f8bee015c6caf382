"""Writes ``docs/pipeline.md`` from the tables themselves: ``python -m dragonflow.apps > docs/pipeline.md``."""

from __future__ import annotations

from collections.abc import Sequence

from dragonflow.pipeline.check import AppLike
from dragonflow.pipeline.groups import PURPOSES
from dragonflow.pipeline.punt import ALL, LIMITS
from dragonflow.pipeline.registers import LAYOUT, Bits
from dragonflow.pipeline.table import Table

_HEAD = """\
# The pipeline

The tables of the integration bridge in the order of a packet's way, the bits in which they hand things on, and the apps that
place ports. Generated from the code by `python -m dragonflow.apps`; a test compares.

## Tables

| number | table | stage | app | purpose | matches | leads to | unmatched |
|---|---|---|---|---|---|---|---|
"""

_BITS = """
## Named bits

| name | bits | meaning |
|---|---|---|
"""

_PLACES = """
## Who places which ports

| app | places | resting on the places of |
|---|---|---|
"""

_GROUPS = """
## Groups

A group's id is its kind in the bits from 24 on, and the key of the logical switch below.

| kind | for |
|---|---|
"""

_PUNTS = f"""
## What the controller is asked

Packets a second, and at once, that one OpenFlow port may have handed to the controller: that of the guest whom it concerns,
else the way outside. All ports of a chassis together: {ALL.rate} a second, {ALL.burst} at once
([why](decisions/0046-the-controller-is-asked-in-turns.md)).

| kind | a second | at once | when |
|---|---|---|---|
"""


def document(apps: Sequence[AppLike]) -> str:
    """The page, in Markdown."""
    owned = sorted(((table, app.name) for app in apps for table in app.tables()), key=lambda it: it[0].number)
    names = {bits: name for name, bits, _ in LAYOUT}
    lines = [_HEAD]
    lines += [_table_row(table, app, names) for table, app in owned]
    lines.append(_BITS)
    lines += [f"| {name} | {_range(bits)} | {meaning} |\n" for name, bits, meaning in LAYOUT]
    lines.append(_PLACES)
    lines += [f"| {app.name} | {app.places} | {', '.join(app.follows) or '-'} |\n" for app in apps if app.places]
    lines.append(_GROUPS)
    lines += [f"| {kind.value} {kind.name} | {purpose} |\n" for kind, purpose in PURPOSES.items()]
    lines.append(_PUNTS)
    lines += [f"| {kind.name} | {it.rate} | {it.burst} | {it.by} |\n" for kind, it in LIMITS.items()]
    return "".join(lines)


def _table_row(table: Table, app: str, names: dict[Bits, str]) -> str:
    matches = ", ".join(it if isinstance(it, str) else names[it] for it in table.matches)
    leads = ", ".join(way.name for way in table.next) or "-"
    stage = table.stage.name.lower()
    miss = "dropped" if table.miss is None else f"to {table.miss.name}"
    return f"| {table.number} | {table.name} | {stage} | {app} | {table.purpose} | {matches} | {leads} | {miss} |\n"


def _range(bits: Bits) -> str:
    return f"{bits.field}[{bits.offset}..{bits.offset + bits.width - 1}]"
