"""``dragonflow orchestrator`` stretches networks over regions."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from dragonflow.cli.common import ConfigFiles, fail
from dragonflow.config import ORCHESTRATOR, ORCHESTRATOR_OPTS, ConfigError, load
from dragonflow.observe import log


def orchestrator(
    config_file: ConfigFiles = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log each request to a region's API, too.")] = False,
) -> None:
    """Run an orchestrator until it gets SIGTERM or SIGINT. Of several one leads. What is announced stays when it ends."""
    log.set_up(debug=debug)
    try:
        from dragonflow.regions.main import Process  # noqa: PLC0415 - the parts take time to load
        from dragonflow.regions.settings import Settings  # noqa: PLC0415

        settings = Settings.of(load(config_file or (), ORCHESTRATOR_OPTS, section=ORCHESTRATOR)[ORCHESTRATOR])
        _need_sdk()
        running = Process(settings)
    except (ConfigError, ValueError) as error:
        raise fail(str(error)) from error
    except OSError as error:
        raise fail(f"[{ORCHESTRATOR}] status_address: {error}") from error
    if not debug:
        for name in ("keystoneauth", "urllib3", "openstack"):
            logging.getLogger(name).setLevel(logging.WARNING)
    running.run()


def _need_sdk() -> None:
    """:raises ConfigError: the SDK isn't installed."""
    try:
        import openstack.config  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(f"{error}: install dragonflow[orchestrator]") from error
