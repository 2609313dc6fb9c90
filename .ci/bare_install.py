"""The base package alone: it imports few packages, connects, and resumes. Usage: ``bare_install.py PORT``."""

import sys

import tokenwire

loaded = {"asyncio", "websockets", "zstandard", "rich", "typer", "fastapi"} & sys.modules.keys()
assert not loaded, f"import tokenwire loads {loaded}"

import asyncio  # noqa: E402 - what comes before shows that it is not needed to import the package

from tokenwire import Resumed, Snapshot, TokenClient  # noqa: E402


async def main(port: int) -> None:
    """Subscribe, lose the connection, and be back in the same session."""
    async with TokenClient(f"ws://127.0.0.1:{port}") as client:
        answer = await client.subscribe(["DOGE"])
        assert list(answer.accepted) == ["DOGE"], answer
        async for event in client:
            if isinstance(event, Snapshot):
                print("connected:", event.quote.name, event.quote.price)
                client.drop_connections()
            elif isinstance(event, Resumed):
                print("resumed after", event.outage_ms, "ms")
                return


print("tokenwire", tokenwire.__version__)
asyncio.run(asyncio.wait_for(main(int(sys.argv[1])), 60))
