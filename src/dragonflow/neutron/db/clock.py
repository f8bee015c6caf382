"""The database's own clock: Neutron servers whose clocks differ agree with it on what is due."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class Now(FunctionElement[float]):
    """Seconds of the epoch as the database counts them, to a millisecond or better, whatever its time zone."""

    type = sa.Double()
    inherit_cache = True


@compiles(Now)
def _standard(_now: Now, _compiler: Any, **_options: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())"


@compiles(Now, "mysql", "mariadb")
def _mysql(_now: Now, _compiler: Any, **_options: Any) -> str:
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1000000e0)"


@compiles(Now, "sqlite")
def _sqlite(_now: Now, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
