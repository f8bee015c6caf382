"""The DF DB on etcd 3.4 or later: any number of machines, a cluster of three or five servers.

A transaction is one etcd transaction, a revision is etcd's own, a record's revision its ``mod_revision``. All reads are
linearizable: they see every commit that was acknowledged before them, whichever server answers. Nothing is ever deleted by range.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

from dragonflow.store._common import check_txn, leases_of
from dragonflow.store._etcdclient import PATIENCE, Connection, EtcdClient, Metadata
from dragonflow.store._etcderrors import MANUAL, Kind, Trouble
from dragonflow.store._etcdkeys import Keys, Range
from dragonflow.store._etcdrpc import grpc, rpc
from dragonflow.store._etcdwatch import EtcdWatch
from dragonflow.store._url import ServerUrl
from dragonflow.store.protocol import (
    Conflict,
    Key,
    LeaseExpired,
    Put,
    Record,
    Snapshot,
    Txn,
    Unavailable,
    check_key,
)

LOG = logging.getLogger(__name__)

FORM = "etcd://[USER@]HOST:PORT[,HOST:PORT…]/PREFIX[?password_file=FILE], or etcd+tls://… with ca=FILE[&cert=FILE&key=FILE]"

PAGE = 10_000
"""How many records are asked for at once. For each page etcd looks at all keys of the range that are left, so pages are large."""

BREATH = 250
"""How many records are unpacked before the event loop may turn."""

RANGES = 100
"""How many scopes are asked for at once; etcd's own limit is 128 (--max-txn-ops)."""

SNAPSHOTS = 3
"""How often a snapshot begins anew when its revision was compacted under it."""

_REFUSALS = (Kind.NO_LEASE, Kind.OPERATIONS, Kind.SIZE)
_UNREADABLE = (Kind.COMPACTED, Kind.OPERATIONS)


