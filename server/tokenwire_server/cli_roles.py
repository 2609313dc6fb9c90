"""The commands that are one role of a server past one machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from tokenwire_server.cli import Connections, Drain, EnvFile, Format, Host, Interval, Level, Port, app

if TYPE_CHECKING:
    from tokenwire_server.settings import Settings

__all__ = ["Brokers", "Instance", "RolePort"]

_Text = str | None
Brokers = Annotated[
    _Text,
    typer.Option("--kafka", metavar="HOST:PORT", help="The brokers, separated by commas; or KAFKA_BOOTSTRAP_SERVERS."),
]
Instance = Annotated[
    _Text,
    typer.Option("--instance", metavar="NAME", help="Name of this process, kept over restarts (the machine's name)."),
]
RolePort = Annotated[
    _Text,
    typer.Option("--role-port", metavar="PORT", help="Of /health, /ready, /metrics (8000-8003); 0 takes a free one."),
]


@app.command()
def load(
    kafka: Brokers = None,
    instance: Instance = None,
    role_port: RolePort = None,
    host: Host = None,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap", help="Go on behind records that Kafka deleted before they were stored; they are counted."
        ),
    ] = False,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
) -> int:
    """Load trades and bars from Kafka into PostgreSQL or TimescaleDB, each exactly once, until Ctrl-C or SIGTERM.

    [bold]Examples:[/bold]

      TIMESCALE_HOST=db.example.org tokenwire-server load --kafka k1:9092,k2:9092
          stores what tokenwire-server process writes
      curl http://127.0.0.1:8003/ready
          how it is, and how far behind

    Whatever engine goes away: it waits, says so, and goes on by itself.

    A second one on another machine waits, and takes over when the first is gone.
    """
    from tokenwire_server import load_command  # noqa: PLC0415
    from tokenwire_server.command_progress import run  # noqa: PLC0415
    from tokenwire_server.stream.topics import topics_of  # noqa: PLC0415

    settings = _settings(kafka, instance, role_port, host, log_level, log_format, env_file)
    topics = topics_of(settings)

    def announce(url: str) -> None:
        typer.echo(
            f"loading {topics.log} and {topics.bars} into {settings.kept_in}; "
            f"{url}health, {url}ready, {url}metrics; stop with Ctrl-C",
            err=True,
        )

    rows = run(load_command.load_log(settings, accepts_gaps=accept_gap, announce=announce))
    typer.echo(f"{rows['trades']} trades and {rows['bars']} bars stored in {settings.kept_in}")
    return 0


@app.command()
def process(
    kafka: Brokers = None,
    instance: Instance = None,
    role_port: RolePort = None,
    host: Host = None,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap", help="Go on behind records that Kafka deleted before they were processed; clients are told."
        ),
    ] = False,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
) -> int:
    """Make numbered trades, bars and token states of what collectors write, exactly once, until Ctrl-C or SIGTERM.

    [bold]Examples:[/bold]

      tokenwire-server process --kafka k1:9092,k2:9092 --instance processor-1
          reads raw-market-data; writes numbered-trades, normalized-ohlcv and token-state
      curl http://127.0.0.1:8001/ready
          which partitions it works on, and how far behind it is

    Several share the partitions: each needs a name of its own. When one dies, the others take over within seconds.
    """
    from tokenwire_server import process_command  # noqa: PLC0415
    from tokenwire_server.command_progress import run  # noqa: PLC0415

    settings = _settings(kafka, instance, role_port, host, log_level, log_format, env_file)

    def announce(url: str) -> None:
        typer.echo(f"processing; {url}health, {url}ready, {url}metrics; stop with Ctrl-C", err=True)

    records = run(process_command.process_log(settings, accepts_gaps=accept_gap, announce=announce))
    typer.echo(f"{records} records processed")
    return 0


@app.command()
def gateway(
    kafka: Brokers = None,
    instance: Instance = None,
    role_port: RolePort = None,
    host: Host = None,
    port: Port = None,
    update_interval: Interval = None,
    max_connections: Connections = None,
    drain: Drain = None,
    log_level: Level = None,
    log_format: Format = None,
    env_file: EnvFile = None,
) -> int:
    """Serve clients what processors write, as any number of gateways do, until Ctrl-C or SIGTERM.

    [bold]Examples:[/bold]

      tokenwire-server gateway --kafka k1:9092,k2:9092
          clients on port 8080; what is older than the gateway is read from TIMESCALE_HOST, if that is set
      curl http://127.0.0.1:8002/ready
          whether it has what the others have

    All of them send the same versions and trade numbers, so a client may go from one to another.
    """
    from tokenwire_server import gateway_command  # noqa: PLC0415
    from tokenwire_server.app import with_loop  # noqa: PLC0415
    from tokenwire_server.preflight import raise_file_limit  # noqa: PLC0415

    more = {
        "port": port,
        "update_interval_s": update_interval,
        "max_connections": max_connections,
        "drain_s": drain,
    }
    settings = _settings(kafka, instance, role_port, host, log_level, log_format, env_file, **more)
    raise_file_limit(settings.max_connections)
    failure = with_loop(gateway_command.serve_log(settings))
    if failure is not None:
        typer.echo(f"{failure}; start it again: it begins with newer snapshots", err=True)
        return 1
    return 0


def _settings(
    kafka: str | None,
    instance: str | None,
    role_port: str | None,
    host: str | None,
    log_level: str | None,
    log_format: str | None,
    env_file: str | None,
    **more: object,
) -> "Settings":
    """The settings of a role, whose log begins to be written."""
    from tokenwire_server.settings import load as load_settings  # noqa: PLC0415
    from tokenwire_server.telemetry.logs import configure_logging, get_log  # noqa: PLC0415

    flags = {
        "kafka_bootstrap_servers": kafka,
        "instance": instance,
        "role_port": role_port,
        "host": host,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = load_settings({**flags, **more}, env_file=env_file)
    configure_logging(settings.log_level, settings.log_format)
    for notice in settings.notices:
        get_log(__name__).warning(notice)
    return settings
