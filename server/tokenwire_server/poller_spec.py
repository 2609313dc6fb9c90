"""What is polled, as text: ``dexscreener:ADDRESS,ADDRESS``, ``dexscreener:search=QUERY`` or ``jupiter:MINT,MINT``.

Each may end in ``@URL``, the base URL of the API. A DexScreener address may name its chain, as on the wire:
``ethereum:0x…``; without one, the token is meant on every chain that knows the address.
"""

import re
from typing import Final

__all__ = ["MAX_POLLED_TOKENS", "MAX_QUERY_CHARS", "polled_tokens", "split_url"]

MAX_POLLED_TOKENS: Final = 1_000  # of one source: what the rates allow in an interval of 30 s
MAX_QUERY_CHARS: Final = 100

_URL: Final = re.compile(r"@(?=https?://)")
# Some chains' addresses have parts: 0x2::sui::SUI.
_ADDRESS: Final = re.compile(r"(?:[a-z][a-z0-9]{1,31}:)?[A-Za-z0-9_-]{2,128}(?:::[A-Za-z0-9_]{1,64}){0,2}")
_MINT: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}")


def split_url(argument: str) -> tuple[str, str]:
    """What stands before ``@http…``, and the URL; empty if there is none.

    Raises:
        ValueError: in one line, for an ``@`` without such a URL.
    """
    listed, *urls = _URL.split(argument, maxsplit=1)
    if urls:
        return listed, urls[0]
    if "@" in argument and not argument.startswith("search="):
        raise ValueError(f"{argument.partition('@')[2]!r} is not a URL of an API; it looks like https://HOST")
    return argument, ""


def polled_tokens(kind: str, listed: str) -> tuple[tuple[str, ...], str]:
    """The tokens, each once, and the search instead of them, if it is one.

    Raises:
        ValueError: in one line, for none, too many, or one that is no address there.
    """
    if kind == "dexscreener" and listed.startswith("search="):
        query = listed.removeprefix("search=").strip()
        if not query or len(query) > MAX_QUERY_CHARS or not query.isprintable():
            raise ValueError(f"a search has 1 to {MAX_QUERY_CHARS} characters: dexscreener:search=SOL/USDC")
        return (), query
    tokens = tuple(dict.fromkeys(token.strip() for token in listed.split(",") if token.strip()))
    if not tokens:
        forms = {"dexscreener": "dexscreener:ADDRESS,ADDRESS or dexscreener:search=QUERY"}
        raise ValueError(f"{kind} needs tokens: {forms.get(kind, 'jupiter:MINT,MINT')}")
    if len(tokens) > MAX_POLLED_TOKENS:
        raise ValueError(f"{kind} takes at most {MAX_POLLED_TOKENS} tokens, not {len(tokens)}")
    pattern, what = (_ADDRESS, "token address") if kind == "dexscreener" else (_MINT, "mint of a Solana token")
    for token in tokens:
        if not pattern.fullmatch(token):
            raise ValueError(f"{token[:MAX_QUERY_CHARS]!r} is not a {what}")
    return tokens, ""