class EtcdStore:
    """A client of the cluster at a URL. For one event loop; build it anywhere, it connects with the first request."""

    def __init__(self, url: ServerUrl, *, patience: float = PATIENCE, page: int = PAGE) -> None:
        self._client = EtcdClient(url, patience=patience)
        self._keys = Keys(url.path)
        self._page = page
        self._watches: set[EtcdWatch] = set()
        self._foreign: set[bytes] = set()

    @classmethod
    def of(cls, url: str, *, patience: float = PATIENCE, page: int = PAGE) -> EtcdStore:
        """The store of a URL; ``patience`` is the most seconds that a request takes, ``page`` how many records come at once.

        :raises UnknownStore: naming the part of the URL that is wrong, and the fix.
        """
        parsed = ServerUrl.parse(url, form=FORM, tls=url.startswith("etcd+tls:"))
        if parsed.scheme not in ("etcd", "etcd+tls"):
            raise parsed.refuse(FORM, f"there is no scheme {parsed.scheme!r}")
        if not parsed.path or "/" in parsed.path or "\0" in parsed.path:
            raise parsed.refuse(FORM, f"{parsed.path!r} after the servers is no prefix (one word, such as dragonflow)")
        return cls(parsed, patience=patience, page=page)

    async def snapshot(self, scopes: Collection[str]) -> Snapshot:
        """See ``Store``."""
        ranges = self._keys.ranges(scopes)
        for _ in range(SNAPSHOTS):
            try:
                return await self._snapshot(ranges)
            except Trouble as trouble:
                why = trouble
                if trouble.kind is Kind.OPERATIONS:
                    break
        raise Unavailable(f"{why}; {MANUAL}")

    def watch(self, after: Mapping[str, int]) -> EtcdWatch:
        """See ``Store``."""
        return EtcdWatch(after, self._client, self._keys, self._record, self._watches)

    async def get(self, key: Key) -> Record | None:
        """See ``Store``."""
        check_key(key)
        request = rpc.RangeRequest(key=self._keys.encode(key))
        found = (await self._client.ask(_range(request), f"reading {key}")).kvs
        return Record(key, found[0].value, found[0].mod_revision) if found else None

    async def commit(self, txn: Txn) -> int:
        """See ``Store``. :raises ValueError: it has more writes, checks or bytes than the servers take."""
        check_txn(txn)
        request = rpc.TxnRequest()
        for check in txn.checks:
            raw = self._keys.encode(check.key)
            request.compare.add(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=raw, mod_revision=check.revision)
            request.failure.add(request_range=rpc.RangeRequest(key=raw, keys_only=True))
        for write in txn.writes:
            raw = self._keys.encode(write.key)
            if isinstance(write, Put):
                put = rpc.PutRequest(key=raw, value=write.data, lease=_lease_id(write.lease) if write.lease else 0)
                request.success.add(request_put=put)
            else:
                request.success.add(request_delete_range=rpc.DeleteRangeRequest(key=raw))
        if not txn.writes:  # a transaction that reads nothing is answered from what one server knows, which may be old
            anchor = self._keys.encode(txn.checks[0].key) if txn.checks else self._keys.root
            request.success.add(request_range=rpc.RangeRequest(key=anchor, keys_only=True))
        try:
            answer = await self._client.ask(_txn(request), _named(txn), again=not txn.writes, says=_REFUSALS)
        except Trouble as trouble:
            raise _refused(trouble, txn) from None
        if answer.succeeded:
            revision: int = answer.header.revision
            return revision
        for check, response in zip(txn.checks, answer.responses, strict=True):
            found = response.response_range.kvs
            now = found[0].mod_revision if found else 0
            if now != check.revision:
                raise Conflict(check.key, check.revision, now)
        raise Unavailable(f"etcd refused {_named(txn)}, though all its checks hold")

    async def grant_lease(self, ttl: float) -> str:
        """See ``Store``. etcd counts whole seconds, and at least 1.5 times its election timeout: it may last a little longer."""
        request = rpc.LeaseGrantRequest(TTL=max(1, math.ceil(ttl)))

        async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
            return await connection.lease.LeaseGrant(request, timeout=seconds, metadata=metadata)

        return format((await self._client.ask(send, "granting a lease")).ID, "x")

    async def keep_alive(self, lease: str) -> None:
        """See ``Store``."""
        request = rpc.LeaseKeepAliveRequest(ID=_lease_id(lease))

        async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
            call = connection.lease.LeaseKeepAlive(timeout=seconds, metadata=metadata)
            try:
                await call.write(request)
                if (answer := await call.read()) is grpc.aio.EOF:
                    raise Trouble(
                        Kind.UNKNOWN, f"etcd at {connection.endpoint} did not say whether lease {lease} lives"
                    )
                return answer
            finally:
                call.cancel()

        answer = await self._client.ask(send, f"keeping lease {lease} alive")
        if answer.TTL <= 0:
            raise LeaseExpired(f"lease {lease} is gone")

    async def revoke(self, lease: str) -> None:
        """See ``Store``."""
        request = rpc.LeaseRevokeRequest(ID=_lease_id(lease))

        async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
            return await connection.lease.LeaseRevoke(request, timeout=seconds, metadata=metadata)

        try:
            await self._client.ask(send, f"revoking lease {lease}", says=(Kind.NO_LEASE,))
        except Trouble:
            return

    needs_hints = False

    def hint(self) -> None:
        """See ``Store``. etcd tells its watchers by itself."""

    async def close(self) -> None:
        """See ``Store``."""
        for watch in tuple(self._watches):
            watch.end()
        await self._client.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _snapshot(self, ranges: list[Range]) -> Snapshot:
        """:raises Trouble: the revision was compacted meanwhile."""
        revision = 0
        records: list[Record] = []
        for start in range(0, max(len(ranges), 1), RANGES):
            some = ranges[start : start + RANGES]
            limit = max(self._page // max(len(some), 1), 50)
            request = rpc.TxnRequest()
            for first, end in some or [(self._keys.root, b"")]:
                request.success.add(
                    request_range=rpc.RangeRequest(key=first, range_end=end, limit=limit, revision=revision)
                )
            answer = await self._client.ask(_txn(request), f"reading {len(some)} scopes", says=_UNREADABLE)
            revision = revision or answer.header.revision
            for (_, end), response in zip(some, answer.responses, strict=False):
                page = response.response_range
                while page.more:
                    after = page.kvs[-1].key + b"\0"
                    more = rpc.RangeRequest(key=after, range_end=end, limit=self._page, revision=revision)
                    asking = asyncio.create_task(self._client.ask(_range(more), "reading a page", says=_UNREADABLE))
                    try:
                        await self._add(records, page.kvs)  # while the server looks for the next page
                        page = await asking
                    finally:
                        asking.cancel()
                await self._add(records, page.kvs)
        return Snapshot(revision, tuple(records))

    async def _add(self, records: list[Record], found: Any) -> None:
        for start in range(0, len(found), BREATH):
            made = (self._record(kv, kv.value) for kv in found[start : start + BREATH])
            records.extend(record for record in made if record is not None)
            await asyncio.sleep(0)

    def _record(self, kv: Any, data: bytes | None) -> Record | None:
        """A record from etcd's; None for what is none of ours, which is said once."""
        key = self._keys.decode(kv.key)
        if key is not None:
            return Record(key, data, kv.mod_revision)
        if kv.key not in self._foreign:
            self._foreign.add(kv.key)
            LOG.warning("ignoring %r in etcd, which Dragonflow did not write; `etcdctl del` it", kv.key)
        return None


def _range(request: Any) -> Any:
    async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
        return await connection.kv.Range(request, timeout=seconds, metadata=metadata)

    return send


def _txn(request: Any) -> Any:
    async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
        return await connection.kv.Txn(request, timeout=seconds, metadata=metadata)

    return send


def _lease_id(lease: str) -> int:
    try:
        return int(lease, 16)
    except ValueError:
        raise LeaseExpired(f"{lease!r} is no lease of etcd's") from None


def _named(txn: Txn) -> str:
    """For people, what a transaction does: its first key, and how many more."""
    keys = [write.key for write in txn.writes] or [check.key for check in txn.checks]
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{'writing' if txn.writes else 'checking'} {keys[0]}{more}" if keys else "asking for the revision"


def _refused(trouble: Trouble, txn: Txn) -> Exception:
    if trouble.kind is Kind.NO_LEASE:
        return LeaseExpired(f"a lease is gone, one of {', '.join(sorted(leases_of(txn.writes)))}")
    size = sum(len(write.data) for write in txn.writes if isinstance(write, Put))
    return ValueError(
        f"{trouble}: it has {len(txn.writes)} writes, {len(txn.checks)} checks and {size} bytes; split it, or raise the limit "
        "of every server"
    )
