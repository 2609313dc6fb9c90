"""The command line. It imports nothing heavy before a command runs, so that ``--help`` answers at once."""

import contextlib
import importlib.metadata
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperGroup

from tokenwire_server.errors import UserError

__all__ = ["app", "one_of", "run_command"]

_PROGRAM: Final = "tokenwire-server"
_Choice = TypeVar("_Choice", bound=StrEnum)
_GROUP_OPTIONS: Final = frozenset({"--version", "--help"})

_ABOUT: Final = """Real-time token data over WebSocket (Token Data WebSocket Service v1.0).

[bold]Start it, then look at it:[/bold]

  tokenwire-server
      a simulated market on 127.0.0.1:8080
  wscat -c ws://127.0.0.1:8080/api/v1/ws/token-data
      connects; then paste this line, and prices of DOGE follow:
  {"type":"subscription","data":{"action":"subscribe","tokens":["DOGE"]}}

[bold]More examples:[/bold]

  tokenwire-server --port 9000 --update-interval 1
      another port, an update every second
  tokenwire-server --source binance:BTCUSDT,ETHUSDT
      live trades of an exchange
  tokenwire-server --source tape:trades.txt
      captured exchange frames instead of a live feed
  tokenwire-server --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
      wss and https, for everybody
  tokenwire-server serve-tape trades.txt
      plays the exchange; read it with --source binance:BTCUSDT@ws://127.0.0.1:8090
  tokenwire-server --data prices
      keep bars and trades over restarts; read them with
      tokenwire-server export --data prices -o bars.csv
  tokenwire-server record --source binance:BTCUSDT -o btc.jsonl.zst
      a tape; play it with replay, or serve it with --source tape:btc.jsonl.zst
  tokenwire-server collect --source binance:BTCUSDT --data prices
      bars and trades into a history, without clients
  tokenwire-server config
      every setting, its value and where the value comes from

Without a command, [bold]run[/bold] is meant: its options stand below. Each setting is
also an environment variable (TOKENWIRE_PORT, or PORT) or a line in .env;
a flag beats the environment, and that beats the file. Browsers find a live
page on /, the REST side on /docs, and the messages on /asyncapi.json.
"""


