"""The SQLite file under ``store/sqlite.py``: its layout, and each operation as one plain transaction of one thread.

One row per key: the living with their data, the deleted as graves (``data IS NULL``). So "what changed after revision N" is
a look into one index, the living need no history, and only graves are pruned: to the youngest ``history``.

Durability: WAL with ``synchronous=FULL``. A commit that returned survives ``kill -9`` of any process, and power loss as far
as the disk honours fsync (https://www.sqlite.org/pragma.html#pragma_synchronous). It needs a local file system: WAL keeps
its index in shared memory, so neither NFS nor several machines will do (https://www.sqlite.org/wal.html).

The file may vanish or be replaced under an open connection, and SQLite would go on writing where nobody reads. So each
transaction compares the path's inode with the one that was opened; a file that is gone is an outage, never an empty DF DB.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from dragonflow.store._common import Scopes, Told, leases_of, refuse_lost
from dragonflow.store.protocol import (
    Changes,
    Conflict,
    Delete,
    Key,
    LeaseExpired,
    Put,
    Record,
    Snapshot,
    StoreCorrupt,
    StoreError,
    Txn,
    Unavailable,
)

LOG = logging.getLogger(__name__)
T = TypeVar("T")

LAYOUT = 1
"""The number of the tables' layout, kept in ``PRAGMA user_version``; a higher one is refused."""

APPLICATION_ID = 0x44464442
"""``DFDB``: how ``file(1)`` and we tell a DF DB from other SQLite files."""

_TABLES = f"""
CREATE TABLE store (identity TEXT NOT NULL, revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
CREATE TABLE record (
    scope TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, data BLOB, revision INTEGER NOT NULL, lease TEXT,
    PRIMARY KEY (scope, kind, id)
) WITHOUT ROWID;
CREATE INDEX record_revision ON record (revision);
CREATE INDEX record_grave ON record (revision) WHERE data IS NULL;
CREATE INDEX record_lease ON record (lease) WHERE lease IS NOT NULL;
CREATE TABLE lease (id TEXT PRIMARY KEY, ttl REAL NOT NULL, boot TEXT NOT NULL, deadline REAL NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT};
"""

_COLUMNS = "scope, kind, id, CAST(data AS BLOB), revision"
_LIVING = f"SELECT {_COLUMNS} FROM record WHERE data IS NOT NULL"
_CHANGED_SCOPES = "SELECT scope, max(revision) FROM record INDEXED BY record_revision WHERE revision > ? GROUP BY scope"
"""Which the index alone tells. Most commits are news for few watches."""

_PUT = """
INSERT INTO record (scope, kind, id, data, revision, lease) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (scope, kind, id) DO UPDATE SET data = excluded.data, revision = excluded.revision, lease = excluded.lease
"""
_DELETE = """
UPDATE record SET data = NULL, revision = ?, lease = NULL WHERE scope = ? AND kind = ? AND id = ? AND data IS NOT NULL
"""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DAMAGE = re.compile("no such (table|column)|Could not decode")
_FORBIDDEN = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


