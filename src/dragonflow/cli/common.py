"""What the subcommands share: options, reading the DF DB once, tables, and errors without a traceback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dragonflow import secrecy
from dragonflow.config import GROUP, STORE_OPTS, ConfigError, load
from dragonflow.model import KINDS, CodecError, Row, decode
from dragonflow.store import open_store
from dragonflow.store.protocol import EVERYTHING, Record, StoreError

ConfigFiles = Annotated[
    list[str] | None,
    typer.Option("--config-file", help="Where [df] stands; default /etc/dragonflow/dragonflow.conf. May be repeated."),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store-url", help="The DF DB, instead of the one of the configuration.", envvar="DF_STORE_URL"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of a table.")]


def fail(message: str) -> typer.Exit:
    """Say on standard error what is wrong; raise what this returns."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return typer.Exit(1)


def store_url(config_files: Sequence[str] | None, given: str | None) -> str:
    """The DF DB's URL, from the command line or the configuration."""
    if given:
        return given
    try:
        return str(load(config_files or (), STORE_OPTS)[GROUP].store_url)
    except ConfigError as error:
        raise fail(str(error)) from error


class Contents:
    """All rows of a DF DB at one revision, and what was there but could not be read."""

    def __init__(self, revision: int, records: Iterable[Record]) -> None:
        self.revision = revision
        self.rows: list[Row] = []
        self.refused: list[str] = []
        for record in records:
            if (
                record.data is None or record.key.kind not in KINDS
            ):  # keys, leases and endpoints are no rows of the model
                continue
            try:
                self.rows.append(decode(record.key.kind, record.key.id, record.data, record.key.scope))
            except CodecError as error:
                self.refused.append(str(error))

    def of(self, kind: type[Any]) -> list[Any]:
        """The rows of one kind, by id."""
        return sorted((row for row in self.rows if isinstance(row, kind)), key=lambda row: row.id)


def read(url: str) -> Contents:
    """Read the whole DF DB once; errors end the command with a message."""

    async def once() -> Contents:
        store = open_store(url, create=False)
        try:
            snapshot = await store.snapshot([EVERYTHING])
        finally:
            await store.close()
        return Contents(snapshot.revision, snapshot.records)

    try:
        contents = asyncio.run(once())
    except (StoreError, ValueError) as error:
        raise fail(f"{secrecy.masked(url)}: {error}") from error
    for message in contents.refused:
        Console(stderr=True, highlight=False).print(f"[yellow]refused:[/] {escape(message)}", soft_wrap=True)
    return contents


def print_rows(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print dictionaries as a JSON list, or their ``columns`` as a table."""
    if as_json:
        typer.echo(json.dumps(list(rows), indent=2))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(row[column])) for column in columns))
    Console(highlight=False).print(table)


def printable(text: str) -> str:
    """The same text without what would steer a terminal or begin a new line: names are given by tenants."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return "\n".join(printable(str(it)) for it in value) or "-"
    return printable(str(value))
