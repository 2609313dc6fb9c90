"""Caches of both kinds."""

import time
from collections.abc import AsyncIterator

import pytest

from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.port import Cache
from tokenwire_server.cache.redis import RedisCache

from ..services.granted import granted_redis
from ..services.redis import Redis
from .world import LOCK


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest, unique: str) -> AsyncIterator[Cache]:
    """An empty cache; that in Redis for a user who has the rights that the page tells people to grant, no others."""
    if request.param == "memory":
        yield MemoryCache(lambda: time.monotonic_ns() // 1_000_000)
        return
    server: Redis = request.getfixturevalue("redis_server")
    assert server.command(" ".join(granted_redis(unique, unique, unique))) == "+OK"
    redis = RedisCache(f"redis://{unique}:{unique}@{server.address}/0", unique)
    yield redis
    await redis.close()
    server.command(f"ACL DELUSER {unique}")


@pytest.fixture
async def fence(cache: Cache) -> int:
    """Of whoever leads."""
    return (await cache.acquire(LOCK, "leader", 600_000)).fence