def boot_id() -> str:
    """What tells this boot of the machine from others: deadlines of the monotonic clock mean nothing after a reboot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class SqliteFile:
    """An open DF DB file. To be used by one thread; every operation raises ``StoreError`` only.

    ``patience`` is how many seconds to wait for other processes' locks, ``create`` whether to make a file where there is none,
    ``clock`` the machine-wide clock of leases.
    """

    def __init__(
        self,
        path: Path,
        *,
        history: int,
        patience: float,
        create: bool = True,
        clock: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self.path = path
        self._history = history
        self._patience = patience
        self._may_create = create
        self._clock = clock
        self._boot = boot_id() if boot is None else boot
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._identity: str | None = None
        self._newest = 0  # what was told to our callers
        self._replaced = False
        self._opened = 0
        self._lock = threading.Lock()
        _files.add(self)

    # -- operations ------------------------------------------------------------------------------------------------

    def snapshot(self, scopes: Scopes) -> Snapshot:
        """All living records of the scopes."""
        with self._transaction("BEGIN") as (db, revision, _):
            records: list[Record] = []
            if "" in scopes.prefixes:
                return Snapshot(revision, tuple(map(_record, db.execute(_LIVING))))
            for prefix in scopes.prefixes:
                found = db.execute(f"{_LIVING} AND scope >= ? AND scope < ?", (prefix, _after(prefix)))
                records.extend(map(_record, found))
            for scope in scopes.exact:
                if not scope.startswith(scopes.prefixes):
                    records.extend(map(_record, db.execute(f"{_LIVING} AND scope = ?", (scope,))))
            if len(scopes.prefixes) > 1:  # one prefix may lie within another
                records = list({record.key: record for record in records}.values())
            return Snapshot(revision, tuple(records))

    def changes(self, after: Mapping[str, int]) -> Changes:
        """The last record of each key that changed after its scope's revision. :raises Compacted: see ``Watch``."""
        told = Told(after)
        with self._transaction("BEGIN") as (db, revision, compacted):
            refuse_lost(after, compacted, revision)
            if told.oldest == revision or not any(
                told.is_news(*changed) for changed in db.execute(_CHANGED_SCOPES, (told.oldest,))
            ):
                return Changes(revision, ())
            found = db.execute(f"SELECT {_COLUMNS} FROM record WHERE revision > ? ORDER BY revision", (told.oldest,))
            return Changes(revision, tuple(_record(row) for row in found if told.is_news(row[0], row[4])))

    def get(self, key: Key) -> Record | None:
        """One living record."""
        with self._transaction("BEGIN") as (db, _, _):
            row = db.execute(f"{_LIVING} AND scope = ? AND kind = ? AND id = ?", key).fetchone()
            return None if row is None else _record(row)

    def commit(self, txn: Txn) -> int:
        """Check, then write; return the revision."""
        with self._transaction("BEGIN IMMEDIATE") as (db, revision, _):
            for check in txn.checks:
                row = db.execute(
                    "SELECT revision FROM record WHERE scope = ? AND kind = ? AND id = ? AND data IS NOT NULL",
                    check.key,
                ).fetchone()
                found = 0 if row is None else row[0]
                if found != check.revision:
                    raise Conflict(check.key, check.revision, found)
            for lease in leases_of(txn.writes):
                self._check_lease(db, lease)
            if not txn.writes:
                return revision
            self._write(db, txn.writes, revision + 1)
        self._newest = revision + 1
        return revision + 1

    def grant_lease(self, ttl: float) -> str:
        """A new lease."""
        lease = uuid.uuid4().hex
        with self._transaction("BEGIN IMMEDIATE") as (db, _, _):
            db.execute("INSERT INTO lease VALUES (?, ?, ?, ?)", (lease, ttl, self._boot, self._clock() + ttl))
        return lease

    def keep_alive(self, lease: str) -> None:
        """Move the deadline. A lease whose time has come is gone, even if nobody has swept it yet."""
        with self._transaction("BEGIN IMMEDIATE") as (db, _, _):
            self._check_lease(db, lease)
            db.execute("UPDATE lease SET deadline = ? + ttl WHERE id = ?", (self._clock(), lease))

    def revoke(self, lease: str) -> None:
        """Delete a lease and what hangs on it."""
        with self._transaction("BEGIN IMMEDIATE") as (db, revision, _):
            self._end_lease(db, lease, revision + 1)

    def expire(self) -> bool:
        """End all leases whose time has come; say if there was one. Whichever process looks first does it for all."""
        due = "SELECT id FROM lease WHERE boot != ? OR deadline <= ?"
        with self._transaction("BEGIN") as (db, _, _):
            if db.execute(f"{due} LIMIT 1", (self._boot, self._clock())).fetchone() is None:
                return False
        with self._transaction("BEGIN IMMEDIATE") as (db, revision, _):
            leases = db.execute(due, (self._boot, self._clock())).fetchall()
            for number, (lease,) in enumerate(leases, revision + 1):
                self._end_lease(db, lease, number)
        return True

    def compact(self) -> None:
        """Forget all graves: who asks for older changes must take a snapshot."""
        with self._transaction("BEGIN IMMEDIATE") as (db, _, _):
            self._bury(db, 0)
            db.execute("UPDATE store SET compacted = revision")

    def data_version(self) -> tuple[int, int]:
        """A token that differs from the last one if another connection has committed or the file was replaced.

        It costs microseconds; see https://www.sqlite.org/pragma.html#pragma_data_version.
        """
        with self._errors():
            db = self._connection()
            version: int = db.execute("PRAGMA data_version").fetchone()[0]
            return self._opened, version

    def close(self) -> None:
        """Let go of the file. The next request opens it again."""
        with self._lock:
            self._let_go()

    def before_fork(self) -> None:
        """Have no connection open while the process forks, and none opened: SQLite's locks don't survive that.

        See https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_. Called by any thread.
        """
        self._lock.acquire()
        self._let_go()

    def after_fork(self) -> None:
        """Go on, in the parent as in the child."""
        self._lock.release()

    def _let_go(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    # -- writing ---------------------------------------------------------------------------------------------------

    def _write(self, db: sqlite3.Connection, writes: Collection[Put | Delete], revision: int) -> None:
        graves = False
        for write in writes:
            if isinstance(write, Put):
                db.execute(_PUT, (*write.key, write.data, revision, write.lease))
            else:
                graves |= db.execute(_DELETE, (revision, *write.key)).rowcount > 0
        db.execute("UPDATE store SET revision = ?", (revision,))
        if graves:
            self._bury(db, self._history)

    def _bury(self, db: sqlite3.Connection, history: int) -> None:
        row = db.execute(
            "SELECT revision FROM record WHERE data IS NULL ORDER BY revision DESC LIMIT 1 OFFSET ?", (history,)
        ).fetchone()
        if row is not None:  # a commit's graves stay or go together
            db.execute("DELETE FROM record WHERE data IS NULL AND revision <= ?", row)
            db.execute("UPDATE store SET compacted = max(compacted, ?)", row)

    def _end_lease(self, db: sqlite3.Connection, lease: str, revision: int) -> None:
        if db.execute("DELETE FROM lease WHERE id = ?", (lease,)).rowcount:
            rows = db.execute("SELECT scope, kind, id FROM record WHERE lease = ?", (lease,)).fetchall()
            if rows:
                self._write(db, [Delete(Key(*row)) for row in rows], revision)

    def _check_lease(self, db: sqlite3.Connection, lease: str) -> None:
        row = db.execute("SELECT boot, deadline FROM lease WHERE id = ?", (lease,)).fetchone()
        if row is None or row[0] != self._boot or row[1] <= self._clock():
            raise LeaseExpired(f"lease {lease} is gone")

    # -- transactions, the file and its faults ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[tuple[sqlite3.Connection, int, int]]:
        """A transaction, with the newest revision and the newest that was forgotten as they stand in it."""
        with self._errors():
            db = self._connection()
            try:
                yield db, *self._patiently(lambda: self._begin(db, begin))
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # some errors, like a full disk, have rolled back already
                    db.execute("ROLLBACK")
                raise

    def _begin(self, db: sqlite3.Connection, begin: str) -> tuple[int, int]:
        if not db.in_transaction:
            db.execute(begin)
        row = db.execute("SELECT identity, revision, compacted FROM store").fetchone()
        if row is None:
            raise StoreCorrupt(f"{self.path}: the table 'store' is empty; {self._advice()}")
        identity, revision, compacted = row
        another = self._replaced or revision < self._newest or self._identity not in (None, identity)
        if another and compacted <= self._newest:
            db.execute("ROLLBACK")
            self._adopt(db)
            return self._begin(db, begin)
        self._identity, self._replaced = identity, False
        self._newest = max(self._newest, revision)
        return revision, compacted

    def _adopt(self, db: sqlite3.Connection) -> None:
        """Make a file that was put in the old one's place carry on its revisions, so that they never go back.

        What our callers know of the old file tells nothing of this one: the history is cut off above all they know.
        """
        LOG.warning("another file was put in the place of %s; its records are taken as they are", self.path)
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE store SET revision = max(revision, ?) + 1", (self._newest,))
        db.execute("UPDATE store SET compacted = revision")
        db.execute("COMMIT")

    def _patiently(self, work: Callable[[], T]) -> T:
        """While others hold the lock, try again after short jittered naps: SQLite's own grow to 100 ms."""
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > give_up:
                    raise
            time.sleep(random.uniform(0.0002, 0.004))

    def _connection(self) -> sqlite3.Connection:
        """The connection to the file that stands at the path now."""
        inode = self._look_up()
        if self._db is not None and inode == self._inode:
            return self._db
        if inode is None:
            if self._inode is not None:
                raise Unavailable(f"the DF DB {self.path} has vanished: put it back, or restore a backup in its place")
            self._create()
        elif self._inode not in (None, inode):
            self._let_go()
            self._replaced = True
        self._db = self._open()
        self._opened += 1
        self._inode = self._look_up()
        return self._db

    def _look_up(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return None
        return stat.st_dev, stat.st_ino

    def _create(self) -> None:
        """Make the empty file, for the owner's eyes only; SQLite gives its companions the same mode."""
        if not self._may_create:
            raise Unavailable(f"there is no DF DB {self.path}: see [df] store_url")
        companion = Path(f"{self.path}-wal")
        if companion.exists():
            raise Unavailable(
                f"the DF DB {self.path} has vanished but {companion} is there: put the file back, or, to begin with an empty "
                f"DF DB, remove {companion} and {self.path}-shm"
            )
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def _open(self) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, timeout=self._patience, isolation_level=None, check_same_thread=False)
        try:
            layout = db.execute("PRAGMA user_version").fetchone()[0]
            if layout == 0:
                self._lay_out(db)
            elif layout > LAYOUT:
                raise StoreCorrupt(
                    f"{self.path} has layout {layout}, this version of Dragonflow knows up to {LAYOUT}: upgrade this host"
                )
            application = db.execute("PRAGMA application_id").fetchone()[0]
            if application != APPLICATION_ID:
                raise StoreCorrupt(f"{self.path} is some other program's SQLite file, not a DF DB: see [df] store_url")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA cache_size = -16384")
            db.execute("PRAGMA busy_timeout = 1")  # from here on we wait in our own way
        except BaseException:
            db.close()
            raise
        return db

    def _lay_out(self, db: sqlite3.Connection) -> None:
        """Make the tables, unless another process has done so in the meantime."""
        self._patiently(lambda: db.execute("PRAGMA journal_mode = WAL"))
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                db.execute("ROLLBACK")
                raise StoreCorrupt(f"{self.path} is some other program's SQLite file, not a DF DB: see [df] store_url")
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO store VALUES (?, 1, 0)", (uuid.uuid4().hex,))
        db.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's and the system's errors into the store's, with what to do about them."""
        self._lock.acquire()
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise Unavailable(f"the DF DB {self.path}: {error.strerror}; {self._rights()}") from error
        except sqlite3.Error as error:
            raise self._explain(error) from error
        finally:
            self._lock.release()

    def _explain(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _BUSY:
            return Unavailable(f"the DF DB {self.path} was locked by another process for {self._patience:g} s")
        if code == sqlite3.SQLITE_FULL:
            return Unavailable(f"the DF DB {self.path}: no space left on its file system; free some")
        self._let_go()  # so that a file that was restored or given other rights is opened afresh
        if code in _CORRUPT or (code == sqlite3.SQLITE_ERROR and _DAMAGE.search(str(error))):
            return StoreCorrupt(f"{self.path}: {error}; {self._advice()}")
        if code in _FORBIDDEN:
            return Unavailable(f"the DF DB {self.path}: {error}; {self._rights()}")
        return Unavailable(f"the DF DB {self.path}: {error}; see the kernel's log for faults of the disk")

    def _advice(self) -> str:
        return (
            "stop the processes that use it, move it and its -wal and -shm companions away, restore a backup or begin with none, "
            "then run 'dragonflow repair --fix'"
        )

    def _rights(self) -> str:
        return f"uid {os.geteuid()} must be able to write the file and its directory {self.path.parent}"


_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_forking: list[SqliteFile] = []


def _before_fork() -> None:
    _forking.extend(_files)
    for file in _forking:
        file.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _record(row: tuple[str, str, str, bytes | None, int]) -> Record:
    return Record(Key(row[0], row[1], row[2]), row[3], row[4])


def _after(prefix: str) -> str | bytes:
    """The least value that is greater than all texts with the prefix: SQLite compares UTF-8, and ranks blobs after texts."""
    if not prefix:
        return b""
    last = ord(prefix[-1])
    if last == 0x10FFFF:
        return _after(prefix[:-1])
    following = 0xE000 if last == 0xD7FF else last + 1  # surrogates are no text
    return prefix[:-1] + chr(following)
