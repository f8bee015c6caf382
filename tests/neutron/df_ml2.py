"""Neutron's ML2 test bases with our driver, a DF DB in memory, and our threads' work done by hand."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from unittest import mock

from dogpile.cache import CacheRegion, make_region
from neutron.common import cache_utils
from neutron.tests.unit.plugins.ml2 import test_plugin
from neutron_lib.plugins import directory
from oslo_config import cfg

import dragonflow.neutron.db  # noqa: F401 - its tables belong into the schema that the test base makes
from dragonflow.model import Alive, Chassis, LogicalPort, Row, decode, encode
from dragonflow.neutron import config
from dragonflow.neutron.mech_driver import DragonflowMechanismDriver
from dragonflow.store.protocol import Key, Put, Txn, Unavailable


def _memory_region(expiration_time: int = 5) -> CacheRegion:
    """A cache in memory, as Neutron's function of the same name makes, but without reading a configuration for it.

    Neutron copies all its policies twice a test, and every check on an owner has such a cache of its own: 190 a copy.
    """
    return make_region().configure("dogpile.cache.memory", expiration_time=expiration_time)


class DfMl2Mixin:
    """Configures the driver; to stand before a class of ``neutron.tests.unit.plugins.ml2.test_plugin``."""

    def setUp(self) -> None:
        cheap = mock.patch.object(cache_utils, "_get_memory_cache_region", _memory_region)
        cheap.start()
        self.addCleanup(cheap.stop)  # type: ignore[attr-defined]
        config.register(cfg.CONF)
        name = uuid.uuid4().hex
        cfg.CONF.set_override("store_url", f"memory://{name}", group="df")
        cfg.CONF.set_override("pubsub_url", f"memory://{name}", group="df")
        # One of Neutron's classes forgets to set its own drivers.
        cfg.CONF.set_override("mechanism_drivers", list(self._mechanism_drivers), group="ml2")
        super().setUp()
        manager = directory.get_plugin().mechanism_manager
        driver = manager.mech_drivers["df"].obj
        assert isinstance(driver, DragonflowMechanismDriver)
        self.df = driver
        self.addCleanup(driver.workers.dfdb.close)  # type: ignore[attr-defined]


class DfMl2TestCase(DfMl2Mixin, test_plugin.Ml2PluginV2TestCase):
    """The driver alone under Neutron's API."""

    _mechanism_drivers = ("df",)
    _extension_drivers = ("port_security",)

    def get_additional_service_plugins(self) -> dict[str, str]:
        """What every server loads unasked."""
        return {"revision_plugin_name": "revisions"}

    def setUp(self) -> None:
        cfg.CONF.set_override("extension_drivers", list(self._extension_drivers), group="ml2")
        super().setUp()
        self.store = self.df.workers.dfdb.store
        self.journal = self.df.workers.journal

    def put(self, *rows: Row) -> int:
        return self.store.commit(
            Txn(tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in rows))
        )

    def chassis(self, host: str = "h1", alive: bool = True, **fields: object) -> Chassis:
        row = Chassis(id=host, tunnel_ip="192.0.2.1", **fields)
        self.put(row, *((Alive(id=host, since=time.time()),) if alive else ()))
        return row

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The DF DB can't be reached."""
        gone = Unavailable("gone")
        with (
            mock.patch.object(self.store, "call", side_effect=gone),
            mock.patch.object(self.df.workers.dfdb, "glance", side_effect=gone),
        ):
            yield

    def work(self) -> None:
        """Do what the journal's thread would."""
        self.journal.work()

    def row(self, row: type[Row], id: str, scope: str) -> Row | None:
        record = self.store.get(Key(scope, row.__name__, id))
        return None if record is None else decode(row.__name__, id, record.data)

    def port_row(self, port: dict) -> LogicalPort | None:
        return self.row(LogicalPort, port["id"], f"net:{port['network_id']}")

    def ids(self, *scopes: str) -> set[tuple[str, str]]:
        return {(record.key.kind, record.key.id) for record in self.store.snapshot(scopes).records}
