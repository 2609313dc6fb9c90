"""The command ``tokenwire``: watch prices, list trades, bars and tokens, and find out what is wrong with a connection.

Exit status: 0 it worked, 1 the server or the network did not, 2 the command line is wrong, 130 Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from tokenwire.aio import TokenClient
from tokenwire.doctor import Finding, examine
from tokenwire.errors import ConnectionFailedError, SubscriptionError, TokenwireError
from tokenwire.events import Event, Snapshot, Update
from tokenwire.market_cli import COMMANDS, add_commands, run
from tokenwire.url import ENDPOINT, InvalidUrlError, endpoint_url
from tokenwire.watch import Board, escaped, json_line, printable, render, text_line

__all__ = ["main"]

_DEFAULT_URL: Final = f"ws://127.0.0.1:8080{ENDPOINT}"
_REFRESH_S: Final = 0.25
_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
_TOKEN_VARIABLE, _URL_VARIABLE = "TOKENWIRE_TOKEN", "TOKENWIRE_URL"

_TOP: Final = """\
examples:
  tokenwire watch DOGE PEPE                     a table that stays in place, until Ctrl-C
  tokenwire watch DOGE --json --count 5         five values, one JSON object a line
  tokenwire watch DOGE --json | jq -r '.price // empty'   only the prices
  tokenwire klines DOGE --interval 5m           the newest bars
  tokenwire trades DOGE --follow                every trade, without a hole
  tokenwire tokens --sort marketCap             what there is
  tokenwire doctor wss://example.org DOGE       which step of a connection does not work

Credentials come from a file (--token-file) or the variable TOKENWIRE_TOKEN, never from the command line, where every
user of the machine could read them.
"""
_WATCH: Final = """\
One line an event with --json: {"event":"update","name":"DOGE","price":"0.1728",…}. Kinds of events: connected,
snapshot, update, reconnecting, resumed, gap, stale, error. Without a terminal, or without the extra "cli", plain lines
are printed in the place of the table.

examples:
  tokenwire watch DOGE PEPE --url wss://example.org
  tokenwire watch DOGE --json --count 10 > ten.jsonl
  tokenwire watch DOGE --every --duration 60    every version rather than the newest of each interval
"""
_DOCTOR: Final = """\
Steps: name, tcp, tls, handshake, what is granted, limits, compression, round trip and clock, and with a SYMBOL a
subscription and a resume, for which the socket is really cut. "ok" works, "--" works without an extension, "FAIL" does
not. The exit status is 1 if a step failed.

examples:
  tokenwire doctor ws://127.0.0.1:8080
  tokenwire doctor wss://example.org DOGE --token-file token.txt --json
"""


class _UsageError(Exception):
    """The command line cannot be carried out; the text says why."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line in ``argv`` (``sys.argv`` without the program unless given) and exit."""
    log = logging.getLogger("tokenwire")
    level = log.level
    log.setLevel(logging.ERROR)  # trouble is shown among the events
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        # A reader such as `head` has enough: a good end. Nothing more can be written, not even by the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    finally:
        log.setLevel(level)
    sys.exit(status)


