"""``dragonflow repair``: Neutron's database against the DF DB. Neutron is always right.

The server may run meanwhile. So whatever looks wrong is looked at a second time, and what the journal is going to write
anyway is only counted. What is mended is mended by the same means as ever, with the same checks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from neutron import manager
from neutron.common import config as neutron_config
from neutron_lib.context import get_admin_context
from oslo_config import cfg

from dragonflow.model import Binding, LogicalPort, NewerSchema, Row, decode, encode, network_scope
from dragonflow.model.codec import CodecError, UnknownKind
from dragonflow.neutron import config, db, translate
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.mirror import Mirror, same
from dragonflow.neutron.source import KINDS, Plugin, RowMaker
from dragonflow.store.keycheck import Audit
from dragonflow.store.keys import Pool
from dragonflow.store.protocol import Check, Conflict, Delete, Key, Record, StoreCorrupt, Txn

LOG = logging.getLogger(__name__)

_KIND_OF_ROW = {kind.row.__name__: name for name, kind in KINDS.items()}
_NETWORKS, _HOSTS = "net:", "host:"


class Finding(NamedTuple):
    """A difference: the ``kind`` and ``id`` of the row or key, what is different, and whether it is mended now."""

    kind: str
    id: str
    difference: str
    fixed: bool = False


class Report(msgspec.Struct, frozen=True):
    """What was found. ``pending`` objects are waiting in the journal and were not judged; ``objects`` were compared."""

    findings: tuple[Finding, ...]
    pending: int
    objects: int

    @property
    def clean(self) -> bool:
        """Nothing is wrong, or no more."""
        return all(finding.fixed for finding in self.findings)


def run(conf_files: list[str], fix: bool) -> Report:
    """Compare, and mend if ``fix``, as configured in Neutron's files (``neutron.conf`` and ML2's). Blocks until done.

    :raises StoreError: the DF DB can't be reached.
    """
    neutron_config.register_common_config_options()
    arguments = [argument for path in conf_files for argument in ("--config-file", path)]
    neutron_config.init(arguments)
    config.register(cfg.CONF)
    for option in ("notify_nova_on_port_status_changes", "notify_nova_on_port_data_changes"):
        cfg.CONF.set_override(option, False)
    manager.init()
    dfdb = DfDb(cfg.CONF.df.store_url, cfg.CONF.df.pubsub_url)
    try:
        return Repair(dfdb, Plugin()).run(fix)
    finally:
        dfdb.close()


class _Object(NamedTuple):
    kind: str
    id: str
    network: str
    make: RowMaker

    @property
    def key(self) -> Key:
        return Key(network_scope(self.network), KINDS[self.kind].row.__name__, self.id)


class Repair:
    """One comparison of ``neutron`` (see ``Plugin``) with ``dfdb``. ``pending`` tells the objects in the journal."""

    def __init__(self, dfdb: DfDb, neutron: Any, pending: Any = None) -> None:
        self._store = dfdb.store
        self._neutron = neutron
        self._mirror = Mirror(dfdb, neutron)
        self._journal = pending or (lambda: db.waiting(get_admin_context()))

    def run(self, fix: bool) -> Report:
        """Compare, and mend if ``fix``."""
        findings, pending, objects = self._compare(fix)
        broken_keys = [
            finding
            for name, kind in KINDS.items()
            if kind.pool is not None
            for finding in self._keys(name, kind.pool, fix)
        ]
        if fix and broken_keys and not all(finding.fixed for finding in findings):
            mended = [finding for finding in findings if finding.fixed]
            findings, pending, objects = self._compare(fix)  # what could get no key before gets one now
            findings = [*mended, *findings]
        return Report((*findings, *broken_keys), pending, objects)

    def _compare(self, fix: bool) -> tuple[list[Finding], int, int]:
        records = {record.key: record for record in self._store.snapshot([_NETWORKS + "*", _HOSTS + "*"]).records}
        objects = {found.key: found for found in (_Object(*entry) for entry in self._neutron.all())}
        waiting: set[tuple[str, str]] = self._journal()
        rows = self._rows(records, objects, waiting, fix)
        bindings = self._bindings(records, objects, waiting, fix)
        return [*rows, *bindings], len(waiting), len(objects)

    def _rows(
        self,
        records: dict[Key, Record],
        objects: dict[Key, _Object],
        waiting: set[tuple[str, str]],
        fix: bool,
    ) -> Iterator[Finding]:
        suspects = [key for key, found in objects.items() if _difference(records.get(key), found.make)]
        suspects += [key for key in records if key.scope.startswith(_NETWORKS) and key not in objects]
        for key in suspects:
            kind = _KIND_OF_ROW.get(key.kind)
            if kind is None:
                yield Finding(
                    key.kind, key.id, f"foreign: {key} is of a kind that this version doesn't know; left alone"
                )
            elif (kind, key.id) not in waiting and (again := self._look_again(kind, key)):
                yield self._mend_row(kind, key, again) if fix else Finding(key.kind, key.id, again)

    def _look_again(self, kind: str, key: Key) -> str | None:
        record = self._store.get(key)
        make = self._neutron.load(kind, key.id)
        if make is not None and make(0).scope != key.scope:
            return None if record is None else f"orphan: the object belongs into scope {make(0).scope}, not {key.scope}"
        if make is None:
            return None if record is None else "orphan: Neutron has no such object"
        return _difference(record, make)

    def _mend_row(self, kind: str, key: Key, difference: str) -> Finding:
        record = self._store.get(key)
        if record is not None and _is_newer(record):
            return Finding(key.kind, key.id, f"{difference}; a newer Dragonflow wrote it, left alone")
        if difference.startswith("orphan: the object belongs"):
            return Finding(key.kind, key.id, difference, record is None or self._remove(record))
        return Finding(key.kind, key.id, difference, self._sync(kind, key.id, key.scope))

    def _bindings(
        self,
        records: dict[Key, Record],
        objects: dict[Key, _Object],
        waiting: set[tuple[str, str]],
        fix: bool,
    ) -> Iterator[Finding]:
        wanted: dict[Key, tuple[bytes, str]] = {}
        for found in objects.values():
            for binding in _bindings_of(found.make):
                wanted[_key(binding)] = (encode(binding), found.network)
        for key, (data, network) in wanted.items():
            record = records.get(key)
            if (record is None or record.data != data) and ("port", key.id) not in waiting:
                again = self._store.get(key)
                make = self._neutron.load("port", key.id)
                if again is None or make is None or again.data not in {encode(row) for row in _bindings_of(make)}:
                    fixed = fix and self._sync("port", key.id, network_scope(network))
                    yield Finding(key.kind, key.id, f"{'missing' if again is None else 'stale'} on {key.scope}", fixed)
        for key, record in records.items():
            if not key.scope.startswith(_HOSTS) or key in wanted or ("port", key.id) in waiting:
                continue
            if key.kind != Binding.__name__:
                yield Finding(key.kind, key.id, f"foreign: {key} is of a kind that does not belong there; left alone")
                continue
            make = self._neutron.load("port", key.id)
            if make is None or key not in {_key(row) for row in _bindings_of(make)}:
                fixed = fix and not _is_newer(record) and self._remove(record)
                yield Finding(key.kind, key.id, f"orphan: the port is not bound on {key.scope}", fixed)

    def _sync(self, kind: str, id: str, scope: str) -> bool:
        try:
            self._mirror.sync(kind, id, scope.removeprefix(_NETWORKS), force=True)
        except (StoreCorrupt, Conflict) as error:
            LOG.error("df: %s %s not mended: %s", kind, id, error)
            return False
        return True

    def _remove(self, record: Record) -> bool:
        try:
            self._store.commit(Txn((Delete(record.key),), (Check(record.key, record.revision),)))
        except Conflict:  # it was written meanwhile, so it is somebody's after all: the next run will see
            return False
        return True

    def _keys(self, kind: str, pool: Pool, fix: bool) -> Iterator[Finding]:
        snapshot = self._store.snapshot([pool.scope, _NETWORKS + "*"])
        rows = [row for record in snapshot.records if (row := _readable(record)) and isinstance(row, KINDS[kind].row)]
        used: dict[str, int] = {row.id: getattr(row, "key", 0) for row in rows}
        audit = Audit(pool, (record for record in snapshot.records if record.key.scope == pool.scope), used)
        problems = audit.problems()
        fixed = False
        if problems and fix:
            txn, keys = audit.rebuild()
            try:
                self._store.commit(txn)
                fixed = True
            except Conflict:
                keys = used
            for row in rows:
                if keys[row.id] != used[row.id]:
                    self._sync(kind, row.id, row.scope)
        for owner, difference in problems:
            yield Finding(f"key:{pool.name}", owner, difference, fixed)


def _difference(record: Record | None, make: RowMaker) -> str | None:
    if record is None or record.data is None:
        return "missing"
    try:
        row = decode(record.key.kind, record.key.id, record.data)
    except CodecError as error:
        return f"corrupt: {error}"
    wanted = make(getattr(row, "key", 0))
    if same(row, wanted):
        return None
    fields = [name for name in row.__struct_fields__ if getattr(row, name) != getattr(wanted, name)]
    return "stale: " + ", ".join(f"{name} is {getattr(row, name)!r}, not {getattr(wanted, name)!r}" for name in fields)


def _readable(record: Record) -> Row | None:
    try:
        return decode(record.key.kind, record.key.id, record.data or b"")
    except CodecError:
        return None


def _is_newer(record: Record) -> bool:
    """Whether a newer Dragonflow wrote it: not ours to destroy."""
    try:
        decode(record.key.kind, record.key.id, record.data or b"")
    except (NewerSchema, UnknownKind):
        return True
    except CodecError:
        return False
    return False


def _bindings_of(make: RowMaker) -> Iterable[Binding]:
    row = make(0)
    return translate.bindings(row) if isinstance(row, LogicalPort) else ()


def _key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)
