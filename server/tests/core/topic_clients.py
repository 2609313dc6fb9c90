"""Clients that hold channels, and the numbers of what they got."""

from typing import Any

from .conftest import Bench, Client

__all__ = ["CAPS", "ask", "numbers"]

CAPS = "batch,channels,details,resume"


def numbers(messages: list[dict[str, Any]], kind: str = "transaction") -> list[tuple[str, int]]:
    return [
        (item["address"], item["version"])
        for message in messages
        if message["type"] in (kind, f"{kind}_batch")
        for item in message["data"].get("transactions", [message["data"]])
    ]


def ask(bench: Bench, *channels: str, caps: str = CAPS, tokens: tuple[str, ...] = ("token0",)) -> Client:
    client, _ = bench.ask(caps)
    client.subscribe(*tokens, channels=list(channels))
    bench.now += 250  # a state is due again
    return client
