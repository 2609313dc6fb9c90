"""Ports of the loopback for engines that are stopped and started again."""

import random
import socket
from typing import Final

from .errors import ServiceError

__all__ = ["free_port"]

_LOWEST: Final = 20_000
# Below the range that connections take their own port from: while an engine is down nobody else gets its port, and a
# client that tries again and again can't end up connected to itself.
_HIGHEST: Final = 32_000
_TRIES: Final = 200
_random: Final = random.SystemRandom()  # one that no test seeds: test runs beside each other would draw the same
_given: Final[set[int]] = set()


def free_port() -> int:
    """A port that nobody listens on now, no outgoing connection takes later, and this process was not given before: its
    owner may be down for a moment."""
    for _ in range(_TRIES):
        port = _random.randint(_LOWEST, _HIGHEST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise ServiceError(f"no free port between {_LOWEST} and {_HIGHEST} on 127.0.0.1")
