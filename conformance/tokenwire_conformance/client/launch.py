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
_LAST_WORDS_S: Final = 0.2
_KEPT_LINES: Final = 10
_KEPT_CHARS: Final = 300
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

    async def over(self) -> None:
        """Wait until it has exited and everything that it printed was read."""

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
            there = os.path.isfile(self._words[0])
            why = f"{self._words[0]} is not executable" if there else f"there is no program {self._words[0]}"
            raise LaunchError(why)
        self.names_tokens = any("{tokens}" in word for word in self._words)

    async def __call__(self, url: str, tokens: tuple[str, ...], case_id: str, emit: Callable[[str], None]) -> Launched:
        """Start the command."""
        fill = {"{url}": url, "{tokens}": ",".join(tokens), "{case}": case_id}
        words = [_PLACEHOLDER.sub(lambda match: fill[match[0]], word) for word in self._words]
        # Pipes of the suite's own: a process of asyncio's that has exited counts as running as long as one of its
        # children holds its output.
        out, err = os.pipe(), os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=out[1], stderr=err[1], start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            os.close(out[0])
            os.close(err[0])
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise LaunchError(f"{words[0]} does not start: {text}") from error
        finally:
            os.close(out[1])
            os.close(err[1])
        running = _Process(process)
        await running.read(out[0], emit)
        await running.read(err[0], running.complain)
        return running


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        self._readers: list[asyncio.Task[None]] = []
        self._pipes: list[asyncio.ReadTransport] = []

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode

    def complaint(self) -> str:
        return "\n".join(self._errors)

    def complain(self, line: str) -> None:
        """A line of its standard error."""
        if line.strip():
            self._errors.append(line[:_KEPT_CHARS])

    async def read(self, pipe: int, emit: Callable[[str], None]) -> None:
        """Hand each line of the pipe to ``emit`` from now on."""
        reader = asyncio.StreamReader(_MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0)
        )
        self._pipes.append(transport)
        self._readers.append(asyncio.create_task(_lines(reader, emit)))

    async def over(self) -> None:
        await self._process.wait()
        await asyncio.wait(self._readers)

    async def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            # The client's own children are in its process group, which was made for it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP_S)
        await asyncio.wait(self._readers, timeout=_LAST_WORDS_S)
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for pipe in self._pipes:  # a child in a process group of its own may still hold the other end
            pipe.close()


async def _lines(stream: asyncio.StreamReader, emit: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the limit: asyncio has thrown it away
            continue
        if not line:
            return
        emit(line.decode("utf-8", "replace").rstrip("\r\n"))
