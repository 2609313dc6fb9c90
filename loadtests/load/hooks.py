"""The load test in Locust's life: options, what each process starts, what workers tell, and the verdict."""

import functools
import gc
import math
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, Final, NoReturn

import gevent
from locust import LoadTestShape, argument_parser, events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.load.canary import sing
from loadtests.load.client import Target
from loadtests.load.gate import judge
from loadtests.load.host import endpoint
from loadtests.load.report import progress, summary, write_summary
from loadtests.load.run_state import Named, RunState
from loadtests.load.shapes import SHAPES, stage_at
from loadtests.load.tally import Tally
from loadtests.load.users import KINDS

__all__ = ["LoadShape"]

_PATH: Final = "/api/v1/ws/token-data"
_KEY: Final = "tokenwire"
_SLICE: Final = 20  # as many measurements are told to Locust at a time
_PROGRESS_S: Final = 5.0

# A worker asks Locust for this table once for each option whenever users are to come, and each time Locust builds a
# whole parser for it: 50 ms in which nobody reads. It is always the same.
argument_parser.default_args_dict = functools.cache(argument_parser.default_args_dict)

_reports: dict[str, dict[str, Any]] = {}  # by worker, the latest; on the master only
_run: dict[str, Any] = {"complete": False, "verdict": "", "rate": 0.0, "singing": False}


class LoadShape(LoadTestShape):
    """The shape that ``--shape`` names, over ``--run-time`` with ``--users`` and, if given, ``--spawn-rate``."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Locust's: how many users now."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        stages = SHAPES[options.shape].stages(options.num_users, float(options.run_time), _run["rate"])
        stage = stage_at(stages, self.get_run_time())
        if stage is None:
            _run["complete"] = True
            return None
        return stage.users, stage.rate


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Token data", "What is loaded, and the gate")
    shapes = "; ".join(f"{name}: {shape.meaning}" for name, shape in SHAPES.items())
    group.add_argument("--shape", choices=list(SHAPES), default="ramp", help=shapes)
    group.add_argument("--tokens", type=int, default=100, metavar="N", help="tokens of the probe (100)")
    group.add_argument(
        "--update-interval", type=float, default=5.0, metavar="SECONDS", help="of the server: --update-interval (5)"
    )
    group.add_argument(
        "--strict", action="store_true", help="negotiate nothing: a message for each token, costly to read"
    )
    group.add_argument("--gate-ms", type=float, default=100.0, metavar="MS", help="p99 must be below (100)")
    group.add_argument("--summary", default="", metavar="FILE", help="write the summary in JSON")


@events.init.add_listener
def _init(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    _run["rate"] = float(options.spawn_rate or 0)  # Locust fills in 1 later if it was not given
    mix = SHAPES[options.shape].mix
    for name, kind in KINDS.items():
        kind.weight = mix.get(name, 0)
    environment.user_classes = [kind for name, kind in KINDS.items() if name in mix]
    state = RunState(_target(options), options.update_interval)
    environment.tokenwire = state  # type: ignore[attr-defined] # where the users find it
    gc.collect()
    gc.freeze()  # no collection needs to look at Locust itself again
    if not isinstance(environment.runner, MasterRunner):
        gevent.spawn(_tell, environment, state)
    if not isinstance(environment.runner, WorkerRunner):
        gevent.spawn(_show_progress, environment, state)


def _target(options: Namespace) -> Target:
    """What the options say. A mistake in them ends the process with one line."""
    host = options.host or "ws://127.0.0.1:8080"
    try:
        endpoint(host)
    except ValueError as error:
        _refuse(str(error))
    if not 1 <= options.tokens <= 100:
        _refuse(f"--tokens {options.tokens}: a connection holds 1 to 100 tokens")
    if not 0.05 <= options.update_interval <= 3600:
        _refuse(f"--update-interval {options.update_interval}: the server takes 0.05 to 3600 seconds")
    if not (math.isfinite(options.gate_ms) and options.gate_ms > 0):
        _refuse(f"--gate-ms {options.gate_ms}: a time in milliseconds is needed")
    if not options.worker and (not options.num_users or not options.run_time):
        _refuse("say how many and how long: --users 200 --run-time 60s")
    return Target(
        url=f"{host.rstrip('/')}{_PATH}",
        caps=() if options.strict else ("batch",),
        tokens=tuple(f"PROBE{number}" for number in range(options.tokens)),
        limit_us=round(options.gate_ms * 1000),
    )


def _refuse(line: str) -> NoReturn:
    sys.stderr.write(f"load: {line}\n")
    sys.exit(2)


def _tell(environment: Environment, state: RunState) -> NoReturn:
    """Hand measurements on to Locust's statistics, a few at a time."""
    while True:
        gevent.sleep(0.05)
        while state.named and state.is_quiet:
            for _ in range(min(_SLICE, len(state.named))):
                _fire(environment, state.named.popleft())
            gevent.sleep(0.001)


