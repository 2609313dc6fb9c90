"""The cache in Redis (7 or later, or Valkey), by redis-py.

A refresh is staged under keys of its own that expire, and takes the place of the one before in one step, which first
checks the fence. Nothing is kept of it if any part of it is missing. Orders that did not change stay where they are.
"""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar, cast

import redis.asyncio as aio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenwire_server.cache import scripts
from tokenwire_server.cache.cutting import Slice, cut_page, row_symbol
from tokenwire_server.cache.keys import Keys
from tokenwire_server.cache.port import AgainError, CacheError, FencedError, Grant, Loaded, OpenBar
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.registry import NOT_FOUND, Resolution, address_key
from tokenwire_server.market.token_index import UNPRICED_BELOW, IndexOrder, TokenIndex
from tokenwire_server.market.token_names import TokenNames, asked_fields, meaning
from tokenwire_server.market.token_pages import (
    NO_FACTS,
    ORDER_KEPT_MS,
    CursorExpiredError,
    SingleToken,
    TokenPage,
    TokenQuery,
)

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

_HASH: Final = "HASH"  # as ``scripts.SWAP`` has it
_NONE: Final = "NONE"

T = TypeVar("T")


class _Published(NamedTuple):
    """What is there, if nobody published since."""

    generation: str
    orders: Mapping[SortKey, IndexOrder]
    names: Mapping[str, bytes]


