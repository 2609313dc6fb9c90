"""Pushing metrics to an OpenTelemetry collector; needs the extra ``tokenwire[otlp]``."""

import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)

from tokenwire_server.errors import UserError
from tokenwire_server.telemetry.histogram import RegisteredHistogram

__all__ = ["otlp_reader"]

_PATH: Final = "/v1/metrics"


def otlp_reader(
    endpoint: str, histograms: Sequence[RegisteredHistogram], interval_ms: float | None = None
) -> MetricReader:
    """A reader that pushes to ``endpoint`` from a thread of its own (every 60 s, or what
    ``OTEL_METRIC_EXPORT_INTERVAL`` says). ``histograms`` is read at each push, so it may still grow.

    Raises:
        UserError: the exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415 - an extra
            OTLPMetricExporter,
        )
    except ModuleNotFoundError:
        raise UserError(
            "pushing metrics (TOKENWIRE_OTLP_ENDPOINT) needs an exporter; install it: pip install 'tokenwire[otlp]'"
        ) from None
    parts = urlsplit(endpoint)
    # A bare collector address means its standard path, as OTEL_EXPORTER_OTLP_ENDPOINT has it.
    url = urlunsplit(parts._replace(path=_PATH)) if parts.path in ("", "/") else endpoint
    exporter = _WithHistograms(OTLPMetricExporter(endpoint=url), histograms)
    return PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms)


class _WithHistograms(MetricExporter):
    """Adds the plain-number histograms to what the SDK collected, then lets the real exporter send it."""

    def __init__(self, inner: MetricExporter, histograms: Sequence[RegisteredHistogram]) -> None:
        super().__init__()
        self._inner = inner
        self._histograms = histograms
        self._started_ns = time.time_ns()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        extended = MetricsData([self._extend(entry) for entry in metrics_data.resource_metrics])
        # None is left to the exporter's own default.
        given = {} if timeout_millis is None else {"timeout_millis": timeout_millis}
        return self._inner.export(extended, **given, **kwargs)

    def _extend(self, entry: ResourceMetrics) -> ResourceMetrics:
        if not entry.scope_metrics:
            return entry
        first, *others = entry.scope_metrics
        merged = ScopeMetrics(first.scope, [*first.metrics, *self._metrics()], first.schema_url)
        return ResourceMetrics(entry.resource, [merged, *others], entry.schema_url)

    def _metrics(self) -> list[Metric]:
        now_ns = time.time_ns()
        return [
            Metric(
                item.name.removesuffix("_seconds"),
                item.description,
                "s",
                Histogram([_point(item, self._started_ns, now_ns)], AggregationTemporality.CUMULATIVE),
            )
            for item in self._histograms
        ]

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._inner.shutdown(timeout_millis, **kwargs)


def _point(item: RegisteredHistogram, started_ns: int, now_ns: int) -> HistogramDataPoint:
    histogram = item.histogram
    bounds = [ms / 1000 for ms in histogram.bounds_ms]
    counts = tuple(histogram.counts)
    return HistogramDataPoint(
        attributes=dict(item.attributes),
        start_time_unix_nano=started_ns,
        time_unix_nano=now_ns,
        count=sum(counts),
        sum=histogram.sum_ms / 1000,
        bucket_counts=counts,
        explicit_bounds=bounds,
        # The extremes are not kept; the wire format has them optional, the SDK's type does not.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )
