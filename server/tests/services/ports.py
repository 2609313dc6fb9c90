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


def free_port() -> int:
    """A port that nobody listens on now and no outgoing connection takes later."""
    for _ in range(_TRIES):
        port = random.randint(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServiceError(f"no free port between {_LOWEST} and {_HIGHEST} on 127.0.0.1")
