"""A record that stands as long as its owner renews it: put on a lease, and put again whenever it or the lease is gone."""

from __future__ import annotations

from dragonflow.store.protocol import Key, LeaseExpired, Put, Record, Store, Txn


class Standing:
    """The record ``data`` under ``key``, gone ``ttl`` seconds after its last renewal. The owner sees to when that is."""

    def __init__(self, key: Key, data: bytes, ttl: float) -> None:
        self.key, self.data = key, data
        self._ttl = ttl
        self._lease: str | None = None

    async def renew(self, store: Store) -> Record | None:
        """Make sure that it stands. Returns the record that was found standing, whosever it is; None if it was put now.

        :raises StoreError: it may not stand; try again.
        """
        if self._lease is not None:
            try:
                await store.keep_alive(self._lease)
                found = await store.get(self.key)
                if found is not None:
                    return found
            except LeaseExpired:
                self._lease = None
        if self._lease is None:
            self._lease = await store.grant_lease(self._ttl)
        try:
            await store.commit(Txn((Put(self.key, self.data, self._lease),)))
        except LeaseExpired:
            self._lease = None
            raise
        return None

    async def withdraw(self, store: Store) -> None:
        """Have it gone at once. :raises StoreError: it goes with its lease instead."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await store.revoke(lease)
