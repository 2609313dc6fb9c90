"""All roles at once over real engines: each exposes what alerts and dashboards ask of it."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from ..deploy.metrics import ROLES_METRICS, lacking
from ..services.kafka import Kafka
from ..services.postgres import Postgres
from .role_process import RoleProcess, environment, until
from .test_processor import topics_named

ARGUMENTS = {"collect": ("--source", "simulator"), "gateway": ("--port", "0", "--drain", "0")}


async def lacks(role: str, process: RoleProcess) -> list[str]:
    async with aiohttp.ClientSession() as client, client.get(f"{process.url}metrics") as reply:
        return lacking(await reply.text(), ROLES_METRICS[role])


@pytest.mark.proof(only=True)
def test_each_role_exposes_what_is_asked_of_it(
    kafka: Kafka, postgres: Postgres, database: str, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        variables = environment(kafka, topics_named(unique), postgres, database)
        roles = {role: RoleProcess(role, variables, tmp_path / role, ARGUMENTS.get(role, ())) for role in ROLES_METRICS}
        try:
            for process in roles.values():
                await process.start()

            async def is_complete(role: str, process: RoleProcess) -> bool:
                return not await lacks(role, process) and (await process.ready())["ready"]

            for role, process in roles.items():
                try:
                    await until(lambda role=role, process=process: is_complete(role, process))
                except AssertionError:
                    pytest.fail(f"{role}: {await lacks(role, process)} {await process.ready()}")
            for role, process in roles.items():
                assert await process.metric("tokenwire_role_ready") == 1
                assert await process.end(signal.SIGTERM) == 0, role
                assert "Traceback" not in process.said()
        finally:
            for process in roles.values():
                await process.end()

    asyncio.run(scenario())
