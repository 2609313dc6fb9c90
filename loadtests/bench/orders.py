"""What a process is told by the one that started it."""

import asyncio
import sys

__all__ = ["line"]


async def line() -> str:
    """The next line of standard input."""
    text: str = await asyncio.to_thread(sys.stdin.readline)
    return text.strip()
