"""Compares Neutron's database with the DF DB, and mends the DF DB: by hand (``dragonflow repair``) or unasked (``Mender``).

Neutron is always right. It may run meanwhile and so may any number of writers: an object that waits in the journal is not judged,
a difference counts only if it is still there at a second look that nobody wrote in between, and what is mended is written by the
same means as ever, with the same checks.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from neutron import manager
from neutron.common import config as neutron_config
from neutron_lib.context import get_admin_context
from oslo_config import cfg

from dragonflow.model import CHASSIS_SCOPE, Chassis, NewerSchema, Row, decode, encode
from dragonflow.model.codec import CodecError, UnknownKind
from dragonflow.neutron import agents, config, db, translate
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.founding import REGION, Founding, is_whole
from dragonflow.neutron.mirror import Mirror, same
from dragonflow.neutron.source import KINDS, POINTER_SCOPES, POINTERS, PORT_KIND, Found, Plugin, RowMaker, pointed
from dragonflow.neutron.strays import SCOPES, spoken_of, strays
from dragonflow.store.keycheck import Audit
from dragonflow.store.keys import Pool
from dragonflow.store.protocol import ABSENT, Check, Conflict, Delete, Key, Put, Record, StoreCorrupt, Txn

LOG = logging.getLogger(__name__)

PAGE = 50
"""Objects between two looks at the journal, and between two calls of ``pace``."""

_KIND_OF_ROW = {kind.row.__name__: name for name, kind in KINDS.items()}
_SCOPES = tuple(dict.fromkeys(kind.scope("*") for kind in KINDS.values()))
"""Where the rows of Neutron's objects lie: ``net:*``, ``router:*``."""


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


