"""What /metrics and OTLP say about plain numbers."""

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from tokenwire_server.errors import UserError
from tokenwire_server.telemetry.histogram import DEFAULT_BOUNDS_MS, LatencyHistogram
from tokenwire_server.telemetry.metrics import Kind, Metrics, Readings, build_metrics


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    built = build_metrics()
    yield built
    built.shutdown()


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_numbers_are_read_at_each_scrape(metrics: Metrics) -> None:
    counts = {"INVALID_JSON": 1, "RATE_LIMITED": 2}
    opened = 0

    def errors() -> Readings:
        return ((count, {"code": code}) for code, count in counts.items())

    metrics.observe("errors", description="Errors sent", kind=Kind.COUNTER, read=errors)
    metrics.observe("sent", description="Bytes sent", kind=Kind.COUNTER, unit="By", read=lambda: [(10, {})])
    metrics.observe("tokenwire_open", description="Open", kind=Kind.UP_DOWN, read=lambda: [(opened, {})])
    metrics.observe("age", description="Age", kind=Kind.GAUGE, unit="s", read=lambda: [(1.5, {"source": "a"})])
    first = samples(metrics)
    assert first["tokenwire_errors_total", (("code", "RATE_LIMITED"),)] == 2
    assert first["tokenwire_sent_bytes_total", ()] == 10
    assert first["tokenwire_open", ()] == 0
    assert first["tokenwire_age_seconds", (("source", "a"),)] == 1.5
    counts["RATE_LIMITED"] = 5
    opened = 3
    second = samples(metrics)
    assert second["tokenwire_errors_total", (("code", "RATE_LIMITED"),)] == 5
    assert second["tokenwire_open", ()] == 3


def test_what_is_gone_is_not_reported_for_ever(metrics: Metrics) -> None:
    states = {"a": 1, "b": 1}
    metrics.observe(
        "source_up", description="d", kind=Kind.GAUGE, read=lambda: [(v, {"source": k}) for k, v in states.items()]
    )
    assert ("tokenwire_source_up", (("source", "b"),)) in samples(metrics)
    del states["b"]
    assert ("tokenwire_source_up", (("source", "b"),)) not in samples(metrics)


