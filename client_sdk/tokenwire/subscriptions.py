"""Wanted and confirmed subscriptions: which messages to send, and what the answers mean (I-18 to I-23, I-53).

Without ``details`` replies do not name their request, so requests go one at a time and answers are matched in order.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import UNSET

from tokenwire.errors import RequestError, TokenwireError
from tokenwire.requests import CANCELLED, REJECTED, Exchange, Request, Verb
from tokenwire.tokens import TokenTable
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.extension_messages import ExtendedErrorData, ExtendedSubscriptionData
from tokenwire_schemas.limits import MAX_BATCH, MAX_TOKEN_NAME_CHARS

__all__ = ["Subscriptions"]

_MAX_FLYING: Final = 8
_MAX_TRIES: Final = 3
_MAX_REQUEST_BYTES: Final = 131_072
_GRACE_MS: Final = 1_000  # for the second half of an answer …
_BLIND_GRACE_MS: Final = 3_000  # … and without ids, when taking an answer for over too early would mix up two
_REFUSES_ALL: Final = frozenset(
    {
        ErrorCode.INVALID_JSON,
        ErrorCode.INVALID_MESSAGE,
        ErrorCode.UNKNOWN_TYPE,
        ErrorCode.INVALID_ACTION,
        ErrorCode.BATCH_LIMIT,
    }
)
"""A message refused with these is answered by nothing else (I-25)."""


def _retryable(code: str) -> bool:
    try:
        return CATALOGUE[ErrorCode(code)].retryable
    except ValueError:
        return False


def _is_usable(name: str) -> bool:
    """Whether a name can be sent at all; the rest is for the server to judge."""
    return 0 < len(name) <= MAX_TOKEN_NAME_CHARS and name.encode("utf-8", "replace").decode() == name


class Subscriptions:
    """The state of what is wanted, asked for and held."""

    __slots__ = (
        "_exchange_count",
        "_flying",
        "_request_count",
        "_settled",
        "_strays",
        "_unfinished",
        "attached",
        "details",
        "held",
        "max_batch",
        "partial",
        "prefix",
        "queue",
        "reply_timeout_ms",
        "table",
        "unsettled",
    )

    def __init__(self, table: TokenTable, reply_timeout_ms: int) -> None:
        self.table = table
        self.prefix = "r"
        """Of request ids: a resumed session still answers what an earlier process asked, so ids must differ."""
        self.reply_timeout_ms = reply_timeout_ms
        self.details = False
        self.max_batch = MAX_BATCH
        self.attached = False
        """There is a session, or one to resume: requests are queued for it. Otherwise only the wish is kept."""
        self.held: set[str] = set()
        """What the server holds for this session, as far as it has said so."""
        self.queue: deque[Exchange] = deque()
        self.partial = 0
        """How many answers are incomplete."""
        self.unsettled = False
        """What is held may differ from what is wanted."""
        self._flying: dict[str, Exchange] = {}
        self._settled: set[tuple[Verb, str]] = set()
        self._strays: list[tuple[Verb, tuple[str, ...]]] = []
        self._unfinished: dict[Request, None] = {}
        self._request_count = 0
        self._exchange_count = 0

    # --- the application --------------------------------------------------------------------------------------

    def subscribe(self, names: Iterable[str]) -> Request:
        """Wants ``names``; those that cannot be sent are refused at once."""
        request = self._request("subscribe", names)
        for name in tuple(request.waiting):
            if not _is_usable(name):
                request.reject(name, ErrorCode.INVALID_TOKEN)
        asked = [name for name in request.names if name in request.waiting]
        for name in asked:
            self.table.want(name)
        if self.attached:
            self._enqueue("subscribe", [(name, (name,)) for name in asked], [request])
        return request

    def unsubscribe(self, names: Iterable[str]) -> Request:
        """Wants ``names`` no more; a token stays as long as another name for it is wanted."""
        request = self._request("unsubscribe", names)
        entries: list[tuple[str, tuple[str, ...]]] = []
        for name in request.names:
            if name not in self.table.wanted:
                request.accept(name, name)
                continue
            address = self.table.forget(name)
            shared = address is not None and address in self.table.by_address
            if shared or not self.attached:
                request.accept(name, address or name)
                if address is not None and not shared:
                    self.table.drop_unwanted((address,))
            else:
                entries.append((address or name, (name,)))
        self._enqueue("unsubscribe", entries, [request])
        return request

    def _request(self, action: Verb, names: Iterable[str]) -> Request:
        if isinstance(names, str):
            raise TypeError("names is a list of names, not one string")
        listed = tuple(dict.fromkeys(names))
        if not all(isinstance(name, str) for name in listed):
            raise TypeError("every name is a string")
        self._request_count += 1
        self._settled.clear()
        request = Request(self._request_count, action, listed)
        self._unfinished[request] = None
        return request

    def fail_all(self, error: TokenwireError) -> None:
        """No request will be answered any more."""
        for request in self._unfinished:
            request.fail(error)
        self._unfinished.clear()
        self._clear()

    def prune(self) -> None:
        """Lets go of requests that are done."""
        if self._unfinished:
            for request in [request for request in self._unfinished if request.done]:
                del self._unfinished[request]

    # --- sending ----------------------------------------------------------------------------------------------

    def _enqueue(self, action: Verb, entries: Iterable[tuple[str, tuple[str, ...]]], requests: list[Request]) -> None:
        exchange = self.queue[-1] if self.queue else None
        room = 0
        if exchange is not None and exchange.action == action and exchange.tries == 0:
            room = self.max_batch - len(exchange.wire)
        for token, names in entries:
            if exchange is not None and room > 0 and token in exchange.wire:
                exchange.wire[token] = tuple(dict.fromkeys((*exchange.wire[token], *names)))
                exchange.requests.update(dict.fromkeys(requests))
                continue
            size = _wire_bytes(token)
            if exchange is None or room <= 0 or exchange.size + size > _MAX_REQUEST_BYTES:
                exchange = self._exchange(action, {}, requests)
                self.queue.append(exchange)
                room = self.max_batch
            exchange.wire[token] = names
            exchange.size += size
            exchange.requests.update(dict.fromkeys(requests))
            room -= 1

    def _exchange(self, action: Verb, wire: dict[str, tuple[str, ...]], requests: Iterable[Request]) -> Exchange:
        self._exchange_count += 1
        return Exchange(f"{self.prefix}{self._exchange_count}", action, wire, requests)

    @property
    def next_to_send(self) -> Exchange | None:
        """The exchange whose turn it is, if any may be sent now."""
        if not self.queue or len(self._flying) >= (_MAX_FLYING if self.details else 1):
            return None
        return self.queue[0]

    def sent(self, exchange: Exchange, now: int) -> None:
        """``exchange`` is on its way."""
        self.queue.popleft()
        exchange.sent_ms = now
        exchange.tries += 1
        self._flying[exchange.id] = exchange

    def known(self, exchange: Exchange) -> dict[str, int]:
        """The versions of the tokens in ``exchange`` that were applied, for ``known`` (I-55)."""
        if exchange.action != "subscribe":
            return {}
        tokens = self.table.tokens
        found = ((address, tokens.get(address)) for address in exchange.wire)
        return {
            address: token.version
            for address, token in found
            if token is not None and token.version is not None and token.quote is not None
        }

    def send_again(self) -> None:
        """Everything on its way may be lost: send it once more, in the same order. The outcome is the same."""
        again = list(self._flying.values())
        self._flying.clear()
        for exchange in reversed(again):
            exchange.restart()
            self.queue.appendleft(exchange)
        self._count_partial()

    @property
    def is_idle(self) -> bool:
        """Nothing is queued or on its way."""
        return not self.queue and not self._flying

    @property
    def flying(self) -> int:
        """How many messages are on their way."""
        return len(self._flying)

    def wait_again(self, now: int) -> None:
        """The answers may take as long as if everything had been sent now."""
        for exchange in self._flying.values():
            exchange.sent_ms = now

    # --- answers ----------------------------------------------------------------------------------------------

    def reply(self, data: ExtendedSubscriptionData, now: int) -> None:
        """A subscription message of the server."""
        exchange = self._match(data)
        success = data.status == "success"
        if success and data.action == "subscribe":
            self.held.update(data.tokens)
        elif success:
            self.held.difference_update(data.tokens)
            self.table.drop_unwanted(data.tokens)
        if exchange is None:
            self.unsettled = True
            return
        if success:
            exchange.accepted = [*(exchange.accepted or ()), *data.tokens]
        else:
            exchange.refused = {**(exchange.refused or {}), **dict.fromkeys(data.tokens)}
            if data.rejected is not UNSET:
                exchange.codes.update((one.token, one.code) for one in data.rejected)
        if self._is_complete(exchange):
            self._finish(exchange)
        else:
            exchange.partial_ms = now
            self._count_partial()

    def _match(self, data: ExtendedSubscriptionData) -> Exchange | None:
        """The message that ``data`` answers. Without ids it is the one on its way, if the answer can be its own.

        A message that was sent twice may be answered twice; the second answer is not that of the message after it.
        """
        if self.details and data.request_id is not UNSET:
            return self._flying.get(data.request_id)
        stray = (data.action, tuple(data.tokens))
        if stray in self._strays:
            self._strays.remove(stray)
            return None
        for exchange in self._flying.values():
            if exchange.action != data.action:
                continue
            answered = len(exchange.accepted or ()) + len(exchange.refused or ())
            if data.status == "success":
                if exchange.accepted is None and len(data.tokens) <= len(exchange.wire) - answered:
                    return exchange
            elif exchange.refused is None:
                echoes = {_echo(token) for token in exchange.wire}
                if all(token in echoes for token in data.tokens):
                    return exchange
        return None

    def _is_complete(self, exchange: Exchange) -> bool:
        refused = exchange.refused or {}
        if len(exchange.accepted or ()) + len(refused) < len(exchange.wire):
            return False
        return all(token in exchange.codes for token in refused)

    def error(self, data: ExtendedErrorData, now: int) -> tuple[str, ...]:
        """An error message of the server; the application's names for what it concerns."""
        exchange: Exchange | None = None
        if self.details:
            if data.request_id is not UNSET:
                exchange = self._flying.get(data.request_id)
        elif self._flying:
            exchange = next(iter(self._flying.values()))
        tokens = [] if data.tokens is UNSET else list(data.tokens)
        if exchange is None:
            return self._names(None, tokens)
        untouched = exchange.accepted is None and exchange.refused is None
        if untouched and data.code in _REFUSES_ALL and data.level == "error":
            self._say(exchange, data.message)
            exchange.accepted = []
            exchange.refused = {_echo(token): None for token in exchange.wire}
            exchange.codes = dict.fromkeys(exchange.refused, data.code)
            names = self._names(exchange, list(exchange.refused))
            self._finish(exchange)
            return names
        if exchange.refused is None:
            return self._names(exchange, tokens)
        self._say(exchange, data.message)
        open_ones = [token for token in exchange.refused if token not in exchange.codes]
        if not tokens:
            tokens = [token for token in open_ones if token in data.message]
            if not tokens:
                tokens = open_ones
                # A reason that names nobody may be followed by others: it stands until they come.
                exchange.codes.update(dict.fromkeys(open_ones, data.code))
        exchange.codes.update((token, data.code) for token in tokens if token in exchange.refused)
        names = self._names(exchange, tokens)
        if self._is_complete(exchange):
            self._finish(exchange)
        return names

    @staticmethod
    def _say(exchange: Exchange, message: str) -> None:
        for request in exchange.requests:
            request.say(message)

    def _names(self, exchange: Exchange | None, tokens: list[str]) -> tuple[str, ...]:
        wire = {} if exchange is None else {_echo(token): names for token, names in exchange.wire.items()}
        found: dict[str, None] = {}
        for token in tokens:
            found.update(dict.fromkeys(wire.get(token) or self.table.names_of(token)))
        return tuple(found)

    def progress(self) -> None:
        """Another numbered message came: with ``details`` both halves of an answer are neighbours."""
        if self.details:
            for exchange in [one for one in self._flying.values() if one.partial_ms is not None]:
                self._finish(exchange)

    def _count_partial(self) -> None:
        self.partial = sum(1 for exchange in self._flying.values() if exchange.partial_ms is not None)

    def _finish(self, exchange: Exchange) -> None:
        """Everything that will be answered is: bind names to addresses, pass on refusals, ask again for the rest."""
        self._flying.pop(exchange.id, None)
        self._count_partial()
        self._expect_strays(exchange)
        self.unsettled = True
        refused = exchange.refused or {}
        accepted = exchange.accepted or []
        remaining = [token for token in exchange.wire if _echo(token) not in refused]
        pairs: dict[str, str]
        if len(remaining) == len(accepted):
            pairs = dict(zip(remaining, accepted, strict=True))
        else:
            pairs = self._guess(exchange, remaining, accepted)
        for token, address in pairs.items():
            self._accept(exchange, token, address)
        for token in exchange.wire:
            if _echo(token) in refused:
                self._refuse(exchange, token, exchange.codes.get(_echo(token), REJECTED))
        open_ones = [token for token in remaining if token not in pairs]
        if open_ones:
            self._ask_apart(exchange, open_ones)
        self.prune()

    def _expect_strays(self, exchange: Exchange) -> None:
        """Answers come in order, so what was expected from before ``exchange`` is not coming any more."""
        self._strays.clear()
        if not self.details:
            lists = [tuple(tokens) for tokens in (exchange.accepted, exchange.refused) if tokens]
            self._strays = [(exchange.action, tokens) for tokens in lists for _ in range(exchange.tries - 1)]

    def _guess(self, exchange: Exchange, remaining: list[str], accepted: list[str]) -> dict[str, str]:
        """Two names meant one token, or a half of the answer is missing: only what is certain."""
        listed = set(accepted)
        pairs: dict[str, str] = {}
        for token in remaining:
            if token in listed:
                pairs[token] = token
                continue
            addresses = {
                wanted.address for name in exchange.wire[token] if (wanted := self.table.wanted.get(name)) is not None
            }
            if len(addresses) == 1 and (address := addresses.pop()) is not None and address in listed:
                pairs[token] = address
        if len(exchange.wire) == 1 and accepted and not pairs:
            pairs[remaining[0]] = accepted[0]
        return pairs

    def _ask_apart(self, exchange: Exchange, tokens: list[str]) -> None:
        if len(exchange.wire) == 1:
            for token in tokens:
                self._refuse(exchange, token, REJECTED)
            return
        half = (len(tokens) + 1) // 2
        for part in (tokens[:half], tokens[half:]):
            if part:
                wire = {token: exchange.wire[token] for token in part}
                apart = self._exchange(exchange.action, wire, exchange.requests)
                apart.tries = 1  # so that nothing is merged into it
                self.queue.append(apart)

    def _accept(self, exchange: Exchange, token: str, address: str) -> None:
        for name in exchange.wire[token]:
            if exchange.action == "subscribe":
                bound = self.table.bind(name, address)
                if bound is not None:
                    bound.expects_snapshot = True
            for request in exchange.requests:
                request.accept(name, address)

    def _refuse(self, exchange: Exchange, token: str, code: str) -> None:
        if exchange.action == "subscribe" and code in {ErrorCode.TOKEN_NOT_FOUND, ErrorCode.INVALID_TOKEN}:
            by_name = [name for name in exchange.wire[token] if name != token and name in self.table.wanted]
            if by_name:  # the address is not valid any more, but the name may be
                for name in by_name:
                    self.table.unbind(name)
                self._enqueue("subscribe", [(name, (name,)) for name in by_name], list(exchange.requests))
                return
        for name in exchange.wire[token]:
            if exchange.action == "subscribe" and (wanted := self.table.wanted.get(name)) is not None:
                if _retryable(code):
                    wanted.refused = code
                else:
                    self.table.forget(name)
            for request in exchange.requests:
                request.reject(name, code)

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def _grace(self) -> int:
        return _GRACE_MS if self.details else min(_BLIND_GRACE_MS, self.reply_timeout_ms)

    def deadline(self) -> int | None:
        """When :meth:`handle_timer` has something to do."""
        times = [
            exchange.sent_ms + self.reply_timeout_ms
            if exchange.partial_ms is None
            else exchange.partial_ms + self._grace
            for exchange in self._flying.values()
            if exchange.sent_ms is not None
        ]
        return min(times, default=None)

    def handle_timer(self, now: int) -> None:
        """Finishes answers that stay incomplete, repeats what stays unanswered, and in the end gives up on it."""
        late: list[Exchange] = []
        for exchange in list(self._flying.values()):
            if exchange.partial_ms is not None:
                if now >= exchange.partial_ms + self._grace:
                    self._finish(exchange)
            elif exchange.sent_ms is not None and now >= exchange.sent_ms + self.reply_timeout_ms:
                late.append(exchange)
        for exchange in reversed(late):
            del self._flying[exchange.id]
            if exchange.tries < _MAX_TRIES:
                exchange.restart()
                self.queue.appendleft(exchange)
            else:
                error = RequestError(
                    "REPLY_TIMEOUT",
                    f"no answer to {exchange.action} in {self.reply_timeout_ms} ms, tried {exchange.tries} times",
                    "What was to be subscribed is asked for again after the next reconnect.",
                )
                for request in exchange.requests:
                    request.fail(error)
                self.unsettled = True
        if late:
            self.prune()

    # --- sessions ---------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.queue.clear()
        self._flying.clear()
        self._settled.clear()
        self._strays.clear()
        self.partial = 0

    def begin(self, restored: Iterable[str]) -> None:
        """A new session, in which the server holds ``restored``: ask for everything else that is wanted."""
        self._clear()
        self.attached = True
        self.unsettled = False
        table = self.table
        self.held = set(restored)
        extra = [address for address in self.held if address not in table.by_address]
        table.drop_unwanted(list(table.tokens))
        table.expect_snapshots()
        requests = list(self._unfinished)
        for request in requests:
            self._carry_over(request)
        self._enqueue("unsubscribe", [(address, ()) for address in extra], [])
        known: dict[str, tuple[str, ...]] = {}
        others: dict[str, tuple[str, ...]] = {}
        for name, wanted in table.wanted.items():
            wanted.refused = None
            address = wanted.address
            if address is None:
                others[name] = (name,)
            elif address in self.held:
                for request in requests:
                    request.accept(name, address)
            else:
                known[address] = (*known.get(address, ()), name)
        self._ask((*known.items(), *others.items()))
        self.prune()

    def _carry_over(self, request: Request) -> None:
        """An unfinished request meets a session that knows nothing of it."""
        for name in tuple(request.waiting):
            if request.action == "unsubscribe":
                request.accept(name, name)
            elif name not in self.table.wanted:
                request.reject(name, CANCELLED)

    def _ask(self, entries: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        """Subscribes entries, each on behalf of the unfinished requests that wait for one of its names."""
        by_name: dict[str, list[Request]] = {}
        for request in self._unfinished:
            if request.action == "subscribe":
                for name in request.waiting:
                    by_name.setdefault(name, []).append(request)
        for token, names in entries:
            self._enqueue("subscribe", [(token, names)], [one for name in names for one in by_name.get(name, ())])

    def resume(self, held: Iterable[str] | None) -> None:
        """The session goes on; ``held`` is what it holds by the server's word, None when it does not say."""
        self._settled.clear()
        self.attached = True
        self.unsettled = True
        if held is not None:
            self.held = set(held)
            for address in self.held:
                for name in self.table.by_address.get(address, ()):
                    self.table.bind(name, address)

    def detach(self) -> None:
        """There is no session and none to resume: wishes are kept until there is one."""
        self.attached = False
        self._clear()
        self.held.clear()

    def repair(self) -> None:
        """Subscribes everything that is held and wanted once more, so that its values are sent again."""
        held = ((address, tuple(names)) for address, names in self.table.by_address.items() if address in self.held)
        self.table.expect_snapshots()
        self._enqueue("subscribe", list(held), [])

    def settle(self) -> None:
        """Nothing is on its way: ask for what is wanted and not held, give back what is held and not wanted.

        What is held, but by a value that only an earlier process saw, is asked for too: its value is sent again.
        Each at most once for a connection and request of the application, so that a server that answers nonsense is
        not asked for ever.
        """
        self.unsettled = False
        table = self.table
        extra = [address for address in self.held if address not in table.by_address]
        self._enqueue("unsubscribe", [(one, ()) for one in self._once("unsubscribe", extra)], [])
        missing: dict[str, tuple[str, ...]] = {}
        for name, wanted in table.wanted.items():
            if wanted.refused is not None:
                continue
            if wanted.address is None or wanted.address not in self.held or self._is_blank(wanted.address):
                token = wanted.address or name
                missing[token] = (*missing.get(token, ()), name)
        self._ask([(token, missing[token]) for token in self._once("subscribe", missing)])

    def _is_blank(self, address: str) -> bool:
        token = self.table.tokens.get(address)
        return token is not None and token.restored and token.quote is None

    def _once(self, action: Verb, tokens: Iterable[str]) -> Iterator[str]:
        for token in list(tokens):
            if (action, token) not in self._settled:
                self._settled.add((action, token))
                yield token


def _wire_bytes(token: str) -> int:
    return len(token.encode()) + 3


def _echo(token: str) -> str:
    return token[:MAX_TOKEN_NAME_CHARS]