class _DefaultsToRun(TyperGroup):
    """``tokenwire-server --port 9000`` means ``tokenwire-server run --port 9000``, and help shows both."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in _GROUP_OPTIONS):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        run = self.get_command(ctx, "run")
        if run is not None:
            run.format_help(type(ctx)(run, info_name="run", parent=ctx), formatter)


app: Final = typer.Typer(
    cls=_DefaultsToRun,
    help=_ABOUT,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code.

    Raises:
        UserError: in one line, whatever the person who typed it can mend.
    """
    from tokenwire_server import cli_roles, cli_tapes  # noqa: F401, PLC0415 - their commands share the options below

    try:
        result = app(list(arguments), prog_name=_PROGRAM, standalone_mode=False)
    except Exception as error:
        # The class of usage errors moved between releases of typer; what makes one is its format_message().
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        raise UserError(f"{str(describe()).rstrip('.')}; see {_PROGRAM} --help") from None
    return result if isinstance(result, int) else 0


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{_PROGRAM} {importlib.metadata.version('tokenwire')}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Options that stand before a command."""


# Values arrive as text and are checked by Settings, which knows the bounds and says the same of every layer.
_Text = str | None
Host = Annotated[
    _Text, typer.Option("--host", metavar="ADDRESS", help="Address to listen on (127.0.0.1); 0.0.0.0 is everywhere.")
]
Port = Annotated[_Text, typer.Option("--port", metavar="PORT", help="TCP port (8080); 0 takes a free one.")]
Interval = Annotated[
    _Text,
    typer.Option("--update-interval", metavar="SECONDS", help="Time between updates of a token (5); 0.05 or more."),
]
Connections = Annotated[
    _Text, typer.Option("--max-connections", metavar="N", help="WebSocket connections at once (1000).")
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Where prices come from (simulator): simulator, tape:PATH, binance:SYM,SYM\\[@URL], "
        "dexscreener:ADDR,ADDR, dexscreener:search=QUERY, jupiter:MINT,MINT, "
        "probe\\[:TOKENS] (for load tests: prices tell when a tick was planned) or none. Repeat for several.",
    ),
]
Seed = Annotated[_Text, typer.Option("--seed", metavar="N", help="Makes the simulator repeatable.")]
TapeSpeed = Annotated[
    _Text,
    typer.Option("--tape-speed", metavar="FACTOR", help="Pace of tapes: 1 as recorded (1), 10 ten times, or max."),
]
Certificate = Annotated[
    _Text, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM; turns on wss and https.")
]
Key = Annotated[_Text, typer.Option("--tls-key", metavar="FILE", help="Private key of the certificate, PEM.")]
Drain = Annotated[
    _Text,
    typer.Option("--drain", metavar="SECONDS", help="A shutdown spreads its closes over this time (5)."),
]
Data = Annotated[
    _Text,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Keep bars and trades there, over restarts. Without it they are in memory only; with "
        "--source none in ./tokenwire-data.",
    ),
]
SocketIO = Annotated[
    bool, typer.Option("--socketio", help="Serve Socket.IO clients too, on /socket.io/; needs tokenwire\\[socketio].")
]
Level = Annotated[
    _Text,
    typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical (info)."),
]
Format = Annotated[_Text, typer.Option("--log-format", metavar="FORMAT", help="text or json (text).")]
EnvFile = Annotated[
    _Text,
    typer.Option("--env-file", metavar="FILE", help="Settings as NAME=value lines (.env, if there is one)."),
]


@app.command()
def run(
    host: Host = None,
    port: Port = None,
    update_interval: Interval = None,
    max_connections: Connections = None,
    source: Sources = None,
    seed: Seed = None,
    tape_speed: TapeSpeed = None,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    data: Data = None,
    drain: Drain = None,
    socketio: SocketIO = False,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: restart whenever the server's code changes.")
    ] = False,
) -> int:
    """Serve token data until interrupted (Ctrl-C, SIGTERM). This is the default command."""
    from tokenwire_server.settings import load  # noqa: PLC0415

    flags = _flags(locals())
    settings = load(flags, env_file=env_file)
    if reload:
        return _serve_reloading(flags, env_file)
    from tokenwire_server.app import serve  # noqa: PLC0415

    return serve(settings)


@app.command()
def config(
    host: Host = None,
    port: Port = None,
    update_interval: Interval = None,
    max_connections: Connections = None,
    source: Sources = None,
    seed: Seed = None,
    tape_speed: TapeSpeed = None,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    data: Data = None,
    drain: Drain = None,
    socketio: SocketIO = False,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> int:
    """Show every setting, its value and where the value comes from; starts nothing."""
    from tokenwire_server import cli_config  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415

    settings = load(_flags(locals()), env_file=env_file)
    (cli_config.print_json if as_json else cli_config.print_table)(settings)
    return 0


@app.command()
def fetch(
    source: Sources = None,
    merged: Annotated[bool, typer.Option("--merged", help="One row a token, merged, not what each API says.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
    env_file: EnvFile = None,
) -> int:
    """Ask DexScreener or Jupiter once and show what they say; exit code 1 if none answers."""
    import asyncio  # noqa: PLC0415

    from tokenwire_server import fetch_command  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415
    from tokenwire_server.telemetry.logs import configure_logging  # noqa: PLC0415

    configure_logging("error")  # what went wrong stands below the table
    fetched = asyncio.run(fetch_command.fetch_once(load({"source": source}, env_file=env_file)))
    fetch_command.print_fetched(fetched, merged=merged, as_json=as_json)
    return 0 if fetched.answered else 1


DataDir = Annotated[
    _Text,
    typer.Option(
        "--data", metavar="DIR", help="The directory that the server keeps bars in; else TIMESCALE_HOST has them."
    ),
]


@app.command()
def export(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    data: DataDir = None,
    what: Annotated[str, typer.Option(metavar="WHAT", help="bars or trades.")] = "bars",
    table_format: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="csv or parquet; without it, as the file is called."),
    ] = None,
    symbol: Annotated[str | None, typer.Option(metavar="NAME", help="One token: its symbol or address.")] = None,
    interval: Annotated[str | None, typer.Option(metavar="LENGTH", help="Bars of one length, such as 1m.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Not before this: Unix s or ms, or RFC 3339.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Not after this.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Parquet: numbers as text, not as decimal128(38, 18).")] = False,
    env_file: EnvFile = None,
) -> int:
    """Write stored bars or trades to a CSV or Parquet file; a server may be running on the same data."""
    from tokenwire_server import export_command  # noqa: PLC0415
    from tokenwire_server.history.tables import TableFormat  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415

    rows = export_command.export(
        export_command.ExportRequest(
            data=Path(data) if data else None,
            settings=load(env_file=env_file),
            what=one_of(export_command.What, what, "--what"),
            table_format=one_of(
                TableFormat, table_format or Path(output).suffix.lstrip(".").lower() or "csv", "--format"
            ),
            output=Path(output),
            symbol=symbol,
            interval=interval,
            begin=begin,
            end=end,
            as_text=text,
        )
    )
    typer.echo(f"{rows} {what} in {output}")
    return 0


@app.command("import")
def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Trades: id, symbol, price, amount, side, timestamp; CSV or Parquet.")
    ],
    data: DataDir = None,
    venue: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Trades without an address are those of NAME:SYMBOL (as posted ones are)."),
    ] = None,
    env_file: EnvFile = None,
) -> int:
    """Add trades of a file to stored ones, each once, and their bars; no server may be running on the data.

    Exit code 1: some rows were rejected; the others are stored.
    """
    import asyncio  # noqa: PLC0415

    from tokenwire_server import import_command  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415

    settings = load({"ingest_venue": venue} if venue else {}, env_file=env_file)
    imported = asyncio.run(import_command.import_with_progress(settings, Path(data) if data else None, Path(file)))
    import_command.print_imported(imported)
    return 1 if imported.rejected else 0


def one_of(choices: type[_Choice], text: str, name: str) -> _Choice:
    """The choice that a flag's text names. Raises UserError for any other."""
    try:
        return choices(text.lower())
    except ValueError:
        raise UserError(f"{name}: {text!r} is none of {', '.join(choices)}") from None


