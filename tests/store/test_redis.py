"""The Redis driver on one server, on one with TLS and users, and on a master with replicas under Sentinels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis_ground import RedisGround

from dragonflow.lab.redis import RedisServers
from dragonflow.store.conformance import Ground, StoreConformance


class OnRedis(StoreConformance):
    """Below, only the servers differ."""

    @pytest.fixture
    async def ground(self, servers: RedisServers) -> AsyncIterator[Ground]:
        ground = RedisGround(servers)
        yield ground
        await ground.close()


class TestSingle(OnRedis):
    @pytest.fixture(scope="class")
    @classmethod
    def servers(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
        home = tmp_path_factory.mktemp("single")
        with RedisServers(home, home / "redis", size=1, sentinels=0) as servers:
            yield servers


class TestTlsAndUsers(OnRedis):
    @pytest.fixture(scope="class")
    @classmethod
    def servers(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
        home = tmp_path_factory.mktemp("tls")
        with RedisServers(home, home / "redis", size=1, sentinels=0, tls=True, auth=True) as servers:
            yield servers


class TestSentinel(OnRedis):
    @pytest.fixture(scope="class")
    @classmethod
    def servers(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
        home = tmp_path_factory.mktemp("sentinel")
        with RedisServers(home, home / "redis") as servers:
            yield servers
