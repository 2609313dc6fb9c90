"""The tokens that are wanted, by the application's names and by address, with their newest values."""

from collections.abc import Iterable, Iterator, Mapping

from tokenwire.events import Quote

__all__ = ["LatestValues", "Token", "TokenTable", "Wanted"]


class Token:
    """A subscribed token. ``version`` is the last one applied; ``expects_snapshot``: its next value is a Snapshot.

    ``restored``: it is from a checkpoint, so its value was taken by an earlier process and is not at hand here.
    """

    __slots__ = ("address", "expects_snapshot", "name", "quote", "restored", "version")

    def __init__(self, address: str, name: str, version: int | None = None) -> None:
        self.address = address
        self.name = name
        self.version = version
        self.quote: Quote | None = None
        self.expects_snapshot = True
        self.restored = False


class Wanted:
    """A name the application subscribed. ``refused``: the code of a refusal that may pass.

    ``confirmed``: the server accepted it once. ``told``: the refusal of it that the application knows of.
    """

    __slots__ = ("address", "confirmed", "name", "refused", "told")

    def __init__(self, name: str, address: str | None = None) -> None:
        self.name = name
        self.address = address
        self.refused: str | None = None
        self.confirmed = False
        self.told: str | None = None


class TokenTable:
    """Wanted names and known tokens. Several names may mean one token; it is kept as long as one of them is wanted.

    ``tokens`` is by address and holds what is delivered: a token leaves it only when nobody wants it any more and the
    server confirmed that.
    """

    __slots__ = ("by_address", "tokens", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[str, Wanted] = {}
        self.tokens: dict[str, Token] = {}
        self.by_address: dict[str, dict[str, None]] = {}

    def want(self, name: str) -> Wanted:
        """The application wants ``name``."""
        wanted = self.wanted.get(name)
        if wanted is None:
            wanted = self.wanted[name] = Wanted(name)
            token = self.tokens.get(name)
            if token is not None:  # an exact address that was given up a moment ago: its value is news again
                token.version = None
                token.expects_snapshot = True
                self.bind(name, name)
        wanted.refused = None
        return wanted

    def forget(self, name: str) -> str | None:
        """The application does not want ``name`` any more; its address if it is known."""
        wanted = self.wanted.pop(name, None)
        if wanted is None:
            return None
        self._unbind(wanted)
        return wanted.address

    def unbind(self, name: str) -> None:
        """The address of ``name`` is not valid any more."""
        wanted = self.wanted.get(name)
        if wanted is not None:
            self._unbind(wanted)
            wanted.address = None

    def _unbind(self, wanted: Wanted) -> None:
        if wanted.address is None:
            return
        names = self.by_address.get(wanted.address)
        if names is not None:
            names.pop(wanted.name, None)
            if not names:
                del self.by_address[wanted.address]
            elif (token := self.tokens.get(wanted.address)) is not None and token.name == wanted.name:
                token.name = next(iter(names))

    def bind(self, name: str, address: str) -> Token | None:
        """The server said that ``name`` is the token ``address``; None when nobody wants the name any more."""
        wanted = self.wanted.get(name)
        if wanted is None:
            return None
        if wanted.address != address:
            self._unbind(wanted)
            wanted.address = address
        wanted.confirmed = True
        wanted.refused = wanted.told = None
        names = self.by_address.setdefault(address, {})
        names[name] = None
        token = self.tokens.get(address)
        if token is None:
            token = self.tokens[address] = Token(address, next(iter(names)))
        elif token.name not in names:
            token.name = name
        return token

    def adopt(self, address: str) -> Token | None:
        """The token of a value that came before the answer to its subscribe, when ``address`` itself is wanted."""
        return self.bind(address, address)

    def drop_unwanted(self, addresses: Iterable[str]) -> None:
        """The server confirmed that these are not subscribed (any more)."""
        for address in addresses:
            if address not in self.by_address:
                self.tokens.pop(address, None)

    def expect_snapshots(self) -> None:
        """The next value of every token is a snapshot."""
        for token in self.tokens.values():
            token.expects_snapshot = True

    def forget_versions(self) -> None:
        """Another stream: versions cannot be compared with those of before."""
        for token in self.tokens.values():
            token.version = None

    def known(self, addresses: Iterable[str], *, with_value: bool = True) -> dict[str, int]:
        """The last versions of ``addresses`` that were applied, as far as their values are at hand (if they are to)."""
        found = ((address, self.tokens.get(address)) for address in addresses)
        return {
            address: token.version
            for address, token in found
            if token is not None and token.version is not None and (token.quote is not None or not with_value)
        }

    def is_blank(self, address: str) -> bool:
        """Only an earlier process saw the value of ``address``."""
        token = self.tokens.get(address)
        return token is not None and token.restored and token.quote is None

    def names_of(self, token: str) -> tuple[str, ...]:
        """What the application calls ``token``, an address or a name; itself when it is not known."""
        names = self.by_address.get(token)
        return tuple(names) if names else (token,)


class LatestValues(Mapping[str, Quote]):
    """The newest applied value of each token, by address and by every name used; read-only and always current."""

    __slots__ = ("_table",)

    def __init__(self, table: TokenTable) -> None:
        self._table = table

    def __getitem__(self, key: str) -> Quote:
        table = self._table
        token = table.tokens.get(key)
        if token is None:
            wanted = table.wanted.get(key)
            if wanted is not None and wanted.address is not None:
                token = table.tokens.get(wanted.address)
        if token is None or token.quote is None:
            raise KeyError(key)
        return token.quote

    def __iter__(self) -> Iterator[str]:
        table = self._table
        for address, token in table.tokens.items():
            if token.quote is not None:
                yield address
        for name in table.wanted:
            if name not in table.tokens and name in self:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)
