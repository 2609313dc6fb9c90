"""What to ask DexScreener: tokens by address, 30 at a time, or one search.

An answer holds at most 30 pairs, and a well-known token alone has as many: others of its batch are then missing.
Those are asked for again, without the ones that were found, as long as that brings somebody new.
"""

from collections.abc import Sequence
from typing import Final

from tokenwire_server.sources.dexscreener_format import Pair, identity, read_pairs, tokens_of
from tokenwire_server.sources.frames import FormatError
from tokenwire_server.sources.poller_findings import Answer, Findings, Question, Steps, batches

__all__ = ["ADDRESSES_PER_REQUEST", "DEFAULT_URL", "DexScreener"]

DEFAULT_URL: Final = "https://api.dexscreener.com"
REQUESTS_PER_MINUTE: Final = 300
ADDRESSES_PER_REQUEST: Final = 30
FULL_ANSWER_PAIRS: Final = 30


class DexScreener:
    """The API. ``addresses`` are token addresses: with a chain (``ethereum:0x…``) the token of that chain, without
    one the token of every chain that knows the address. ``search`` is a query instead."""

    requests_per_minute = REQUESTS_PER_MINUTE

    def __init__(self, addresses: Sequence[str] = (), search: str = "") -> None:
        self._search = search
        self._by_chain: dict[str, list[str]] = {}
        for address in addresses:
            chain, _, bare = address.partition(":")
            if not bare or bare.startswith(":"):  # no chain; some addresses have colons of their own
                chain, bare = "", address
            asked = self._by_chain.setdefault(chain, [])
            if identity(bare) not in map(identity, asked):
                asked.append(bare)

    @property
    def headers(self) -> dict[str, str]:
        """None: the API takes no key."""
        return {}

    def cycle(self, source: str, findings: Findings) -> Steps:
        """Ask for everything once."""
        if self._search:
            answer = yield Question("/latest/dex/search", (("q", self._search),))
            pairs = _read(answer, findings)
            if answer is not None and pairs is not None:
                findings.facts += tokens_of(pairs, source, answer.heard_ms)
        for chain, addresses in self._by_chain.items():
            path = f"/tokens/v1/{chain}/" if chain else "/latest/dex/tokens/"
            for batch in batches(addresses, ADDRESSES_PER_REQUEST):
                yield from _ask(path, {identity(address): address for address in batch}, source, findings)


def _ask(path: str, waiting: dict[str, str], source: str, findings: Findings) -> Steps:
    """Ask for the tokens that are waiting, until all are found or asking again brings no more."""
    while waiting:
        answer = yield Question(path + ",".join(waiting.values()))
        pairs = _read(answer, findings)
        if answer is None or pairs is None:
            return
        facts = tokens_of(pairs, source, answer.heard_ms, waiting.keys())
        findings.facts += facts
        for fact in facts:
            waiting.pop(fact.address, None)
        if not facts or len(pairs) < FULL_ANSWER_PAIRS:
            findings.missing += len(waiting)
            return


def _read(answer: Answer | None, findings: Findings) -> list[Pair] | None:
    """The answer's pairs; None if there is no answer or it is none of DexScreener's."""
    if answer is None:
        return None
    try:
        pairs, refused = read_pairs(answer.document)
    except FormatError as error:
        findings.reject_answer(error)
        return None
    for refusal in refused:
        findings.reject(refusal)
    return pairs
