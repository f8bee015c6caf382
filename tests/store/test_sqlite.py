from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragonflow.store.conformance import Ground, StoreConformance
from dragonflow.store.protocol import Store
from dragonflow.store.sqlite import SqliteStore


class SqliteGround(Ground):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clients: list[SqliteStore] = []

    async def client(self) -> Store:
        self.clients.append(SqliteStore(self.path))
        return self.clients[-1]

    @contextlib.asynccontextmanager
    async def compact(self) -> AsyncIterator[None]:
        store = SqliteStore(self.path)
        await store.compact()
        await store.close()
        yield

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        away = self.path.with_suffix(".away")
        os.rename(self.path, away)
        yield
        os.rename(away, self.path)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()


class TestSqlite(StoreConformance):
    @pytest.fixture
    async def ground(self, tmp_path: Path) -> AsyncIterator[Ground]:
        ground = SqliteGround(tmp_path / "dfdb.sqlite")
        yield ground
        await ground.close()


def test_hints_are_needed_only_where_the_kernel_tells_of_no_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "dfdb.sqlite")
    assert not store.needs_hints

    def none_left() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("dragonflow.store._bell.INotify", none_left)
    assert store.needs_hints