def _run(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "doctor":
            return asyncio.run(_doctor(arguments))
        if arguments.command in COMMANDS:
            return asyncio.run(_market(arguments))
        return asyncio.run(_watch(arguments))
    except (_UsageError, InvalidUrlError) as error:
        return _complain(str(error), _USAGE)
    except SubscriptionError as error:
        return _complain(str(error), _FAILED)
    except ConnectionFailedError as error:
        return _complain(f"{error} (see: tokenwire doctor {arguments.url})", _FAILED)
    except TokenwireError as error:
        return _complain(str(error), _FAILED)


def _complain(message: str, status: int) -> int:
    print(f"tokenwire: {printable(' '.join(message.split()))}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "tokenwire", description="Live token prices on the command line.", epilog=_TOP, formatter_class=raw
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--token-file", type=Path, metavar="FILE", help="file with the access token, one line")
    common.add_argument("--ca", type=Path, metavar="FILE", help="certificates (PEM) to trust instead of the system's")
    common.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    watch = commands.add_parser(
        "watch", parents=[common], help="show live prices", epilog=_WATCH, formatter_class=raw,
        description="Subscribe to tokens and show what comes.",
    )  # fmt: skip
    watch.add_argument("symbols", nargs="+", metavar="SYMBOL", help="symbol or address of a token")
    default = os.environ.get(_URL_VARIABLE, _DEFAULT_URL)
    watch.add_argument("--url", default=default, help=f"the server (default: ${_URL_VARIABLE} or {_DEFAULT_URL})")
    watch.add_argument("--count", type=_positive_int, metavar="N", help="end after N values")
    watch.add_argument("--duration", type=_seconds, metavar="S", help="end after S seconds")
    watch.add_argument("--every", action="store_true", help="ask for every version, not only the newest")
    watch.add_argument("--retries", type=_count, default=10, metavar="N", help="tries to reconnect (default: 10)")

    add_commands(commands, common, default, f"the server (default: ${_URL_VARIABLE} or {_DEFAULT_URL})")

    doctor = commands.add_parser(
        "doctor", parents=[common], help="say step by step what works", epilog=_DOCTOR, formatter_class=raw,
        description="Connect to a server and say step by step what works.",
    )  # fmt: skip
    doctor.add_argument("url", nargs="?", default=default, metavar="URL", help=f"the server (default: {_DEFAULT_URL})")
    doctor.add_argument("symbol", nargs="?", metavar="SYMBOL", help="a token, to try a subscription and a resume")
    return parser


async def _market(arguments: argparse.Namespace) -> int:
    await run(TokenClient(arguments.url, token=_credentials(arguments), ssl=_tls(arguments)), arguments)
    return 0


async def _watch(arguments: argparse.Namespace) -> int:
    client = TokenClient(
        arguments.url,
        token=_credentials(arguments),
        ssl=_tls(arguments),
        max_retries=arguments.retries,
        delivery="every" if arguments.every else "latest",
    )
    for symbol in arguments.symbols:
        if "://" in symbol:
            raise _UsageError(f"{symbol} is no token; name the server with --url {symbol}")
    board = Board(arguments.symbols)
    async with client, contextlib.AsyncExitStack() as stack:
        subscribing = asyncio.create_task(client.subscribe(arguments.symbols))
        stack.push_async_callback(_cancel, subscribing)
        events = _limited(client, subscribing, arguments.count, arguments.duration)
        if arguments.json:
            terminal = sys.stdout.isatty()
            async for event in events:
                print(json_line(event, terminal=terminal), flush=True)
        elif not sys.stdout.isatty() or not _has_rich():
            async for event in events:
                print(text_line(event), flush=True)
        else:
            await _table(client, board, events)
    return 0


async def _limited(
    client: TokenClient, subscribing: "asyncio.Task[object]", count: int | None, duration: float | None
) -> AsyncIterator[Event]:
    """The events until ``count`` values came or ``duration`` seconds passed.

    Raises:
        SubscriptionError: none of the names was accepted, so nothing would ever come.
        ConnectionFailedError: the client gave up.
    """
    values = 0
    deadline = None if duration is None else asyncio.get_running_loop().time() + duration
    reading: asyncio.Task[Event | None] | None = None
    waiting_for_answer = {subscribing}
    try:
        while count is None or values < count:
            reading = reading or asyncio.create_task(client.next_event())
            left = None if deadline is None else deadline - asyncio.get_running_loop().time()
            if left is not None and left <= 0:
                return
            done, _ = await asyncio.wait(
                {reading, *waiting_for_answer}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if reading in done:
                event, reading = reading.result(), None
                if event is None:
                    return
                values += isinstance(event, Update | Snapshot)
                yield event
            elif subscribing in done:
                waiting_for_answer = set()
                subscribing.result()
    finally:
        if reading is not None:
            await _cancel(reading)


async def _table(client: TokenClient, board: Board, events: AsyncIterator[Event]) -> None:
    from rich.live import Live  # noqa: PLC0415 - only the table needs it

    def draw() -> object:
        heading = {"state": client.state.value, "url": client.url}
        if board.capabilities is not None:
            heading["granted"] = ",".join(board.capabilities) or "nothing (strict v1.0)"
        return render(board, heading, time.time_ns() // 1_000_000)

    async def redraw() -> None:
        while True:
            live.update(draw(), refresh=True)  # type: ignore[arg-type]
            await asyncio.sleep(_REFRESH_S)

    with Live(auto_refresh=False) as live:
        drawing = asyncio.create_task(redraw())
        try:
            async for event in events:
                board.apply(event)
        finally:
            await _cancel(drawing)
            live.update(draw(), refresh=True)  # type: ignore[arg-type]


async def _doctor(arguments: argparse.Namespace) -> int:
    failed = False
    url = endpoint_url(arguments.url)
    if not arguments.json:
        print(f"examining {printable(url.partition('?')[0])}")
    findings = examine(url, arguments.symbol, credentials=_credentials(arguments), tls=_tls(arguments))
    async with contextlib.aclosing(findings):  # its socket is closed also when nobody reads on
        async for finding in findings:
            failed = failed or finding.ok is False
            line = escaped(msgspec.json.encode(finding).decode()) if arguments.json else _finding_line(finding)
            print(line, flush=True)
    if arguments.json:
        print(msgspec.json.encode({"step": "verdict", "ok": not failed}).decode())
    elif failed:
        print("verdict: this connection does not work; the step marked FAIL says why")
    else:
        hint = "" if arguments.symbol else "; name a token as well to try a subscription and a resume"
        print(f"verdict: this connection works{hint}")
    return _FAILED if failed else 0


def _finding_line(finding: Finding) -> str:
    mark = {True: "ok  ", False: "FAIL", None: "--  "}[finding.ok]
    elapsed = "" if finding.ms is None else f"  ({finding.ms:.1f} ms)"
    return f"{mark} {finding.step:<12} {printable(finding.text)}{elapsed}"


async def _cancel(task: "asyncio.Task[object]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401, PLC0415
    except ImportError:
        print("tokenwire: for a table that stays in place: pip install 'tokenwire[cli]'", file=sys.stderr)
        return False
    return True


def _credentials(arguments: argparse.Namespace) -> str | None:
    if arguments.token_file is None:
        return os.environ.get(_TOKEN_VARIABLE) or None
    try:
        token: str = arguments.token_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _UsageError(f"--token-file: {error}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise _UsageError(f"--token-file: {arguments.token_file} holds no token (one line of ASCII without spaces)")
    return token


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=arguments.ca)
    except (OSError, ssl.SSLError) as error:
        raise _UsageError(f"--ca: {arguments.ca} holds no certificate that can be read: {error}") from None


class _Version(argparse.Action):
    """Looks the version up only when asked: reading a distribution's metadata costs more than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"tokenwire {version('tokenwire')}")
        parser.exit()


def _positive_int(text: str) -> int:
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


if __name__ == "__main__":
    main()
