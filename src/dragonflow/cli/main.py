"""Entry point of ``dragonflow``: one subcommand a module. What only some installations have is loaded when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from dragonflow import __version__
from dragonflow.cli import (
    controller,
    db,
    demo,
    demo_region,
    drops,
    events,
    explain,
    keys,
    lab,
    metadata,
    orchestrator,
    port,
    repair,
    servers,
    show,
    stretch,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Dragonflow: virtual networks for OpenStack Neutron, compiled on every host.",
)
show.app.command("port")(port.port)
show.app.command("servers")(servers.servers)
app.add_typer(show.app, name="show")
app.add_typer(db.app, name="db")
app.add_typer(keys.app, name="keys")
app.add_typer(lab.app, name="lab")
app.add_typer(stretch.app, name="stretch")
app.command("controller")(controller.controller)
app.command("status")(controller.status)
app.command("shutdown")(controller.shutdown)
app.command("metadata-proxy")(metadata.metadata_proxy)
app.command("orchestrator")(orchestrator.orchestrator)
app.command("events")(events.events)
app.command("drops")(drops.drops)
app.command("explain")(explain.explain)
app.command("repair")(repair.repair)
app.command("demo")(demo.demo)
app.command("demo-region")(demo_region.demo_region)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dragonflow {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app()