_NOTHING: Final = _Published("", {}, {})


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
            protocol=2,  # with 3, redis-py takes up idle connections that Redis has closed
        )
        pool.connection_kwargs["decode_responses"] = False  # whatever the URL says: rows are bytes
        # Nothing is connected by this: what else the URL asks for is understood, or not.
        pool.make_connection()  # type: ignore[no-untyped-call]
        self._client = aio.Redis.from_pool(pool)
        self._place = _place(pool.connection_kwargs)
        self._has_password = pool.connection_kwargs.get("password") is not None
        register = self._client.register_script
        self._acquire, self._renew, self._release = map(register, (scripts.ACQUIRE, scripts.RENEW, scripts.RELEASE))
        self._swap, self._page, self._one = map(register, (scripts.SWAP, scripts.PAGE, scripts.ONE))
        self._tidy = register(scripts.TIDY)
        self._published: _Published | None = None  # by this process, last
        self._is_doubtful = False  # a connection was lost: those that are idle may lead nowhere either

    @property
    def place(self) -> str:
        """Host and port, or the socket; for people."""
        return self._place

    async def ping(self) -> str:
        """The engine and its version, once it answers. Idle connections are thrown away if one was lost before."""
        async with self._asking():
            if self._is_doubtful:
                self._is_doubtful = False
                await self._client.connection_pool.disconnect(inuse_connections=False)
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
            return Slice(int(found[0]), found[1], found[2], found[3])

        return await cut_page(read, query, cursor, limit)

    async def token(self, name: str) -> SingleToken | Resolution | None:
        """One token."""
        keys = self._keys
        async with self._asking():
            asked = name, address_key(name), *asked_fields(name)
            found = await self._one([keys.meta, keys.data, keys.names, keys.facts], asked)
        match found:
            case []:
                return None
            case [field]:
                return meaning(field) if field else NOT_FOUND
            case [row, facts, age_ms]:
                return SingleToken(row, facts or NO_FACTS, age_ms)
        raise AgainError(f"Redis at {self._place} answers something else")

    async def publish(self, index: TokenIndex, lock: str, fence: int) -> int | None:
        """Stage ``index``, and put it in place of the one before."""
        if not index.rows:
            return None
        before = self._published or _NOTHING
        said = await self._publish(index, lock, fence, before)
        if said == b"BASE":  # somebody else published since, or all data were lost
            said = await self._publish(index, lock, fence, _NOTHING)
        if said == b"FENCED":
            self._published = None
            raise FencedError("another instance leads since")
        if said == b"STAGING":
            raise AgainError("a refresh took longer than its staging keys live, or they were removed")
        generation = int(said)
        self._published = _Published(str(generation), index.orders, index.names)
        return generation

    async def _publish(self, index: TokenIndex, lock: str, fence: int, before: _Published) -> bytes:
        keys = self._keys
        refresh = f"{fence}:{secrets.token_hex(8)}"
        names = [keys.fence(lock), keys.meta, keys.kept, keys.base]
        kinds: list[str] = []

        async def stage(there: str, part: str, kind: str, items: Iterable[tuple[str, object]]) -> None:
            staged = keys.staging(f"{refresh}:{part}")
            names.extend((there, staged))
            kinds.append(kind)
            if kind != _NONE:
                await self._stage(staged, "hset" if kind == _HASH else "zadd", items)

        await stage(keys.data, "data", _HASH, index.rows.items())
        await stage(keys.facts, "facts", _HASH if index.facts else _NONE, index.facts.items())
        if index.names != before.names:
            await stage(keys.names, "names", _HASH, index.names.items())
        for key, order in index.orders.items():
            if order != before.orders.get(key):
                await stage(keys.orders[key], key, key, zip(order.members, order.scores, strict=True))
        arguments: list[int | str] = [fence, before.generation, ORDER_KEPT_MS, MAX_KEPT_PLACES, len(index.rows), *kinds]
        async with self._asking():
            said = await self._swap(names, arguments)
            if said in (b"BASE", b"FENCED"):
                await self._client.unlink(*names[5::2])
        return cast(bytes, said)

    async def load(self) -> Loaded | None:
        """The newest generation; read in pieces, and once more if it was swapped meanwhile."""
        keys, client = self._keys, self._client
        for _ in range(_LOADS_TRIED):
            async with self._asking():
                meta: Any = await client.hgetall(keys.meta)
                now_s, now_us = await client.time()
                has_facts = await client.exists(keys.facts)
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
            facts: dict[str, bytes] = {}
            names = TokenNames()
            for members in _chunks(reversed(orders[SortKey.NEW].members)):  # in order of arrival
                async with self._asking():
                    listed: Any = await client.hmget(keys.data, members)
                    merged: Any = await client.hmget(keys.facts, members) if has_facts else ()
                facts |= {member: each for member, each in zip(members, merged, strict=False) if each is not None}
                for member, row in zip(members, listed, strict=True):
                    if row is not None:
                        rows[member] = row
                        names.add(member, row_symbol(row))
            async with self._asking():
                if await client.hget(keys.meta, "generation") == generation:
                    since = {key: int(meta[f"since:{key}".encode()]) for key in SortKey}
                    age_ms = max(0, now_s * 1_000 + now_us // 1_000 - int(meta[b"published_ms"]))
                    return Loaded(int(generation), TokenIndex(rows, orders, names.fields, facts), since, age_ms)
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
            index = [keys.meta, keys.data, keys.names, keys.facts, keys.kept, *keys.orders.values()]
            gone = int(await self._tidy(index, [max_age_ms]))
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
            self._is_doubtful = True
            raise CacheError(f"Redis at {self._place} does not answer in time") from None
        except OutOfMemoryError:
            raise AgainError(f"Redis at {self._place} has no memory left (maxmemory)") from None
        except ResponseError as error:
            reason = str(error).rpartition("caused error: ")[2].strip("(\"',)")  # without the command and its data
            advice = "; give that right (ACL SETUSER) to the user of REDIS_URL, see deploy/README.md"
            is_right = isinstance(error, NoPermissionError) or _NO_PERMISSION.search(reason)
            raise AgainError(f"Redis at {self._place} refuses: {reason}{advice if is_right else ''}") from None
        except (RedisError, OSError) as error:
            self._is_doubtful = True
            raise CacheError(f"Redis at {self._place} can't be reached: {_cause(error)}") from None
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # which wait_for of Python 3.11, in redis-py, sometimes keeps to itself


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
