"""What starts the client under test, and the lines that it prints.

A client may print one JSON object a line to its standard output; then it is judged on these events, too:

    {"event": "state", "state": "CONNECTING"}                  each change of the connection's state
    {"event": "update", "address": "…", "price": "1.5"}        each value that reaches the application
    {"event": "gap", "from": 5, "to": 7}                       numbers that are lost (from and to may be null)
    {"event": "error", "code": "…", "level": "warning"}        each error message

Other lines and further fields are ignored.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["Event", "ExecLauncher", "LaunchError", "Launched", "Launcher", "event_of"]

_MAX_LINE_BYTES: Final = 1_048_576
_STOP_S: Final = 3.0
_KEPT_LINES: Final = 40
_PLACEHOLDER: Final = re.compile(r"\{url\}|\{tokens\}|\{case\}")


class LaunchError(Exception):
    """The client cannot be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line that the client printed."""

    at_s: float
    """On the loop's clock."""
    kind: str
    fields: dict[str, Any]


class Launched(Protocol):
    """A running client."""

    @property
    def exit_status(self) -> int | None:
        """What it exited with; ``None`` while it runs."""
        ...

    def complaint(self) -> str:
        """The end of what it printed to its standard error, for a report."""
        ...

    async def stop(self) -> None:
        """End it, by force if need be."""


class Launcher(Protocol):
    """Starts clients."""

    names_tokens: bool
    """Whether the client can be told which tokens to subscribe to."""

    def __call__(
        self, url: str, tokens: tuple[str, ...], case_id: str, emit: Callable[[str], None]
    ) -> Awaitable[Launched]:
        """Start a client of ``url``; each line that it prints goes to ``emit``.

        Raises:
            LaunchError: It does not start.
        """
        ...


def event_of(line: str, at_s: float) -> Event | None:
    """The event that a line of output stands for, if it is one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return None
    return Event(at_s, value["event"], value)


class ExecLauncher:
    """Starts a command. ``{url}``, ``{tokens}`` (separated by commas) and ``{case}`` stand for what their name says."""

    def __init__(self, command: str) -> None:
        """Read the command as a shell would read its words; no shell runs it.

        Raises:
            LaunchError: An unclosed quote, no ``{url}``, or no such program.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise LaunchError(f"the command cannot be read: {error}") from error
        if not any("{url}" in word for word in self._words):
            raise LaunchError("the command has no {url}, for example: --exec 'node client.mjs {url} {tokens}'")
        if shutil.which(self._words[0]) is None:
            raise LaunchError(f"there is no program {self._words[0]!r}")
        self.names_tokens = any("{tokens}" in word for word in self._words)

    async def __call__(self, url: str, tokens: tuple[str, ...], case_id: str, emit: Callable[[str], None]) -> Launched:
        """Start the command."""
        fill = {"{url}": url, "{tokens}": ",".join(tokens), "{case}": case_id}
        words = [_PLACEHOLDER.sub(lambda match: fill[match[0]], word) for word in self._words]
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, limit=_MAX_LINE_BYTES, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise LaunchError(f"{words[0]} does not start: {error.strerror or error}") from error
        return _Process(process, emit)


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, emit: Callable[[str], None]) -> None:
        self._process = process
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(_lines(process.stdout, emit)),
            asyncio.create_task(_lines(process.stderr, self._errors.append)),
        ]

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode

    def complaint(self) -> str:
        return "\n".join(self._errors)

    async def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            # The client's own children are in its process group, which was made for it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP_S)
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


async def _lines(stream: asyncio.StreamReader, emit: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the limit: asyncio has thrown it away
            continue
        if not line:
            return
        emit(line.decode("utf-8", "replace").rstrip("\r\n"))
