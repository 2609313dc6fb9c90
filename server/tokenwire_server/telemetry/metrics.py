"""Metrics: OpenTelemetry instruments that read plain numbers when somebody asks, never on the hot path.

A part of the server keeps ints and hands over a callback; ``/metrics`` calls it. (``Counter.add`` costs about
5 us, an int 0.05 us.) OpenTelemetry has no observable histogram, so a :class:`LatencyHistogram` is given to
Prometheus by a collector of our own, in the same registry, and to OTLP by :mod:`tokenwire_server.telemetry.otlp`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from importlib.metadata import version
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from tokenwire_server.telemetry.histogram import LatencyHistogram, RegisteredHistogram

__all__ = ["Kind", "Metrics", "Readings", "build_metrics"]

PREFIX: Final = "tokenwire_"
_SHUTDOWN_MS: Final = 3_000  # an unreachable collector must not hold up the end
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Readings = Iterable[tuple[int | float, Mapping[str, str]]]
"""What a callback yields: values, each with the attributes (labels) that tell it from the others."""


class Kind(StrEnum):
    """What a number means, and so how a reader may combine it."""

    COUNTER = "counter"
    """Only rises: events since the start."""
    UP_DOWN = "up_down"
    """Rises and falls, and sums over instances make sense: connections, queue depths."""
    GAUGE = "gauge"
    """A reading where a sum makes no sense: an age, a state."""


class _Histograms(Collector):
    """Gives plain-number histograms to Prometheus at scrape time."""

    def __init__(self) -> None:
        self.registered: list[RegisteredHistogram] = []

    def collect(self) -> Iterator[HistogramMetricFamily]:
        families: dict[str, HistogramMetricFamily] = {}
        for item in self.registered:
            if item.name not in families:
                families[item.name] = HistogramMetricFamily(item.name, item.description, labels=tuple(item.attributes))
            bounds = [*(format(ms / 1000, "g") for ms in item.histogram.bounds_ms), "+Inf"]
            families[item.name].add_metric(
                tuple(item.attributes.values()),
                buckets=list(zip(bounds, item.histogram.cumulative(), strict=True)),
                sum_value=item.histogram.sum_ms / 1000,
            )
        yield from families.values()


class Metrics:
    """All metrics of one server, in a registry of its own: two servers in a process do not mix.

    No thread runs unless ``otlp_endpoint`` is given; :meth:`shutdown` ends that one.

    Raises:
        UserError: ``otlp_endpoint`` is given and the extra ``tokenwire[otlp]`` is not installed.
    """

    def __init__(self, *, otlp_endpoint: str | None = None, attributes: Mapping[str, str] | None = None) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._histograms = _Histograms()
        self._registry.register(self._histograms)
        # Memory, CPU time, open files and start time, under the names that every dashboard knows.
        ProcessCollector(registry=self._registry)
        readers: list[MetricReader] = [
            PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=self._registry)
        ]
        if otlp_endpoint is not None:
            from tokenwire_server.telemetry.otlp import otlp_reader  # noqa: PLC0415 - an extra

            readers.append(otlp_reader(otlp_endpoint, self._histograms.registered))
        resource = {
            "service.name": "tokenwire-server",
            "service.version": version("tokenwire"),
            **(attributes or {}),
        }
        self._provider = MeterProvider(
            metric_readers=readers, resource=Resource.create(resource), shutdown_on_exit=False
        )
        self._meter = self._provider.get_meter("tokenwire_server")
        self._names: set[str] = set()
        self._open = True

    def observe(self, name: str, *, description: str, kind: Kind, read: Callable[[], Readings], unit: str = "") -> None:
        """Register a number that ``read`` reports when asked, with all its attribute combinations.

        Args:
            name: without the prefix ``tokenwire_``, unit and ``_total``: those are added.
            unit: as UCUM writes it (``By``, ``s``, ``ms``), empty for a count.

        Raises:
            ValueError: the name is taken.
        """
        full = self._claim(name)

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, dict(attributes)) for value, attributes in read()]

        create = {
            Kind.COUNTER: self._meter.create_observable_counter,
            Kind.UP_DOWN: self._meter.create_observable_up_down_counter,
            Kind.GAUGE: self._meter.create_observable_gauge,
        }[kind]
        create(full, [callback], unit, description)

    def histogram(
        self,
        name: str,
        histogram: LatencyHistogram,
        *,
        description: str,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Export a latency histogram as ``tokenwire_NAME_seconds``. One name may be registered several times
        with different values of the same attributes.

        Raises:
            ValueError: the name is taken, by something else or with the same attributes.
        """
        full = f"{PREFIX}{name.removeprefix(PREFIX)}_seconds"
        same = [item.attributes for item in self._histograms.registered if item.name == full]
        if not same:
            self._claim(f"{name}_seconds")
        wanted = dict(attributes or {})
        if any(dict(other) == wanted or other.keys() != wanted.keys() for other in same):
            raise ValueError(f"{full} needs other values of the same attributes each time")
        self._histograms.registered.append(RegisteredHistogram(full, description, histogram, wanted))

    def exposition(self) -> tuple[bytes, str]:
        """All current values in the Prometheus text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE

    def shutdown(self) -> None:
        """Push what OTLP has not got yet, end its thread, forget the callbacks. Safe to repeat."""
        if self._open:
            self._open = False
            self._provider.shutdown(_SHUTDOWN_MS)

    def _claim(self, name: str) -> str:
        full = PREFIX + name.removeprefix(PREFIX)
        if full in self._names:
            raise ValueError(f"the metric {full} is registered already")
        self._names.add(full)
        return full


def build_metrics(*, otlp_endpoint: str | None = None, attributes: Mapping[str, str] | None = None) -> Metrics:
    """A server's :class:`Metrics` with what describes the process itself.

    Raises:
        UserError: as :class:`Metrics`.
    """
    metrics = Metrics(otlp_endpoint=otlp_endpoint, attributes=attributes)
    build = {"version": version("tokenwire")}
    metrics.observe(
        "build_info", description="Constant 1; the label tells the version", kind=Kind.GAUGE, read=lambda: [(1, build)]
    )
    return metrics
