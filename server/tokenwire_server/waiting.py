"""A database that can't be had yet is waited for, and who asks how that is gets an answer meanwhile."""

import asyncio
from pathlib import Path
from typing import Final

from tokenwire_server.command_progress import stopping
from tokenwire_server.errors import AwayError
from tokenwire_server.history.service import KeptHistory, open_history
from tokenwire_server.ports import PartState
from tokenwire_server.roles import RoleAnswers, RoleStatus, build_role_metrics, instance_of, serve_health
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import get_log

__all__ = ["open_when_there"]

_log = get_log(__name__)

FIRST_RETRY_S: Final = 0.25
MAX_RETRY_S: Final = 5.0


async def open_when_there(
    settings: Settings,
    role: str,
    data: Path | None = None,
    *,
    port: int | None,
    flag: str,
    limit_s: float | None = None,
) -> KeptHistory | None:
    """As :func:`~tokenwire_server.history.service.open_history`, again and again while the database can't be reached
    or refuses. Meanwhile ``/health``, ``/ready`` and ``/metrics`` are answered on ``port``, which ``flag`` names (None:
    nowhere), by TLS where the settings say so.

    Raises:
        AwayError: Ctrl-C, SIGTERM or ``limit_s`` ended the waiting.
        UserError: as of ``open_history``, or the port can't be had.
    """
    try:
        return await open_history(settings, data)
    except AwayError as error:
        away = error
    status = RoleStatus(role, instance_of(settings), ("history",))
    metrics = build_role_metrics(status, None)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + limit_s if limit_s is not None else None
    tls = (settings.tls_cert, settings.tls_key) if role == "run" else (None, None)
    retry_s = FIRST_RETRY_S
    try:
        with stopping() as stop:
            async with serve_health(RoleAnswers(status, metrics), settings.host, port, flag, tls) as url:
                _log.info("waiting for the database", **({"ready": f"{url}ready"} if url else {}))
                while True:
                    status.tell("history", PartState.FAILING, str(away))
                    rest_s = retry_s if until_s is None else min(retry_s, until_s - loop.time())
                    try:
                        async with asyncio.timeout(max(0.0, rest_s)):
                            await stop.wait()
                    except TimeoutError:
                        pass
                    if stop.is_set() or (until_s is not None and loop.time() >= until_s):
                        raise away
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
                    try:
                        kept = await open_history(settings, data)
                    except AwayError as error:
                        away = error
                        continue
                    if not stop.is_set():
                        return kept
                    if kept is not None:  # the signal came in the last moment
                        await kept.close()
                    raise away
    finally:
        metrics.shutdown()
