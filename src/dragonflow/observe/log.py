"""Logs on standard error, one line a record, for the journal or a file to keep."""

from __future__ import annotations

import logging


def set_up(*, debug: bool = False) -> None:
    """Log to standard error: time, level, part, text."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
