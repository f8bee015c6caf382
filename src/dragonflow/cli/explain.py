"""``dragonflow explain``: from a flow's cookie to the app and the Neutron object that it serves."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dragonflow.cli.common import ConfigFiles, Json, StoreUrl, fail, read, store_url


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
    from dragonflow.observe.explain import Book  # noqa: PLC0415 - the apps take time to load

    book = Book(read(store_url(config_file, store)).rows)
    explained = [entry for line in lines if (entry := book.explain(line))]
    if not explained:
        raise fail("no cookie found: give 0x…, or lines of 'ovs-ofctl -O OpenFlow15 dump-flows br-int'")
    if as_json:
        typer.echo(json.dumps(explained, indent=2))
        return
    console = Console(highlight=False)
    for entry in explained:
        console.print(f"[dim]{escape(entry['flow'].strip())}[/]", soft_wrap=True)
        console.print(f"  [bold]{escape(_sentence(entry))}[/]", soft_wrap=True)
        for number, meaning in entry["numbers"].items():
            console.print(f"  {number} is {escape(meaning)}", soft_wrap=True)


def _sentence(entry: dict[str, Any]) -> str:
    if entry["app"] is None:
        return "no object of the DF DB owns this cookie (its object is gone, or another program wrote the flow)"
    where = f"table {entry['table']}, " if entry["table"] else ""
    return f"{where}app {entry['app']}, for {entry['object']}"