def test_a_failing_callback_spoils_only_its_own_metric(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Readings:
        raise RuntimeError("broken")

    metrics.observe("broken", description="d", kind=Kind.GAUGE, read=broken)
    metrics.observe("fine", description="d", kind=Kind.GAUGE, read=lambda: [(1, {})])
    assert samples(metrics)["tokenwire_fine", ()] == 1
    assert "broken" in caplog.text


def test_the_process_itself_is_described(metrics: Metrics) -> None:
    names = {name for name, _ in samples(metrics)}
    assert "tokenwire_build_info" in names
    if sys.platform == "linux":
        assert {
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
        } <= names


def test_a_name_is_taken_once(metrics: Metrics) -> None:
    histogram = LatencyHistogram()
    metrics.observe("x", description="d", kind=Kind.GAUGE, read=lambda: [])
    with pytest.raises(ValueError, match="tokenwire_x is registered"):
        metrics.observe("tokenwire_x", description="d", kind=Kind.COUNTER, read=lambda: [])
    metrics.histogram("lag", histogram, description="d", attributes={"stage": "a"})
    metrics.histogram("lag", histogram, description="d", attributes={"stage": "b"})
    for attributes in ({"stage": "a"}, {"other": "c"}, {}):
        with pytest.raises(ValueError, match="other values of the same attributes"):
            metrics.histogram("lag", histogram, description="d", attributes=attributes)


def test_a_histogram_is_exported_in_seconds(metrics: Metrics) -> None:
    histogram = LatencyHistogram((1, 100))
    metrics.histogram("message_latency", histogram, description="Latency", attributes={"kind": "update"})
    for ms in (0.5, 1, 50, 100, 101, -3):
        histogram.observe(ms)
    histogram.observe(50, times=10)
    found = samples(metrics)
    name = "tokenwire_message_latency_seconds"
    buckets = {dict(labels)["le"]: value for (sample, labels), value in found.items() if sample == f"{name}_bucket"}
    assert buckets == {"0.001": 3, "0.1": 15, "+Inf": 16}
    assert found[f"{name}_count", (("kind", "update"),)] == 16
    assert found[f"{name}_sum", (("kind", "update"),)] == pytest.approx(0.7525)


def test_two_servers_do_not_mix() -> None:
    before = {family.name for family in REGISTRY.collect()}
    one, two = build_metrics(), build_metrics()
    one.observe("only_here", description="d", kind=Kind.GAUGE, read=lambda: [(1, {})])
    assert b"only_here" in one.exposition()[0]
    assert b"only_here" not in two.exposition()[0]
    assert {family.name for family in REGISTRY.collect()} == before
    one.shutdown()
    assert b"tokenwire_build_info" in two.exposition()[0]
    two.shutdown()


def test_no_thread_and_a_repeatable_end() -> None:
    before = threading.active_count()
    metrics = build_metrics()
    metrics.exposition()
    assert threading.active_count() == before
    metrics.shutdown()
    metrics.shutdown()
    assert b"process_" in metrics.exposition()[0]


@pytest.mark.parametrize("bounds", [(), (2, 1), (1, 1)])
def test_bounds_must_rise(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rise"):
        LatencyHistogram(bounds)


def test_an_observation_is_cheap() -> None:
    """A bound far above the 0.2 us it takes, far below the 5 us of an SDK histogram."""
    histogram = LatencyHistogram()
    best = min(_time(histogram) for _ in range(5))
    assert best < 2e-6
    assert histogram.count == 5 * 10_000
    assert len(histogram.cumulative()) == len(DEFAULT_BOUNDS_MS) + 1


def _time(histogram: LatencyHistogram) -> float:
    begin = time.perf_counter()
    for _ in range(10_000):
        histogram.observe(7)
    return (time.perf_counter() - begin) / 10_000


class _Collector(http.server.BaseHTTPRequestHandler):
    received: list[tuple[str, ExportMetricsServiceRequest]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, ExportMetricsServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_otlp_pushes_numbers_and_histograms_and_ends_its_thread() -> None:
    received: list[tuple[str, ExportMetricsServiceRequest]] = []
    handler = type("Handler", (_Collector,), {"received": received})
    before = threading.active_count()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        metrics = build_metrics(otlp_endpoint=f"http://127.0.0.1:{server.server_port}", attributes={"a": "b"})
        histogram = LatencyHistogram((1, 100))
        metrics.histogram("message_latency", histogram, description="d")
        histogram.observe(50)
        metrics.shutdown()  # pushes once more
        server.shutdown()
        serving.join()
    assert threading.active_count() == before
    path, request = received[-1]
    assert path == "/v1/metrics"
    resource = request.resource_metrics[0]
    attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert attributes["service.name"] == "tokenwire-server"
    assert attributes["a"] == "b"
    found = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert "tokenwire_build_info" in found
    point = found["tokenwire_message_latency"].histogram.data_points[0]
    assert (list(point.bucket_counts), list(point.explicit_bounds), point.count) == ([0, 1, 0], [0.001, 0.1], 1)
    assert not point.HasField("max")


def test_otlp_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(UserError, match=r"pip install 'tokenwire\[otlp\]'"):
        build_metrics(otlp_endpoint="http://127.0.0.1:1")


def test_otlp_is_not_imported_unless_asked_for() -> None:
    probe = (
        "import sys; from tokenwire_server.telemetry.metrics import build_metrics; build_metrics().shutdown(); "
        "sys.exit(bool({'requests', 'opentelemetry.exporter.otlp'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", probe], timeout=30, check=False).returncode == 0
