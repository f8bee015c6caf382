"""The official OVSDB client (``ovs.db.idl``), told which columns we need and what to wait for."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

from dragonflow.switch._json import Parser
from dragonflow.switch.remote import Tls

# ovs.poller imports eventlet where there is one (beside Neutron), only to ask whether it is in use; it isn't, and it costs more
# memory than all else of the IDL.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
import ovs.db.idl  # noqa: E402 # see above
import ovs.json  # noqa: E402 # see above
from ovs.poller import POLLIN, POLLOUT  # noqa: E402 # see above
from ovs.stream import Stream  # noqa: E402 # see above

if sys.modules["eventlet"] is None:
    del sys.modules["eventlet"]

if ovs.json.PARSER == ovs.json.PARSER_PY:
    ovs.json.Parser = Parser  # where ovs.jsonrpc looks for it

Transaction = ovs.db.idl.Transaction

_MAX_BACKOFF_MS = 500


def _many(key: Any, value: Any = None) -> dict[str, Any]:
    return {"type": {"key": key, "min": 0, "max": "unlimited"} | ({"value": value} if value else {})}


def _optional(key: str) -> dict[str, Any]:
    return {"type": {"key": key, "min": 0, "max": 1}}


def _references(table: str) -> dict[str, Any]:
    return _many({"type": "uuid", "refTable": table})


SCHEMA: dict[str, dict[str, Any]] = {
    "Open_vSwitch": {"bridges": _references("Bridge"), "other_config": _many("string", "string")},
    "Bridge": {
        "name": {"type": "string"},
        "ports": _references("Port"),
        "fail_mode": _optional("string"),
        "datapath_type": {"type": "string"},
        "protocols": _many("string"),
    },
    "Port": {"name": {"type": "string"}, "interfaces": _references("Interface")},
    "Interface": {
        "name": {"type": "string"},
        "type": {"type": "string"},
        "ofport": _optional("integer"),
        "error": _optional("string"),
        "options": _many("string", "string"),
        "external_ids": _many("string", "string"),
        "bfd": _many("string", "string"),
        "bfd_status": _many("string", "string"),
    },
}
"""The columns of vswitch.ovsschema that are read or written here; ovs-vswitchd.conf.db(5) explains them."""


def use(tls: Tls) -> None:
    """Have all that this process connects to by ``ssl:`` from now on see these files: the library knows no other way."""
    Stream.ssl_set_private_key_file(str(tls.key))
    Stream.ssl_set_certificate_file(str(tls.cert))
    Stream.ssl_set_ca_cert_file(str(tls.ca))


class Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """Remembers which rows changed."""

    def __init__(self, remote: str) -> None:
        tables = {name: {"columns": columns} for name, columns in SCHEMA.items()}
        helper = ovs.db.idl.SchemaHelper(schema_json={"name": "Open_vSwitch", "version": "7.0.0", "tables": tables})
        for name, columns in SCHEMA.items():
            helper.register_columns(name, list(columns))
        self.touched: dict[str, set[UUID]] = {name: set() for name in SCHEMA}
        super().__init__(remote, helper)
        self._session.reconnect.set_backoff(100, _MAX_BACKOFF_MS)
        self._session.reconnect.set_quiet(True)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        """A row came, changed or went."""
        self.touched[row._table.name].add(row.uuid)


class Wake:
    """What the IDL takes for an ``ovs.poller.Poller``: gathers what it waits for.

    ``milliseconds`` is when it wants to run at the latest; None means that it can wait for ever.
    """

    def __init__(self) -> None:
        self.readable: set[int] = set()
        self.writable: set[int] = set()
        self.milliseconds: int | None = None

    def fd_wait(self, fd: Any, events: int) -> None:
        """A file descriptor is waited for."""
        number = fd if isinstance(fd, int) else fd.fileno()
        if events & POLLIN:
            self.readable.add(number)
        if events & POLLOUT:
            self.writable.add(number)

    def timer_wait(self, milliseconds: int) -> None:
        """The IDL has something to do in so many milliseconds."""
        earlier = milliseconds if self.milliseconds is None else min(milliseconds, self.milliseconds)
        self.milliseconds = max(0, earlier)

    def immediate_wake(self) -> None:
        """The IDL has something to do at once."""
        self.milliseconds = 0