def _fire(environment: Environment, named: Named) -> None:
    environment.events.request.fire(
        request_type="WS",
        name=named.name,
        response_time=named.elapsed_us / 1000,
        response_length=named.octets,
        exception=None if named.error is None else RuntimeError(named.error),
    )


def _show_progress(environment: Environment, state: RunState) -> NoReturn:
    begin_s = time.monotonic()
    while True:
        gevent.sleep(_PROGRESS_S)
        if environment.runner is not None and environment.runner.user_count and not state.tally.final:
            line = progress(time.monotonic() - begin_s, environment.runner.user_count, _all(environment)[0])
            sys.stderr.write(f"{line}\n")


def _all(environment: Environment) -> tuple[Tally, list[str]]:
    """What all processes counted, and the workers that have not reported their end."""
    state: RunState = environment.tokenwire  # type: ignore[attr-defined]
    if not isinstance(environment.runner, MasterRunner):
        return state.tally, []
    total = Tally()
    for report in _reports.values():
        total.add(report)
    return total, [worker for worker, report in _reports.items() if not report["final"]]


@events.test_start.add_listener
def _start(environment: Environment, **_: Any) -> None:
    state: RunState = environment.tokenwire  # type: ignore[attr-defined]
    if not isinstance(environment.runner, MasterRunner) and not _run["singing"]:
        _run["singing"] = True
        gevent.spawn(sing, state.tally)


@events.cpu_warning.add_listener
def _cpu_warning(environment: Environment, **_: Any) -> None:
    state: RunState = environment.tokenwire  # type: ignore[attr-defined]
    # A process that has no users measures nothing, and the seconds after the run are nobody's.
    if not state.tally.final and not isinstance(environment.runner, MasterRunner):
        state.tally.cpu_warned = True


@events.test_stopping.add_listener
def _stopping(environment: Environment, **_: Any) -> None:
    state: RunState = environment.tokenwire  # type: ignore[attr-defined]
    state.finish()
    while state.named:
        _fire(environment, state.named.popleft())


@events.report_to_master.add_listener
def _report(client_id: str, data: dict[str, Any]) -> None:
    if _worker_state is not None:
        data[_KEY] = _worker_state.tally.snapshot()


@events.worker_report.add_listener
def _receive(client_id: str, data: dict[str, Any]) -> None:
    if _KEY in data:
        _reports[client_id] = data[_KEY]


_worker_state: RunState | None = None


@events.init.add_listener
def _remember(environment: Environment, **_: Any) -> None:
    global _worker_state  # noqa: PLW0603 - Locust's report event does not say whose it is
    _worker_state = environment.tokenwire  # type: ignore[attr-defined]


@events.quitting.add_listener
def _verdict(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0  # the master judges
        return
    environment.process_exit_code = 2  # Locust goes on after an exception here, and would end with its own 0 or 1
    state: RunState = environment.tokenwire  # type: ignore[attr-defined]
    if not state.tally.final:
        state.finish()
    tally, unfinished = _all(environment)
    faults = [] if _run["complete"] else ["the run was interrupted"]
    faults += [f"worker {worker} did not report its end" for worker in unfinished]
    if isinstance(environment.runner, MasterRunner) and len(_reports) < (options.expect_workers or 0):
        faults.append(f"{len(_reports)} of {options.expect_workers} workers reported")
    verdict = judge(tally, state.target.limit_us, users=options.num_users or 0, faults=tuple(faults))
    settings = {
        "shape": options.shape,
        "users": options.num_users,
        "run_time_s": options.run_time,
        "tokens": options.tokens,
        "update_interval_s": options.update_interval,
        "caps": list(state.target.caps),
        "processes": options.processes or 1,
        "gate_ms": options.gate_ms,
    }
    if options.summary:
        try:
            write_summary(Path(options.summary), summary(tally, verdict, settings))
        except OSError as error:
            sys.stderr.write(f"load: --summary {options.summary}: {error.strerror or error}\n")
            return
    _run["verdict"] = verdict.line(tally)
    environment.process_exit_code = verdict.status.value


@events.quit.add_listener
def _last_line(exit_code: int, **_: Any) -> None:
    if _run["verdict"]:
        sys.stdout.write(f"{_run['verdict']}\n")
        sys.stdout.flush()
