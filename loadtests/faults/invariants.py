"""What must hold, whatever breaks: judged over a history, written once for every level.

:func:`judge` returns the violations, the most basic ones first. The rules are in :mod:`loadtests.faults.rules_server`
(what crossed the wire), :mod:`loadtests.faults.rules_client` (what the application saw) and
:mod:`loadtests.faults.rules_market` (trades and bars, whoever reads them); each is a function from an index of the
history to violations, named after what it holds up.
"""

from collections.abc import Callable, Iterable, Iterator

from loadtests.faults.history import Entry
from loadtests.faults.index import Index, Violation
from loadtests.faults.rules_client import CLIENT_RULES
from loadtests.faults.rules_market import MARKET_RULES
from loadtests.faults.rules_server import SERVER_RULES

__all__ = ["RULES", "Rule", "Violation", "judge"]

Rule = Callable[[Index], Iterator[Violation]]

RULES: dict[str, Rule] = {**SERVER_RULES, **CLIENT_RULES, **MARKET_RULES}
"""Every invariant by its name."""


def judge(history: Iterable[Entry], *, exact: bool = True, quiet: bool = True, limit: int = 20) -> list[Violation]:
    """At most ``limit`` violations of each rule.

    ``exact``: what the server wrote was recorded at the server, so nothing it numbered is unknown (a tap on a
    network misses what died in the server's own buffers). ``quiet``: the history ends in a period without faults,
    long enough for everything to settle.
    """
    index = Index(history, exact=exact, quiet=quiet)
    found: list[Violation] = []
    for rule in RULES.values():
        for count, violation in enumerate(rule(index)):
            if count >= limit:
                break
            found.append(violation)
    return found
