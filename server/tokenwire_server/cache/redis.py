"""The cache in Redis (7 or later, or Valkey), by redis-py.

A refresh is staged under keys of its own that expire, and takes the place of the one before in one step, which first
checks the fence. Nothing is kept of it if any part of it is missing. Orders that did not change stay where they are.
"""

import os
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, TypeVar, cast

import redis.asyncio as aio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenwire_server.cache import scripts
from tokenwire_server.cache.cutting import Slice, cut_page
from tokenwire_server.cache.keys import Keys
from tokenwire_server.cache.port import AgainError, CacheError, FencedError, Grant, Loaded, OpenBar
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.token_index import UNPRICED_BELOW, IndexOrder, TokenIndex
from tokenwire_server.market.token_pages import ORDER_KEPT_MS, CursorExpiredError, TokenPage, TokenQuery

__all__ = ["MAX_KEPT_PLACES", "STAGING_TTL_MS", "RedisCache"]

STAGING_TTL_MS: Final = 30_000  # a refresh that takes longer is lost
MAX_KEPT_PLACES: Final = 500_000  # in all orders that are kept for walks, of some 130 bytes each in Redis
MAX_CONNECTIONS: Final = 16
COMMAND_TIMEOUT_S: Final = 1.0
_CHUNK: Final = 500  # tokens that are sent, or asked for, at once: the event loop turns in between
_LOADS_TRIED: Final = 3  # of an index that is swapped while it is read
_SCANNED: Final = 500
_NO_TTL: Final = -1
_NO_PERMISSION: Final = re.compile("no permission|can't run this command|can't access")  # in a script or a pipeline

T = TypeVar("T")


