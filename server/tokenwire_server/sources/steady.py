"""A clock that nobody sets."""

import asyncio

__all__ = ["steady_ms"]


def steady_ms() -> int:
    """That of the running event loop: ms from wherever it begins."""
    return int(asyncio.get_running_loop().time() * 1_000)
