"""``dragonflow show servers``: the processes of Neutron's that work for Dragonflow, and which of them leads."""

from __future__ import annotations

from datetime import UTC, datetime

from dragonflow.cli.common import ConfigFiles, Json, StoreUrl, print_rows, read, store_url
from dragonflow.model import Leader, Server


def servers(config_file: ConfigFiles = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Neutron's processes that are alive, and which of them keeps statuses and agents and mends the DF DB."""
    contents = read(store_url(config_file, store))
    leaders = {row.server: row for row in contents.of(Leader)}
    rows = [
        {
            "name": row.id,
            "host": row.host,
            "pid": row.pid,
            "since": _utc(row.since),
            "leads": row.id in leaders,
            "leads_since": _utc(leaders[row.id].since) if row.id in leaders else None,
            "version": row.version,
        }
        for row in contents.of(Server)
    ]
    columns = ["name", "since", "leads", "leads_since", "version"]
    print_rows(f"{len(rows)} servers at revision {contents.revision}", rows, columns, as_json=as_json)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
