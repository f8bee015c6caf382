"""``dragonflow keys`` makes the keys with which a bus of ZeroMQ is encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dragonflow.cli.common import fail

app = typer.Typer(no_args_is_help=True, help="Keys of the message bus over ZeroMQ (zmq+tcp://).")


@app.callback()
def _keys() -> None:
    pass


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose keys: the host's name.")],
    directory: Annotated[
        Path, typer.Option(help="Where to write them. It is made (mode 0700) if it isn't there.")
    ] = Path("/etc/dragonflow/curve"),
) -> None:
    """Make a pair of keys for a host: NAME.key_secret, which stays on it (mode 0600), and NAME.key, for all others."""
    from dragonflow.pubsub import curve  # noqa: PLC0415 - ZeroMQ takes time to load

    try:
        public, secret = curve.create(directory.absolute(), name)
    except curve.KeyTrouble as error:
        raise fail(str(error)) from error
    typer.echo(f"{secret}  stays on {name}: [df] pubsub_url = zmq+tcp://ADDRESS?key={secret}&peers=DIRECTORY")
    typer.echo(f"{public}  goes into DIRECTORY of every other host, Neutron's servers included")