class Repair:
    """Comparisons of ``neutron`` (see ``Plugin``) with ``dfdb``.

    ``pace`` is called with the number of objects compared since its last call, and may take its time.
    """

    def __init__(
        self, dfdb: DfDb, neutron: Any, pace: Callable[[int], None] = lambda _objects: None, page: int = PAGE
    ) -> None:
        self._store = dfdb.store
        self._neutron = neutron
        self._mirror = Mirror(dfdb, neutron)
        self._pace = pace
        self._page = page
        self._unjudged: set[tuple[str, str]] = set()
        self.objects = 0

    def run(self, fix: bool) -> Report:
        """Compare all once, and mend if ``fix``."""
        self.objects = 0
        findings = list(self.findings(fix))
        objects = self.objects
        if fix and any(finding.kind.startswith("key:") for finding in findings) and not all(f.fixed for f in findings):
            mended = [finding for finding in findings if finding.fixed]
            findings = [*mended, *self.findings(fix)]  # what could get no key before gets one now
        return Report(tuple(findings), len(db.waiting(get_admin_context())), objects)

    def findings(self, fix: bool) -> Iterator[Finding]:
        """Compare all once, page by page, and tell each difference when it is found; mended already if ``fix``.

        One is that nobody has said yet that the DF DB is whole; that is mended when nothing is missing any more.
        """
        if is_whole(self._store):
            yield from self._compare(fix)
            return
        founding = Founding(self._store) if fix else None
        self._unjudged.clear()
        lacking = False
        for finding in itertools.chain(self._chassis(fix), self._compare(fix)):
            lacking = lacking or (finding.difference.startswith("missing") and not finding.fixed)
            yield finding
        whole = founding is not None and not lacking and self._write_unjudged() and founding.finish()
        yield Finding(REGION.kind, REGION.id, "missing: nobody has said that the DF DB is whole", whole)

    def _compare(self, fix: bool) -> Iterator[Finding]:
        snapshot = self._store.snapshot([*_SCOPES, *POINTER_SCOPES])
        records = {record.key: record for record in snapshot.records}
        everything = iter(self._neutron.all())
        while page := list(itertools.islice(everything, self._page)):
            waiting = db.waiting(get_admin_context())
            for found in page:
                known = [records.pop(key, None) for key in (found.key, *map(_key, _pointers_of(found.make)))]
                if (found.kind, found.id) in waiting:
                    self._unjudged.add((found.kind, found.id))
                else:
                    yield from self._object(found, known, fix)
            self.objects += len(page)
            self._pace(len(page))
        yield from self._rest(records, fix)
        for name, kind in KINDS.items():
            if kind.pool is not None:
                yield from self._keys(name, kind.pool, fix)
        yield from self._strays(fix)

    # -- what Neutron has ----------------------------------------------------------------------------------------------

    def _object(self, found: Found, known: list[Record | None], fix: bool) -> Iterator[Finding]:
        """The object's own row and its pointers, as ``known`` from the snapshot."""
        if _difference(known[0], found.make) and (difference := self._row(found.kind, found.key)):
            yield self._mend_row(found.kind, found.key, difference, fix)
        for pointer, record in zip(_pointers_of(found.make), known[1:], strict=True):
            if (record is None or record.data != encode(pointer)) and (difference := self._pointer(_key(pointer))):
                yield self._mend_pointer(_key(pointer), difference, fix)

    def _row(self, kind: str, key: Key) -> str | None:
        """What is different, at a second look."""
        record = self._store.get(key)
        make = self._neutron.load(kind, key.id)
        difference: str | None = None
        if make is not None and make(0).scope != key.scope:
            if record is not None:
                difference = f"orphan: the object belongs into scope {make(0).scope}, not {key.scope}"
        elif make is not None:
            difference = _difference(record, make)
        elif record is not None:
            difference = "orphan: Neutron has no such object"
        return difference if difference and self._settled(kind, record, key) else None

    def _pointer(self, key: Key) -> str | None:
        record, kind = self._store.get(key), POINTERS[key.kind]
        make = self._neutron.load(kind, pointed(key))
        wanted = {_key(row): encode(row) for row in _pointers_of(make)} if make is not None else {}
        data = None if record is None else record.data
        if data == wanted.get(key):
            return None
        if key not in wanted:
            difference = f"orphan: the {kind} does not belong to {key.scope}"
        else:
            difference = f"{'missing' if record is None else 'stale'} on {key.scope}"
        return difference if self._settled(kind, record, key) else None

    def _settled(self, kind: str, record: Record | None, key: Key) -> bool:
        """Whether what was compared is still so: nobody has written the record, nobody is about to.

        Neutron was read before this. A change that it told of had its entry in the journal from the same moment on; if that is
        gone by now, its row was written before, and the record is another.
        """
        if not db.waits(get_admin_context(), kind, pointed(key)):
            now = self._store.get(key)
            if (None if now is None else now.revision) == (None if record is None else record.revision):
                return True
        self._unjudged.add((kind, pointed(key)))
        return False

    def _mend_row(self, kind: str, key: Key, difference: str, fix: bool) -> Finding:
        record = self._store.get(key)
        if record is not None and _is_newer(record):
            return Finding(key.kind, key.id, f"{difference}; a newer Dragonflow wrote it, left alone")
        if difference.startswith("orphan: the object belongs"):
            return Finding(key.kind, key.id, difference, fix and (record is None or self._remove(record)))
        return Finding(key.kind, key.id, difference, fix and self._sync(kind, key.id, key.scope))

    def _mend_pointer(self, key: Key, difference: str, fix: bool) -> Finding:
        record = self._store.get(key)
        if difference.startswith("orphan"):
            fixed = fix and (record is None or (not _is_newer(record) and self._remove(record)))
        else:
            kind, name = POINTERS[key.kind], pointed(key)
            make = self._neutron.load(kind, name)
            fixed = fix and (make is None or self._sync(kind, name, make(0).scope))
        return Finding(key.kind, key.id, difference, fixed)

    # -- what Neutron has not ------------------------------------------------------------------------------------------

    def _rest(self, records: dict[Key, Record], fix: bool) -> Iterator[Finding]:
        """Of the snapshot, what belongs to no object that was there."""
        for number, key in enumerate(records, 1):
            kind = _KIND_OF_ROW.get(key.kind)
            if key.kind in POINTERS:
                if difference := self._pointer(key):
                    yield self._mend_pointer(key, difference, fix)
            elif kind is not None and key.scope.startswith(KINDS[kind].scope("")):
                if difference := self._row(kind, key):
                    yield self._mend_row(kind, key, difference, fix)
            elif self._store.get(key) is not None:
                yield Finding(key.kind, key.id, f"foreign: {key} is of a kind that does not belong there; left alone")
            if number % self._page == 0:
                self._pace(self._page)

    def _strays(self, fix: bool) -> Iterator[Finding]:
        """What hosts and servers have left behind."""
        records = self._store.snapshot(SCOPES).records
        ports = {port for record in records if (port := spoken_of(record)) is not None}
        known = {port for port in ports if self._neutron.revision(PORT_KIND, port) is not None}
        for record, difference in strays(records, known):
            yield Finding(record.key.kind, record.key.id, difference, fix and self._remove(record))

    def _keys(self, kind: str, pool: Pool, fix: bool) -> Iterator[Finding]:
        snapshot = self._store.snapshot([pool.scope, KINDS[kind].scope("*")])
        rows = [
            row
            for record in snapshot.records
            if record.key.kind == KINDS[kind].row.__name__ and (row := _readable(record)) is not None
        ]
        records = [record for record in snapshot.records if record.key.scope == pool.scope]
        used: dict[str, int] = {row.id: getattr(row, "key", 0) for row in rows}
        audit = Audit(pool, records, used)
        if problems := audit.problems():
            # A row that was taken away or put there behind our back since the rows were looked at is for the next pass to mend:
            # until then its owner keeps the key that it has, and whom Neutron doesn't know gets none.
            for owner in {problem.owner for problem in problems}:
                if self._neutron.load(kind, owner) is None:
                    used.pop(owner, None)
                elif owner in audit.held:
                    used.setdefault(owner, audit.held[owner])
            audit = Audit(pool, records, used)
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
                if row.id in keys and keys[row.id] != getattr(row, "key", 0):
                    self._sync(kind, row.id, row.scope)
        for owner, difference in problems:
            yield Finding(f"key:{pool.name}", owner, difference, fixed)

    # -- mending -------------------------------------------------------------------------------------------------------

    def _chassis(self, fix: bool) -> Iterator[Finding]:
        """Hosts write their rows themselves, but one whose controller is away can't, and others would lose the way to it."""
        known = {record.key.id for record in self._store.snapshot([CHASSIS_SCOPE]).records}
        for chassis in agents.known_chassis():
            if chassis.id not in known:
                if fix:
                    with contextlib.suppress(Conflict):  # its own controller was faster
                        put = Put(_key(chassis), encode(chassis))
                        self._store.commit(Txn((put,), (Check(put.key, ABSENT),)))
                yield Finding(Chassis.__name__, chassis.id, "missing: Neutron's agent list has it", fix)

    def _write_unjudged(self) -> bool:
        """See to it that what was left to the journal is there, too. Returns whether it is."""
        for kind, name in self._unjudged:
            make = self._neutron.load(kind, name)
            if make is not None and not self._sync(kind, name, make(0).scope):
                return False
        return True

    def _sync(self, kind: str, id: str, scope: str) -> bool:
        try:
            self._mirror.sync(kind, id, scope.removeprefix(KINDS[kind].scope("")), force=True)
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


def _pointers_of(make: RowMaker) -> tuple[Row, ...]:
    return translate.pointers(make(0))


def _key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)
