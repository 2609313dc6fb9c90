"""Polls one API: a cycle every interval, never two at once, within the API's rate, and patient when it fails.

A request that fails is tried again within its cycle, after an exponentially growing random time; what the service
asks for with ``Retry-After`` is waited for here, or before the next request if it is longer. After failures in a row a
circuit breaker pauses the requests and then lets single ones probe. A cycle that takes longer than the interval
makes the next ones fall out, not pile up.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, Protocol

import aiohttp

from tokenwire_schemas.limits import BACKOFF_BASE_MS, BACKOFF_CAP_MS
from tokenwire_server.ports import SourceState
from tokenwire_server.sources.breaker import Breaker, BreakerState
from tokenwire_server.sources.http_get import REQUEST_TIMEOUT_S
from tokenwire_server.sources.poller_findings import Answer, Api, Findings, Question
from tokenwire_server.sources.poller_http import FetchError, Pace, fetch
from tokenwire_server.telemetry.logs import get_log

__all__ = ["Poller", "Reports"]

MAX_ATTEMPTS: Final = 3  # of one request within a cycle
MAX_WAIT_IN_CYCLE_S: Final = 10.0  # before one more attempt; a longer wait ends the cycle
BREAKER_OPENS_AFTER: Final = 6  # failed requests in a row
BREAKER_PAUSE_S: Final = 60.0
BREAKER_MAX_PAUSE_S: Final = 900.0

_log = get_log(__name__)


class Reports(Protocol):
    """Whom a poller tells what; each call names the poller."""

    def state(self, poller: str, state: SourceState, detail: str = "") -> None:
        """It is in another state than before."""

    def rejected(self, poller: str, reason: str, detail: str) -> None:
        """Something in an answer could not be used."""

    def found(self, poller: str, findings: Findings) -> None:
        """A cycle is over, in which at least one answer was usable."""

    async def room(self) -> None:
        """Return when there is room for what a cycle finds."""


class _PausedError(Exception):
    """No further request makes sense in this cycle."""


class Poller:
    """``api`` at ``base_url``, every ``interval_ms``. ``name`` is its name in facts, states and logs.

    Counters: ``cycles``, ``skipped`` (cycles left out because one took too long), ``requests``, ``failures`` (requests
    without a usable answer) by reason, ``cycle_ms`` (how long the last one took). ``problem`` is why the last request
    failed, empty once one went well.
    """

    def __init__(
        self,
        name: str,
        api: Api,
        base_url: str,
        interval_ms: int,
        *,
        pace: Pace | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        rng: Random | None = None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.name = name
        self.cycles = 0
        self.skipped = 0
        self.requests = 0
        self.failures: dict[str, int] = {}
        self.cycle_ms = 0
        self._api = api
        self._base_url = base_url.rstrip("/")
        self._interval_s = interval_ms / 1_000
        self._pace = pace or Pace(api.requests_per_minute)
        self._breaker = Breaker(BREAKER_OPENS_AFTER, BREAKER_PAUSE_S, BREAKER_MAX_PAUSE_S)
        self._timeout_s = timeout_s
        self._rng = rng or Random()
        self._wall_ms = wall_ms
        self.problem = ""
        self._told: tuple[SourceState, BreakerState] | None = None

    def tally(self) -> Iterator[tuple[str, str, int]]:
        """What happened, for the metrics."""
        yield self.name, "cycle", self.cycles
        yield self.name, "cycle_skipped", self.skipped
        yield self.name, "request", self.requests
        yield self.name, "request_failed", sum(self.failures.values())

    async def run(self, session: aiohttp.ClientSession, reports: Reports) -> None:
        """Poll until cancelled."""
        loop = asyncio.get_running_loop()
        self._tell(reports, SourceState.STARTING)
        due_s = loop.time()
        while True:
            await reports.room()  # before asking too: what is delivered later is to be news
            findings, answered = await self.cycle(session)
            await reports.room()
            for reason, detail in findings.rejections:
                reports.rejected(self.name, reason, detail)
            # The state comes first: values of a source that is not live would be a surprise.
            self._tell(reports, SourceState.LIVE if answered else SourceState.RECONNECTING)
            if answered:
                reports.found(self.name, findings)
            due_s += self._interval_s
            late_s = loop.time() - due_s
            if late_s > 0:
                missed = int(late_s // self._interval_s) + 1
                self.skipped += missed
                due_s += missed * self._interval_s
            await asyncio.sleep(due_s - loop.time())

    async def cycle(self, session: aiohttp.ClientSession) -> tuple[Findings, int]:
        """Ask everything once: what was found, and how many answers were usable. Fails in no way but these."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        findings = Findings()
        requests, failures = self.requests, sum(self.failures.values())
        answered = 0
        steps = self._api.cycle(self.name, findings)
        try:
            question = next(steps)
            while True:
                answer = await self._ask(session, question, findings)
                unusable = findings.unusable
                try:
                    question = steps.send(answer)
                finally:  # also when it has no further question
                    if answer is not None:
                        answered += self._judge(findings, unusable)
        except (StopIteration, _PausedError):
            pass
        finally:
            steps.close()
        self.cycles += 1
        self.cycle_ms = round((loop.time() - begun_s) * 1_000)
        _log.info(
            "poll cycle completed",
            source=self.name,
            ms=self.cycle_ms,
            tokens=len(findings.facts),
            missing=findings.missing,
            requests=self.requests - requests,
            failed=sum(self.failures.values()) - failures,
            **({"problem": self.problem} if self.problem else {}),
        )
        return findings, answered

    def _judge(self, findings: Findings, unusable: int) -> int:
        """1 if the answer that was just read was usable; JSON of a wrong shape is a failure like any other."""
        if findings.unusable == unusable:
            self.problem = ""
            self._breaker.succeeded()
            return 1
        self._failed(*findings.rejections[-1])
        return 0

    async def _ask(self, session: aiohttp.ClientSession, question: Question, findings: Findings) -> Answer | None:
        """The answer to one question, after as many attempts as it takes; None after the last.

        Raises:
            _PausedError: the breaker is open, or the service wants to be left alone for long.
        """
        loop = asyncio.get_running_loop()
        for attempt in range(MAX_ATTEMPTS):
            await self._turn()
            self._pace.started(loop.time())
            self.requests += 1
            try:
                return await fetch(
                    session,
                    self._base_url,
                    question,
                    self._api.headers,
                    timeout_s=self._timeout_s,
                    wall_ms=self._wall_ms,
                )
            except FetchError as error:
                self._failed(error.reason, error.detail)
                if error.is_data:
                    findings.rejections.append((error.reason, error.detail))
                # The first of each kind is worth a line; the others are in the counts of the cycles.
                tell = _log.warning if self.failures[error.reason] == 1 else _log.debug
                tell("request failed", source=self.name, attempt=attempt + 1, problem=self.problem)
                if error.wait_s:
                    self._pace.hold(loop.time() + error.wait_s)
                if not error.retry or attempt + 1 == MAX_ATTEMPTS:
                    break
                await asyncio.sleep(self._backoff_s(attempt))
        return None

    async def _turn(self) -> None:
        """Wait until a request may begin; a probe of the breaker that failed has opened it again."""
        loop = asyncio.get_running_loop()
        while True:
            now_s = loop.time()
            if self._breaker.wait_s(now_s) or self._pace.held_s(now_s) > MAX_WAIT_IN_CYCLE_S:
                raise _PausedError
            wait_s = self._pace.wait_s(now_s)
            if not wait_s:
                return
            await asyncio.sleep(wait_s)

    def _failed(self, reason: str, detail: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1
        self.problem = f"{reason}: {detail}" if detail else reason
        self._breaker.failed(asyncio.get_running_loop().time())

    def _backoff_s(self, attempt: int) -> float:
        return self._rng.uniform(0, min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2**attempt) / 1_000)

    def _tell(self, reports: Reports, state: SourceState) -> None:
        """Tell the state when it, or that of the breaker, is another than before."""
        now_s = asyncio.get_running_loop().time()
        breaker = self._breaker.state(now_s)
        if self._told == (state, breaker):
            return
        self._told = state, breaker
        detail = self.problem if state is SourceState.RECONNECTING else ""
        if breaker is BreakerState.OPEN:
            detail += f"; paused for {self._breaker.wait_s(now_s):.0f} s"
        reports.state(self.name, state, f"{self._base_url}: {detail}" if detail else "")