def _fault(meaning: str) -> Any:
    panel = "Faults, counted in frames of each connection; 0 is never"
    return typer.Option(metavar="N", min=0, help=meaning, rich_help_panel=panel)


@app.command("serve-tape")
def serve_tape(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Captured frames of a Binance-format feed.")],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="TCP port; 0 takes a free one.")] = 8090,
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", help="Pace of the tape: 1 as captured, 10 ten times as fast, 0 at once.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, with the same ids.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="A new connection goes on where the latest one stopped.")
    ] = False,
    drop_every: Annotated[int, _fault("Leave out every Nth frame.")] = 0,
    duplicate_every: Annotated[int, _fault("Send every Nth frame twice.")] = 0,
    garbage_every: Annotated[int, _fault("Send rubbish after every Nth frame.")] = 0,
    disconnect_after: Annotated[int, _fault("Cut the connection after N frames.")] = 0,
    stall_after: Annotated[int, _fault("Fall silent after N frames.")] = 0,
    shutdown_after: Annotated[int, _fault("Announce a server shutdown after N frames.")] = 0,
) -> int:
    """Replay captured exchange frames on this machine, as the exchange would send them; faults on request."""
    import asyncio  # noqa: PLC0415

    from tokenwire_server.sources import venue  # noqa: PLC0415

    faults = venue.Faults(
        drop_every=drop_every,
        duplicate_every=duplicate_every,
        garbage_every=garbage_every,
        disconnect_after=disconnect_after,
        stall_after=stall_after,
        shutdown_after=shutdown_after,
    )

    def announce(url: str, symbols: Sequence[str]) -> None:
        typer.echo(f"{file} is served on {url}; stop with Ctrl-C. A server that reads it:")
        typer.echo(f"  {_PROGRAM} --source binance:{','.join(symbols)}@{url.replace('//0.0.0.0:', '//127.0.0.1:')}")

    async def serve() -> None:
        serving = asyncio.ensure_future(
            venue.serve_tape(file, host, port, speed, faults, announce, loop=loop, follow=follow)
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    try:
        asyncio.run(serve())
    except ValueError as error:
        raise UserError(str(error)) from None
    return 0


def _flags(arguments: Mapping[str, object]) -> dict[str, object]:
    """What a command was given, under the names of the settings; ``None`` where it was not."""
    names = (
        "host",
        "port",
        "max_connections",
        "source",
        "seed",
        "tape_speed",
        "tls_cert",
        "tls_key",
        "socketio",
        "data",
        "log_level",
        "log_format",
    )
    flags = {name: arguments[name] or None for name in names}
    return {**flags, "update_interval_s": arguments["update_interval"], "drain_s": arguments["drain"]}


def _serve_reloading(flags: Mapping[str, object], env_file: str | None) -> int:
    try:
        import watchfiles  # noqa: PLC0415
    except ModuleNotFoundError:
        raise UserError("--reload needs watchfiles; install it: pip install 'tokenwire[reload]'") from None
    import tokenwire_schemas  # noqa: PLC0415
    from tokenwire_server.settings_flags import FLAGS  # noqa: PLC0415

    given = {"drain_s": "0"} | {name: value for name, value in flags.items() if value is not None}
    command = [sys.executable, "-m", "tokenwire_server", "run"]
    for name, value in given.items():
        for part in value if isinstance(value, list) else [value]:
            command += [FLAGS[name]] if part is True else [FLAGS[name], str(part)]
    watched = [Path(__file__).parent, Path(tokenwire_schemas.__file__).parent]
    if env_file:
        command += ["--env-file", env_file]
        watched.append(Path(env_file))
    typer.echo(f"{_PROGRAM}: restarts on a change under {', '.join(map(str, watched))}", err=True)
    watchfiles.run_process(*watched, target=shlex.join(command), target_type="command")
    return 0
