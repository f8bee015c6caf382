"""``dragonflow controller`` runs the local controller; ``status`` asks how it is; ``shutdown`` has its chassis go."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dragonflow.cli.common import ConfigFiles, Json, fail
from dragonflow.config import CONTROLLER_OPTS, GROUP, METADATA_OPTS, STORE_OPTS, ConfigError, load
from dragonflow.observe import log, metrics
from dragonflow.observe.control import ControlError, ask
from dragonflow.store.protocol import StoreError


def controller(
    config_file: ConfigFiles = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log what happens to single objects too.")] = False,
) -> None:
    """Run the local controller of this host until it gets SIGTERM or SIGINT. Flows stay when it ends."""
    from dragonflow.controller.main import Controller  # noqa: PLC0415 - the parts take time to load
    from dragonflow.controller.settings import Settings  # noqa: PLC0415

    log.set_up(debug=debug)
    try:
        settings = Settings.of(load(config_file or (), STORE_OPTS, CONTROLLER_OPTS, METADATA_OPTS)[GROUP])
        running = Controller(settings)
        if settings.metrics_address:
            metrics.serve(*settings.metrics_address)
    except (ConfigError, StoreError, ValueError) as error:
        raise fail(str(error)) from error
    except OSError as error:
        raise fail(f"[df] metrics_address: {error}") from error
    asyncio.run(running.run())


def status(
    config_file: ConfigFiles = None,
    control_socket: Annotated[str | None, typer.Option(help="The controller's control socket.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the controller of this host whether it is in sync and what it had to leave out. Exit code 2: not in sync."""
    try:
        path = control_socket or load(config_file or (), CONTROLLER_OPTS)[GROUP].control_socket
        answer = ask(path, "status")
    except (ConfigError, ControlError) as error:
        raise fail(str(error)) from error
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        _print(answer)
    if not answer["in_sync"]:
        raise typer.Exit(2)


def shutdown(
    config_file: ConfigFiles = None,
    control_socket: Annotated[str | None, typer.Option(help="The controller's control socket.")] = None,
    as_json: Json = False,
) -> None:
    """Take this host out of service: its ports are reported DOWN, its controller ends; flows stay until the host goes.

    For a restart or an upgrade of the controller alone don't use this: stop the service, statuses and flows stay as they are. A
    controller that is started again reports ports ACTIVE again. Exit code 2: the DF DB could not be told everything.
    """
    try:
        path = control_socket or load(config_file or (), CONTROLLER_OPTS)[GROUP].control_socket
        answer = ask(path, "shutdown", timeout=15.0)
    except (ConfigError, ControlError) as error:
        raise fail(str(error)) from error
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(answer["untold"] or f"{answer['ports']} ports reported DOWN; the controller has ended")
    if answer["untold"]:
        raise typer.Exit(2)


def _print(answer: dict[str, Any]) -> None:
    table = Table(show_header=False, title=f"controller of {answer['chassis']}", title_justify="left")
    for name, value in answer.items():
        shown = "\n".join(f"{key}: {text}" for key, text in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), shown or "-")
    Console(highlight=False).print(table)