class RedisCache:
    """``url`` is one of redis-py: ``redis://``, ``rediss://`` or ``unix://``, and may hold a password, which no message
    shows. Connections are made when they are needed.

    Raises:
        ValueError, TypeError: the URL can't be used; the message may hold parts of it.
    """

    def __init__(self, url: str, prefix: str = "", *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self._keys = Keys(prefix)
        pool = aio.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            client_name="tokenwire",
        )
        pool.connection_kwargs["decode_responses"] = False  # whatever the URL says: rows are bytes
        # Nothing is connected by this: what else the URL asks for is understood, or not.
        pool.make_connection()  # type: ignore[no-untyped-call]
        self._client = aio.Redis.from_pool(pool)
        self._place = _place(pool.connection_kwargs)
        self._has_password = pool.connection_kwargs.get("password") is not None
        register = self._client.register_script
        self._acquire, self._renew, self._release = map(register, (scripts.ACQUIRE, scripts.RENEW, scripts.RELEASE))
        self._swap, self._page, self._tidy = map(register, (scripts.SWAP, scripts.PAGE, scripts.TIDY))
        self._published: tuple[int, Mapping[SortKey, IndexOrder]] | None = None  # by this process, last

    @property
    def place(self) -> str:
        """Host and port, or the socket; for people."""
        return self._place

    async def ping(self) -> str:
        """The engine and its version, once it answers. What a lost connection left is thrown away first."""
        await self._client.connection_pool.disconnect(inuse_connections=False)
        async with self._asking():
            info = await self._client.info("server")
        name = info.get("server_name", "redis")
        return f"{name} {info.get(f'{name}_version', '?')}"

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.aclose()

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage | None:
        """A page."""

        async def read(number: int | None, place: int, count: int) -> Slice | None:
            keys = self._keys
            async with self._asking():
                found = await self._page(
                    [keys.meta, keys.data, keys.orders[query.sort], keys.kept, keys.base],
                    [
                        *(str(query.sort), "" if number is None else str(number), place, count),
                        *(int(query.sort.is_descending), int(query.is_reversed), UNPRICED_BELOW, ORDER_KEPT_MS),
                    ],
                )
            if not found:
                return None
            if found[0] == b"EXPIRED":
                raise CursorExpiredError
            return Slice(int(found[0]), found[1], found[2])

        return await cut_page(read, query, cursor, limit)

    async def publish(self, index: TokenIndex, lock: str, fence: int) -> int | None:
        """Stage ``index``, and put it in place of the one before."""
        if not index.rows:
            return None
        base, before = self._published or ("", {})
        said = await self._publish(index, lock, fence, str(base), before)
        if said == b"BASE":  # somebody else published since, or all data were lost
            said = await self._publish(index, lock, fence, "", {})
        if said == b"FENCED":
            self._published = None
            raise FencedError("another instance leads since")
        if said == b"STAGING":
            raise AgainError("a refresh took longer than its staging keys live, or they were removed")
        generation = int(said)
        self._published = generation, index.orders
        return generation

    async def _publish(
        self, index: TokenIndex, lock: str, fence: int, base: str, before: Mapping[SortKey, IndexOrder]
    ) -> bytes:
        keys = self._keys
        refresh = f"{fence}:{secrets.token_hex(8)}"
        changed = {key: order for key, order in index.orders.items() if before.get(key) != order}
        if len(changed) == len(SortKey):
            base = ""
        staged_data = keys.staging(f"{refresh}:data")
        await self._stage(staged_data, "hset", index.rows.items())
        names = [keys.fence(lock), keys.meta, keys.kept, keys.base, keys.data, staged_data]
        for key, order in changed.items():
            staged = keys.staging(f"{refresh}:{key}")
            await self._stage(staged, "zadd", zip(order.members, order.scores, strict=True))
            names += keys.orders[key], staged
        arguments: list[int | str] = [fence, base, ORDER_KEPT_MS, MAX_KEPT_PLACES, len(index.rows), *map(str, changed)]
        async with self._asking():
            said = await self._swap(names, arguments)
            if said in (b"BASE", b"FENCED"):
                await self._client.unlink(staged_data, *names[7::2])
        return cast(bytes, said)

    async def load(self) -> Loaded | None:
        """The newest generation; read in pieces, and once more if it was swapped meanwhile."""
        keys, client = self._keys, self._client
        for _ in range(_LOADS_TRIED):
            async with self._asking():
                meta: Any = await client.hgetall(keys.meta)
                generation = meta.get(b"generation")
                sizes = [await client.zcard(name) for name in keys.orders.values()]
            if generation is None or not all(sizes):
                return None
            orders: dict[SortKey, IndexOrder] = {}
            for (key, name), size in zip(keys.orders.items(), sizes, strict=True):
                places: list[tuple[bytes, float]] = []
                for first in range(0, size, _CHUNK):
                    async with self._asking():
                        last = first + _CHUNK - 1
                        found: Any = await client.zrange(name, first, last, desc=key.is_descending, withscores=True)
                        places += found
                scores = tuple([score for _, score in places])
                priced = sum(score > UNPRICED_BELOW for score in scores)
                orders[key] = IndexOrder(tuple([member.decode() for member, _ in places]), scores, priced)
            rows: dict[str, bytes] = {}
            for members in _chunks(orders[SortKey.NEW].members):
                async with self._asking():
                    listed: Any = await client.hmget(keys.data, members)
                rows |= {member: row for member, row in zip(members, listed, strict=True) if row is not None}
            async with self._asking():
                if await client.hget(keys.meta, "generation") == generation:
                    since = {key: int(meta[f"since:{key}".encode()]) for key in SortKey}
                    return Loaded(int(generation), TokenIndex(rows, orders), since)
        raise AgainError("the index was swapped each time it was read")

    async def put_bars(self, bars: Sequence[OpenBar]) -> None:
        """Set the keys of these bars, in one go."""
        async with self._asking(), self._client.pipeline(transaction=False) as pipe:
            for bar in bars:
                pipe.set(self._keys.open_bar(bar.symbol, bar.interval), bar.row, px=bar.ttl_ms)
            await pipe.execute()

    async def tidy(self, max_age_ms: int) -> int:
        """Remove an index that is too old, and staging keys that would stay for good."""
        keys, client = self._keys, self._client
        async with self._asking():
            gone = int(await self._tidy([keys.meta, keys.data, keys.kept, *keys.orders.values()], [max_age_ms]))
            async for name in client.scan_iter(match=keys.staging("*"), count=_SCANNED):
                if await client.pttl(name) == _NO_TTL:
                    gone += await client.unlink(name)
        return gone

    async def acquire(self, lock: str, owner: str, lease_ms: int) -> Grant:
        """Take the lock."""
        async with self._asking():
            fence, free_in_ms = await self._acquire([self._keys.lock(lock), self._keys.fence(lock)], [owner, lease_ms])
        return Grant(fence, free_in_ms)

    async def renew(self, lock: str, owner: str, lease_ms: int) -> bool:
        """Hold it longer."""
        async with self._asking():
            return bool(await self._renew([self._keys.lock(lock)], [owner, lease_ms]))

    async def release(self, lock: str, owner: str) -> None:
        """Give it back."""
        async with self._asking():
            await self._release([self._keys.lock(lock)], [owner])

    async def _stage(self, name: str, command: str, items: Iterable[tuple[str, object]]) -> None:
        for chunk in _chunks(items):
            async with self._asking(), self._client.pipeline(transaction=True) as pipe:
                mapping: Any = dict(chunk)
                if command == "hset":
                    pipe.hset(name, mapping=mapping)
                else:
                    pipe.zadd(name, mapping)
                pipe.pexpire(name, STAGING_TTL_MS)
                await pipe.execute()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        try:
            yield
        except AuthenticationError:
            reason = (
                "refuses the user or the password; correct them in REDIS_URL"
                if self._has_password
                else "wants a password; put it into REDIS_URL: redis://:PASSWORD@HOST:PORT/0"
            )
            raise CacheError(f"Redis at {self._place} {reason}") from None
        except (RedisTimeoutError, TimeoutError):
            raise CacheError(f"Redis at {self._place} does not answer in time") from None
        except OutOfMemoryError:
            raise AgainError(f"Redis at {self._place} has no memory left (maxmemory)") from None
        except ResponseError as error:
            reason = str(error).rpartition("caused error: ")[2].strip("(\"',)")  # without the command and its data
            advice = "; give that right (ACL SETUSER) to the user of REDIS_URL, see deploy/README.md"
            is_right = isinstance(error, NoPermissionError) or _NO_PERMISSION.search(reason)
            raise AgainError(f"Redis at {self._place} refuses: {reason}{advice if is_right else ''}") from None
        except (RedisError, OSError) as error:
            raise CacheError(f"Redis at {self._place} can't be reached: {_cause(error)}") from None


def _place(kwargs: Mapping[str, Any]) -> str:
    return str(kwargs.get("path") or f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}")


def _cause(error: BaseException) -> str:
    """Without the place, which redis-py likes to repeat."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error) or type(error).__name__


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
