"""The conformance suite on real etcd: one server in the clear, and a cluster of three with TLS and users."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from dragonflow.lab.etcd import PREFIX, USER, EtcdCluster
from dragonflow.store.conformance import Ground, StoreConformance
from dragonflow.store.etcd import EtcdStore
from dragonflow.store.protocol import Store

FAST = {"heartbeat-interval": "20", "election-timeout": "200"}
"""Leases of one second need elections as short."""

_numbers = itertools.count(1)


class EtcdGround(Ground):
    """A prefix of its own in a cluster that several tests share."""

    ttl = 1.0
    patience = 15.0

    def __init__(self, cluster: EtcdCluster) -> None:
        self.cluster = cluster
        self.url = cluster.url_of(USER, f"{PREFIX}-{os.getpid()}-{next(_numbers)}")
        self.clients: list[EtcdStore] = []

    async def client(self) -> Store:
        self.clients.append(EtcdStore.of(self.url, patience=1.0))
        return self.clients[-1]

    @contextlib.asynccontextmanager
    async def compact(self) -> AsyncIterator[None]:
        store = EtcdStore.of(self.url)
        revision = (await store.snapshot(())).revision
        await store.close()
        await asyncio.to_thread(self.cluster.ctl, "compaction", str(revision))
        yield

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self.cluster.kill)
        yield
        await asyncio.to_thread(self.cluster.start)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()


def running(directory: str, tmp_path_factory: pytest.TempPathFactory, **options: object) -> Iterator[EtcdCluster]:
    home = tmp_path_factory.mktemp(directory)
    cluster = EtcdCluster(home, home / "etcd", options=FAST, **options)
    cluster.make()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


class TestOneServer(StoreConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
        yield from running("one", tmp_path_factory, size=1)

    @pytest.fixture
    async def ground(self, cluster: EtcdCluster) -> AsyncIterator[Ground]:
        ground = EtcdGround(cluster)
        yield ground
        await ground.close()


class TestThreeWithTlsAndUsers(StoreConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
        yield from running("three", tmp_path_factory, size=3, tls=True, auth=True)

    @pytest.fixture
    async def ground(self, cluster: EtcdCluster) -> AsyncIterator[Ground]:
        ground = EtcdGround(cluster)
        yield ground
        await ground.close()
