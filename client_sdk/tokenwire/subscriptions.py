"""Wanted and confirmed subscriptions: what to ask for, and what the answers mean (I-18 to I-23, I-53)."""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import UNSET

from tokenwire.errors import RequestError, TokenwireError
from tokenwire.exchange import Exchange, echo
from tokenwire.exchanges import Entries, Exchanges
from tokenwire.refusals import Refusals, may_pass
from tokenwire.requests import CANCELLED, REJECTED, Request, Verb, is_usable
from tokenwire.tokens import TokenTable
from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.extension_messages import ExtendedErrorData, ExtendedSubscriptionData
from tokenwire_schemas.limits import MAX_BATCH, MAX_TOKEN_NAME_CHARS

__all__ = ["Subscriptions"]

_NO_TOKEN: Final = frozenset({ErrorCode.TOKEN_NOT_FOUND, ErrorCode.INVALID_TOKEN})


class Subscriptions:
    """The state of what is wanted, asked for and held."""

    __slots__ = (
        "_has_channel",
        "_request_count",
        "_settled",
        "_table",
        "_unfinished",
        "attached",
        "exchanges",
        "held",
        "refusals",
        "reply_timeout_ms",
        "unsettled",
    )

    def __init__(self, table: TokenTable, reply_timeout_ms: int, *, has_channel: bool = False) -> None:
        self._table = table
        self._has_channel = has_channel
        self.exchanges = Exchanges()
        self.reply_timeout_ms = reply_timeout_ms
        self.attached = False
        """There is a session, or one to resume: requests are queued for it. Otherwise only the wish is kept."""
        self.held: set[str] = set()
        """What the server holds for this session, as far as it has said so."""
        self.refusals = Refusals()
        self.unsettled = False
        """What is held may differ from what is wanted."""
        self._settled: set[tuple[Verb, str]] = set()
        self._unfinished: dict[Request, None] = {}
        self._request_count = 0

    # --- the application --------------------------------------------------------------------------------------

    def subscribe(self, names: Iterable[str]) -> Request:
        """Wants ``names``; those that cannot be sent are refused at once."""
        request = self._request("subscribe", names)
        for name in tuple(request.waiting):
            if not is_usable(name):
                request.reject(name, ErrorCode.INVALID_TOKEN)
        asked = [name for name in request.names if name in request.waiting]
        for name in asked:
            self._table.want(name)
        if self.attached:
            self.exchanges.put("subscribe", [(name, (name,)) for name in asked], [request])
        return request

    def unsubscribe(self, names: Iterable[str]) -> Request:
        """Wants ``names`` no more; a token stays as long as another name for it is wanted."""
        request = self._request("unsubscribe", names)
        entries: list[tuple[str, tuple[str, ...]]] = []
        for name in request.names:
            if name not in self._table.wanted:
                request.accept(name, name)
                continue
            address = self._table.forget(name)
            shared = address is not None and address in self._table.by_address
            if shared or not self.attached:
                request.accept(name, address or name)
                if address is not None and not shared:
                    self._table.drop_unwanted((address,))
            else:
                entries.append((address or name, (name,)))
        self.exchanges.put("unsubscribe", entries, [request])
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

    def known(self, exchange: Exchange) -> dict[str, int]:
        """The versions of the tokens in ``exchange`` that were applied, for ``known`` (I-55)."""
        if exchange.action != "subscribe":
            return {}
        return self._table.known(exchange.wire, with_value=not self._has_channel)

    # --- answers ----------------------------------------------------------------------------------------------

    def reply(self, data: ExtendedSubscriptionData, now: int, *, replayed: bool) -> str | None:
        """A subscription message of the server; what is wrong with it, if that is no answer to anything asked.

        A replay answers what an earlier process asked, too.
        """
        if any(len(token) > MAX_TOKEN_NAME_CHARS for token in data.tokens):
            return "a subscription reply with a token that is too long"
        exchange = self.exchanges.match(data)
        is_repeated = exchange is not None and exchange.has_half(data)
        if exchange is not None and not is_repeated and exchange.contradicts(data):
            self.unsettled = True
            return "a subscription reply that contradicts its request, or the half before it"
        unknown = exchange is None and data.status == "success" and not all(map(self._is_known, data.tokens))
        if unknown and not self.exchanges.is_asked(data) and not replayed:
            return "a subscription reply to nothing that was asked"
        if data.status == "success" and data.action == "subscribe":
            self._hold(data.tokens)
        elif data.status == "success":
            self.held.difference_update(data.tokens)
            self._table.drop_unwanted(data.tokens)
        if exchange is None:
            self.unsettled = True
            return None
        if not is_repeated:
            exchange.reply(data)
        if is_repeated or exchange.is_complete:
            self._finish(exchange, now)
        else:
            self.exchanges.await_rest(exchange, now)
        return None

    def _is_known(self, token: str) -> bool:
        return token in self._table.by_address or token in self._table.tokens or token in self.held

    def _hold(self, tokens: Iterable[str]) -> None:
        """The server holds ``tokens``; of what nobody wants only so many are remembered, to be given back."""
        room = len(self._table.wanted) + MAX_BATCH
        for token in tokens:
            if token in self._table.by_address or (len(self.held) < room and len(token) <= MAX_TOKEN_NAME_CHARS):
                self.held.add(token)

    def error(self, data: ExtendedErrorData, now: int) -> tuple[str, ...]:
        """An error message of the server; the application's names for what it concerns."""
        exchange = self.exchanges.match_error(data)
        if exchange is None:
            return self._names(None, [] if data.tokens is UNSET else data.tokens)
        names = self._names(exchange, exchange.error(data))
        if exchange.refused is not None and exchange.is_complete:
            self._finish(exchange, now)
        return names

    def _names(self, exchange: Exchange | None, tokens: Iterable[str]) -> tuple[str, ...]:
        wire = {} if exchange is None else {echo(token): names for token, names in exchange.wire.items()}
        found: dict[str, None] = {}
        for token in tokens:
            found.update(dict.fromkeys(wire.get(token) or self._table.names_of(token)))
        return tuple(found)

    def progress(self, now: int) -> None:
        """Another numbered message came than an answer."""
        for exchange in self.exchanges.passed(now):
            self._finish(exchange, now)

    def _finish(self, exchange: Exchange, now: int) -> None:
        """Everything that will be answered is: bind names to addresses, pass on refusals, ask again for the rest."""
        self.exchanges.finish(exchange)
        self.unsettled = True
        refused = exchange.refused or {}
        accepted = exchange.accepted or []
        remaining = [token for token in exchange.wire if echo(token) not in refused]
        pairs: dict[str, str]
        if len(remaining) == len(accepted):
            pairs = dict(zip(remaining, accepted, strict=True))
        else:
            pairs = self._guess(exchange, remaining, accepted)
        for token, address in pairs.items():
            self._accept(exchange, token, address)
        for token in exchange.wire:
            if echo(token) in refused:
                self._refuse(exchange, token, exchange.codes.get(echo(token), REJECTED), now)
        open_ones = [token for token in remaining if token not in pairs]
        if len(exchange.wire) > 1:
            self.exchanges.ask_apart(exchange, open_ones)
        else:
            for token in open_ones:
                self._refuse(exchange, token, REJECTED, now)
        self.prune()

    def _guess(self, exchange: Exchange, remaining: list[str], accepted: list[str]) -> dict[str, str]:
        """Two names meant one token, or a half of the answer is missing: only what is certain."""
        listed = set(accepted)
        pairs: dict[str, str] = {}
        for token in remaining:
            if token in listed:
                pairs[token] = token
                continue
            addresses = {
                wanted.address for name in exchange.wire[token] if (wanted := self._table.wanted.get(name)) is not None
            }
            if len(addresses) == 1 and (address := addresses.pop()) is not None and address in listed:
                pairs[token] = address
        if len(exchange.wire) == 1 and len(remaining) == 1 and accepted and not pairs:
            pairs[remaining[0]] = accepted[0]
        return pairs

    def _accept(self, exchange: Exchange, token: str, address: str) -> None:
        for name in exchange.wire[token]:
            if exchange.action == "subscribe":
                bound = self._table.bind(name, address)
                if bound is not None:
                    bound.expects_snapshot = True
            for request in exchange.requests:
                request.accept(name, address)

    def _refuse(self, exchange: Exchange, token: str, code: str, now: int) -> None:
        if exchange.action == "subscribe" and code in _NO_TOKEN:
            by_name = [name for name in exchange.wire[token] if name != token and name in self._table.wanted]
            if by_name:  # the address is not valid any more, but the name may be
                for name in by_name:
                    self._table.unbind(name)
                self.exchanges.put("subscribe", [(name, (name,)) for name in by_name], list(exchange.requests))
                return
        for name in exchange.wire[token]:
            if exchange.action == "subscribe" and (wanted := self._table.wanted.get(name)) is not None:
                if wanted.confirmed:
                    self.refusals.add(wanted, code, now)
                elif may_pass(code):
                    wanted.refused = code
                else:
                    self._table.forget(name)
            for request in exchange.requests:
                request.reject(name, code)

    # --- time -------------------------------------------------------------------------------------------------

    def deadline(self) -> int | None:
        """When :meth:`handle_timer` has something to do."""
        due, again = self.exchanges.deadline(self.reply_timeout_ms), self.refusals.due
        return again if due is None else due if again is None else min(due, again)

    def handle_timer(self, now: int) -> None:
        """Finishes answers that stay incomplete, repeats what stays unanswered, and in the end gives up on it."""
        due = self.exchanges.due(now, self.reply_timeout_ms)
        for exchange in due:
            if exchange.partial_ms is not None:
                self._finish(exchange, now)
        for exchange in self.exchanges.give_up(exchange for exchange in due if exchange.partial_ms is None):
            error = RequestError(
                "REPLY_TIMEOUT",
                f"no answer to {exchange.action} in {self.reply_timeout_ms} ms, tried {exchange.misses} times",
                "What was to be subscribed is asked for again after the next reconnect.",
            )
            for request in exchange.requests:
                request.fail(error)
            self.unsettled = True
        if due:
            self.prune()
        if self.refusals.due is not None and now >= self.refusals.due:
            self.refusals.due = None
            self._ask_refused()

    def _ask_refused(self) -> None:
        """Asks once more for what was accepted before and is refused now."""
        again: dict[str, tuple[str, ...]] = {}
        for name, wanted in self._table.wanted.items():
            if wanted.confirmed and wanted.refused is not None:
                wanted.refused = None
                token = wanted.address or name
                again[token] = (*again.get(token, ()), name)
        self._ask(again.items())

    # --- sessions ---------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.exchanges.clear()
        self._settled.clear()

    def begin(self, restored: Iterable[str]) -> None:
        """A new session, in which the server holds ``restored``: ask for everything else that is wanted."""
        self._clear()
        self.refusals.restart()
        self.attached = True
        self.unsettled = False
        table = self._table
        self.held = set()
        self._hold(restored)
        extra = [address for address in self.held if address not in table.by_address]
        table.drop_unwanted(list(table.tokens))
        table.expect_snapshots()
        requests = list(self._unfinished)
        for request in requests:
            self._carry_over(request)
        self.exchanges.put("unsubscribe", [(address, ()) for address in extra], [])
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
            elif name not in self._table.wanted:
                request.reject(name, CANCELLED)

    def _ask(self, entries: Entries) -> None:
        """Subscribes entries, each on behalf of the unfinished requests that wait for one of its names."""
        by_name: dict[str, list[Request]] = {}
        for request in self._unfinished:
            if request.action == "subscribe":
                for name in request.waiting:
                    by_name.setdefault(name, []).append(request)
        for token, names in entries:
            self.exchanges.put("subscribe", [(token, names)], [one for name in names for one in by_name.get(name, ())])

    def resume(self, held: Iterable[str] | None) -> None:
        """The session goes on; ``held`` is what it holds by the server's word, None when it does not say."""
        self._settled.clear()
        self.attached = True
        self.unsettled = True
        if held is not None:
            self.held = set()
            self._hold(held)
            for address in self.held:
                for name in self._table.by_address.get(address, ()):
                    self._table.bind(name, address)

    def detach(self) -> None:
        """There is no session and none to resume: wishes are kept until there is one."""
        self.attached = False
        self._clear()
        self.refusals.restart()
        self.held.clear()

    def repair(self) -> None:
        """Subscribes everything that is held and wanted once more, so that its values are sent again."""
        held = ((address, tuple(names)) for address, names in self._table.by_address.items() if address in self.held)
        self._table.expect_snapshots()
        self.exchanges.put("subscribe", list(held), [])

    def settle(self) -> None:
        """Nothing is on its way: ask for what is wanted and not held, give back what is held and not wanted.

        What is held, but by a value that only an earlier process saw, is asked for too: its value is sent again.
        Each at most once for a connection and request of the application, so that a server that answers nonsense is
        not asked for ever.
        """
        self.unsettled = False
        table = self._table
        extra = [address for address in self.held if address not in table.by_address]
        self.exchanges.put("unsubscribe", [(one, ()) for one in self._once("unsubscribe", extra)], [])
        missing: dict[str, tuple[str, ...]] = {}
        for name, wanted in table.wanted.items():
            if wanted.refused is not None:
                continue
            if wanted.address is None or wanted.address not in self.held or table.is_blank(wanted.address):
                token = wanted.address or name
                missing[token] = (*missing.get(token, ()), name)
        self._ask([(token, missing[token]) for token in self._once("subscribe", missing)])

    def _once(self, action: Verb, tokens: Iterable[str]) -> Iterator[str]:
        for token in list(tokens):
            if (action, token) not in self._settled:
                self._settled.add((action, token))
                yield token
