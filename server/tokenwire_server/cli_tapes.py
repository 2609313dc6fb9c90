"""The commands about tapes and histories without clients: record, replay, collect and simulate.

As in ``cli``, nothing heavy is imported before a command runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenwire_server.cli import EnvFile, Format, Host, Level, Seed, Sources, TapeSpeed, app, one_of
from tokenwire_server.cli_roles import Brokers, Instance, RolePort
from tokenwire_server.errors import UserError

if TYPE_CHECKING:
    from tokenwire_server.ports import Source
    from tokenwire_server.settings import Settings
    from tokenwire_server.stream.brokers_clock import BrokersClock

__all__ = ["collect", "record", "replay", "simulate"]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Duration = Annotated[str | None, typer.Option("--duration", metavar="SECONDS", help="Stop after this time.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]
Kept = Annotated[str | None, typer.Option("--data", metavar="DIR", help="Store bars and trades there.")]


@app.command()
def record(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The tape; .zst and .gz compress it.")],
    source: Sources = None,
    duration: Duration = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after so many frames, trades and values.")
    ] = None,
    seed: Seed = None,
    force: Force = False,
    quiet: Quiet = False,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
) -> int:
    """Record what sources deliver to a tape, until Ctrl-C; tape:FILE and replay play it again.

    [bold]Examples:[/bold]

      tokenwire-server record --source binance:BTCUSDT,ETHUSDT -o btc.jsonl.zst
          an exchange's frames as they come, and when they came
      tokenwire-server record --source kraken:BTC/USD --source okx:BTC-USDT --duration 3600 -o hour.jsonl.zst
          two exchanges for an hour
      tokenwire-server --source tape:btc.jsonl.zst --tape-speed 10
          serves it, ten times as fast

    While it records, the tape is called FILE.part; it can be replayed however the
    recording ended, up to its last second.
    """
    from tokenwire_server import command_progress, record_command  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415
    from tokenwire_server.telemetry.logs import configure_logging  # noqa: PLC0415

    settings = load(
        {"source": source or None, "seed": seed, "log_level": log_level, "log_format": log_format}, env_file=env_file
    )
    configure_logging(log_level or "warning", settings.log_format)
    request = record_command.RecordRequest(
        output=Path(output),
        duration_s=command_progress.parse_seconds(duration, "--duration"),
        limit=limit,
        force=force,
        quiet=quiet,
    )
    summary = command_progress.run(record_command.record(settings, request))
    record_command.print_record(summary)
    return int(summary.is_failed or not (summary.frames or summary.trades or summary.values))


@app.command()
def replay(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A tape: recorded or captured, plain, .gz or .zst.")],
    speed: Annotated[
        str, typer.Option("--speed", metavar="FACTOR", help="1 as recorded, 10 ten times as fast, or max.")
    ] = "max",
    data: Kept = None,
    quiet: Quiet = False,
    env_file: EnvFile = None,
) -> int:
    """Play a tape through the whole pipeline, without clients, and sum up: rate, bars, rejections, memory.

    [bold]Examples:[/bold]

      tokenwire-server replay btc.jsonl.zst
          as fast as possible; nothing is kept
      tokenwire-server replay btc.jsonl.zst --data prices
          its bars and trades into a history; again, it goes on where it was
      tokenwire-server replay btc.jsonl.zst --speed 10
          ten times as fast as it was recorded

    Exit code 1: the tape is damaged or was cut off; what stands before that was played.
    """
    from tokenwire_server import command_progress, replay_command  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415
    from tokenwire_server.source_spec import parse_tape_speed  # noqa: PLC0415
    from tokenwire_server.telemetry.logs import configure_logging  # noqa: PLC0415

    settings = load({"data": data}, env_file=env_file)
    configure_logging("error")  # what is wrong with the tape is summed up
    try:
        factor = parse_tape_speed(speed)
    except ValueError as error:
        raise UserError(f"--speed cannot be {speed!r}: {error}") from None
    tape = replay_command.tape_at(file, factor)
    kept = None if data is None else Path(data)
    summary = command_progress.run(replay_command.replay(tape, settings, kept, quiet=quiet))
    replay_command.print_replay(summary)
    return int(bool(summary.problem or summary.lost_trades))


@app.command()
def collect(
    source: Sources = None,
    exchange: Annotated[
        str | None, typer.Option(metavar="NAME", help="An exchange, with --symbols: instead of --source.")
    ] = None,
    symbols: Annotated[str | None, typer.Option(metavar="SYM,SYM", help="Its symbols.")] = None,
    data: Kept = None,
    kafka: Brokers = None,
    instance: Instance = None,
    role_port: RolePort = None,
    health_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Answer /health, /ready and /metrics there; 0 takes a free one."
        ),
    ] = None,
    host: Host = None,
    duration: Duration = None,
    seed: Seed = None,
    tape_speed: TapeSpeed = None,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
) -> int:
    """Collect trades and bars into a history, or into Kafka, without serving clients, until Ctrl-C or SIGTERM.

    [bold]Examples:[/bold]

      tokenwire-server collect --source binance:BTCUSDT,ETHUSDT --data prices
      tokenwire-server collect --exchange binance --symbols BTCUSDT,ETHUSDT --data prices
          the same
      tokenwire-server collect --source kraken:BTC/USD --data prices --health-port 9100
          curl http://127.0.0.1:9100/ready; Prometheus scrapes /metrics
      tokenwire-server collect --source binance:BTCUSDT --kafka 127.0.0.1:9092
          into Kafka, where processors take it up; curl http://127.0.0.1:8000/ready
      tokenwire-server export --data prices -o bars.csv
          reads it, meanwhile or later

    Whatever was collected is stored before it ends; the next start goes on from there.

    With Kafka every collector needs a name of its own that it keeps (--instance; the
    machine's name). Exit code 3: another one has taken this one's name over; don't start
    this one again.
    """
    from tokenwire_server import collect_command, command_progress  # noqa: PLC0415
    from tokenwire_server.record_command import asked_sources  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415
    from tokenwire_server.stream.brokers_clock import BrokersClock  # noqa: PLC0415
    from tokenwire_server.telemetry.logs import configure_logging  # noqa: PLC0415

    named = [*(source or []), *collect_command.exchange_source(exchange, symbols)]
    settings = load(
        {
            "source": named or None,
            "data": data,
            "kafka_bootstrap_servers": kafka,
            "instance": instance,
            "role_port": role_port,
            "host": host,
            "seed": seed,
            "tape_speed": tape_speed,
            "log_level": log_level,
            "log_format": log_format,
        },
        env_file=env_file,
    )
    configure_logging(settings.log_level, settings.log_format)
    clock = BrokersClock()
    sources = asked_sources(settings, "collect", clock.later_ms)
    seconds = command_progress.parse_seconds(duration, "--duration")
    if settings.kafka_bootstrap_servers is not None:
        return _collect_to_kafka(settings, sources, clock, health_port, seconds)
    if settings.kept_in is None:
        raise UserError("collect needs a place to store in: --data DIR, TIMESCALE_HOST, or --kafka HOST:PORT")
    request = collect_command.CollectRequest(
        data=settings.data,
        health_port=health_port,
        duration_s=seconds,
    )

    def announce(url: str) -> None:
        names = ", ".join(each.name for each in sources)
        where = f"; {url}health, {url}ready, {url}metrics" if url else ""
        typer.echo(f"collecting {names} into {settings.kept_in}{where}; stop with Ctrl-C", err=True)

    summary = command_progress.run(collect_command.collect(settings, sources, request, announce))
    values = f", {summary.values} values" if summary.values else ""
    typer.echo(
        f"{summary.trades} trades{values} of {summary.tokens} tokens in {settings.kept_in} ({summary.seconds:.1f} s)"
    )
    if summary.lost_trades:
        typer.echo(f"{summary.lost_trades} trades could not be stored", err=True)
    return int(summary.is_failed or summary.lost_trades > 0)


def _collect_to_kafka(
    settings: "Settings", sources: "Sequence[Source]", clock: "BrokersClock", port: int | None, seconds: float | None
) -> int:
    from tokenwire_server import collect_role, command_progress, roles  # noqa: PLC0415
    from tokenwire_server.stream.topics import topics_of  # noqa: PLC0415

    collect_role.check_targets(settings)
    bus = roles.open_bus(settings, "collect")
    topic = topics_of(settings).raw

    def announce(url: str) -> None:
        names = ", ".join(each.name for each in sources)
        typer.echo(
            f"collecting {names} into Kafka, {topic}; {url}health, {url}ready, {url}metrics; stop with Ctrl-C", err=True
        )

    summary = command_progress.run(
        collect_role.collect_to_bus(
            settings, sources, bus, clock=clock, port=port, duration_s=seconds, announce=announce
        )
    )
    values = f", {summary.values} values" if summary.values else ""
    typer.echo(
        f"{summary.trades} trades{values} in Kafka, {topic}: {summary.records} records in {summary.transactions} "
        f"transactions, {summary.aborted} aborted ({summary.seconds:.1f} s)"
    )
    if summary.unwritten:
        typer.echo(f"{summary.unwritten} records could not be written any more; the sources are asked again", err=True)
    if summary.dropped:
        typer.echo(f"{summary.dropped} trades and values found no room", err=True)
    return int(summary.is_failed or summary.unwritten > 0 or summary.dropped > 0)


@app.command()
def simulate(
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Onto a tape; .zst and .gz compress it.")
    ] = None,
    data: Kept = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Post them to a server: http://…/api/v1/trades.")
    ] = None,
    rate: Annotated[float, typer.Option(metavar="N", help="Trades a second of the market, about, in all.")] = 170.0,
    scenario: Annotated[str, typer.Option(metavar="NAME", help="calm, burst, crash, stalled or bad-data.")] = "calm",
    tokens: Annotated[
        int, typer.Option(metavar="N", min=4, max=20_000, help="How many tokens; PEPE, DOGE, SHIB and FLOKI first.")
    ] = 300,
    duration: Annotated[
        str | None, typer.Option("--duration", metavar="SECONDS", help="How long the market is open.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after so many trades.")] = None,
    speed: Annotated[
        str | None,
        typer.Option(metavar="FACTOR", help="1 in real time (with --url), 10 ten times, or max (otherwise)."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When the market opens: now; with --seed 2026-01-01, unless posted."),
    ] = None,
    seed: Seed = None,
    force: Force = False,
    quiet: Quiet = False,
    env_file: EnvFile = None,
) -> int:
    """Make trades of a simulated market: for a tape, a history, or a server that takes posted ones.

    [bold]Examples:[/bold]

      tokenwire-server simulate --rate 100000 --limit 10000000 --seed 1 -o big.jsonl.zst
          ten million trades, the same ones each time; then: tokenwire-server replay big.jsonl.zst
      tokenwire-server simulate --rate 500 --url http://127.0.0.1:8080/api/v1/trades
          posts 500 trades a second until Ctrl-C; the server: tokenwire-server --source none
      tokenwire-server simulate --duration 86400 --data prices
          a day of a market, into a history

    A server's ingest token is taken from TOKENWIRE_INGEST_TOKEN.
    """
    from tokenwire_server import command_progress, simulate_command  # noqa: PLC0415
    from tokenwire_server.market.instants import parse_instant  # noqa: PLC0415
    from tokenwire_server.settings import load  # noqa: PLC0415
    from tokenwire_server.source_spec import parse_tape_speed  # noqa: PLC0415
    from tokenwire_server.sources.simulation import Scenario  # noqa: PLC0415
    from tokenwire_server.telemetry.logs import configure_logging  # noqa: PLC0415

    settings = load({"seed": seed}, env_file=env_file)
    configure_logging("error")
    try:
        factor = None if speed is None else parse_tape_speed(speed)
    except ValueError as error:
        raise UserError(f"--speed cannot be {speed!r}: {error}") from None
    try:
        start_ms = None if start is None else parse_instant(start)
    except ValueError as error:
        raise UserError(f"--start: {error}") from None
    request = simulate_command.SimulateRequest(
        output=None if output is None else Path(output),
        data=None if data is None else Path(data),
        url=url,
        rate=rate,
        tokens=tokens,
        scenario=one_of(Scenario, scenario, "--scenario"),
        seed=settings.seed,
        start_ms=start_ms,
        speed=factor,
        duration_s=command_progress.parse_seconds(duration, "--duration"),
        limit=limit,
        force=force,
        quiet=quiet,
    )
    summary = command_progress.run(simulate_command.simulate(settings, request))
    simulate_command.print_simulate(summary)
    return int(summary.lost_trades > 0)
