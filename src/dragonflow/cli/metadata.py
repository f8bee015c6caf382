"""``dragonflow metadata-proxy`` passes on what this host's guests ask Nova's metadata API."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from dragonflow.cli.common import ConfigFiles, fail
from dragonflow.config import CONTROLLER_OPTS, GROUP, METADATA_OPTS, ConfigError, load
from dragonflow.metadata.settings import Settings
from dragonflow.observe import log


def metadata_proxy(
    config_file: ConfigFiles = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log what happens to single connections too.")] = False,
) -> None:
    """Run this host's metadata proxy until it gets SIGTERM or SIGINT. It asks the local controller who is who."""
    from dragonflow.metadata import main  # noqa: PLC0415 - it takes time to load

    log.set_up(debug=debug)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
    try:
        options = load(config_file or (), CONTROLLER_OPTS, METADATA_OPTS)[GROUP]
        settings = Settings.of(options)
        asyncio.run(main.run(settings, options.control_socket))
    except (ConfigError, OSError) as error:
        raise fail(str(error)) from error
