"""Every metric that alerts and dashboard may use, with its labels: what a process exposes is held against it."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = [
    "BALANCER",
    "CACHE",
    "COLLECTOR_CACHE",
    "METRICS",
    "OF_SCRAPES",
    "ROLES_METRICS",
    "SERVER",
    "exposed",
    "lacking",
]

Labels = frozenset[str]

_SOURCE: Final[Labels] = frozenset({"source"})
_CODE: Final[Labels] = frozenset({"code"})
_OUTCOME: Final[Labels] = frozenset({"outcome"})
_NONE: Final[Labels] = frozenset()

SERVER: Final[Mapping[str, Labels]] = {
    "process_cpu_seconds_total": _NONE,
    "process_max_fds": _NONE,
    "process_open_fds": _NONE,
    "process_resident_memory_bytes": _NONE,
    "tokenwire_connections": frozenset({"state"}),
    "tokenwire_connections_closed_by_server_total": _CODE,
    "tokenwire_data_rejected_total": frozenset({"source", "reason"}),
    "tokenwire_defects_total": _NONE,
    "tokenwire_errors_total": _CODE,
    "tokenwire_history_given_up_total": frozenset({"what"}),
    "tokenwire_history_state": frozenset({"state"}),
    "tokenwire_message_latency_seconds_bucket": frozenset({"le"}),
    "tokenwire_resumes_total": _OUTCOME,
    "tokenwire_sent_bytes_total": _NONE,
    "tokenwire_sessions_behind": _NONE,
    "tokenwire_source_state": frozenset({"source", "state"}),
    "tokenwire_stream_clients": frozenset({"stream"}),
    "tokenwire_stream_clients_behind": _NONE,
    "tokenwire_stream_sent_bytes_total": _NONE,
    "tokenwire_streams_closed_by_server_total": _CODE,
    "tokenwire_tick_duration_seconds_bucket": frozenset({"le"}),
    "tokenwire_tick_lag_seconds_bucket": frozenset({"le"}),
    "tokenwire_trades_accepted_total": _SOURCE,
    "tokenwire_trades_missed_total": _SOURCE,
    "tokenwire_updates_sent_total": _NONE,
    "tokenwire_versions_conflated_total": _NONE,
}
"""Of ``run``, and of the roles that do the same."""

CACHE: Final[Mapping[str, Labels]] = {
    "tokenwire_cache_failures_total": frozenset({"task"}),
    "tokenwire_cache_generation": _NONE,
    "tokenwire_cache_generation_age_seconds": _NONE,
    "tokenwire_cache_leads": frozenset({"lock"}),
    "tokenwire_cache_pages_total": frozenset({"from"}),
    "tokenwire_cache_refreshes_total": _OUTCOME,
    "tokenwire_cache_up": _NONE,
}
"""Of ``run`` and ``gateway`` with a shared cache, once there is an index."""

COLLECTOR_CACHE: Final = {
    name: CACHE[name] for name in ("tokenwire_cache_failures_total", "tokenwire_cache_leads", "tokenwire_cache_up")
}
"""Of ``collect``, if it polls."""

ROLES_METRICS: Final[Mapping[str, Mapping[str, Labels]]] = {
    "collect": {
        "tokenwire_collector_clock_skew_seconds": _NONE,
        "tokenwire_collector_records_total": _NONE,
        "tokenwire_collector_transactions_total": _OUTCOME,
        "tokenwire_collector_waiting_records": _NONE,
        "tokenwire_role_ready": _NONE,
    },
    "process": {
        "tokenwire_processor_lag_records": _NONE,
        "tokenwire_processor_partitions": _NONE,
        "tokenwire_processor_poisoned_total": _NONE,
        "tokenwire_processor_rebuilt_total": _NONE,
        "tokenwire_processor_records_total": _NONE,
        "tokenwire_processor_transactions_total": _OUTCOME,
        "tokenwire_role_ready": _NONE,
    },
    "gateway": {
        "tokenwire_gateway_clock_skew_seconds": _NONE,
        "tokenwire_gateway_log_records_total": _NONE,
        "tokenwire_gateway_replica_lag_records": _NONE,
        "tokenwire_role_ready": _NONE,
    },
    "load": {
        "tokenwire_loader_commit_failures_total": _NONE,
        "tokenwire_loader_lag_records": frozenset({"topic", "partition"}),
        "tokenwire_loader_records_total": frozenset({"topic"}),
        "tokenwire_loader_rows_total": frozenset({"kind"}),
        "tokenwire_role_ready": _NONE,
    },
}
"""Of each role, by its command."""

BALANCER: Final[Mapping[str, Labels]] = {
    "haproxy_backend_active_servers": frozenset({"proxy"}),
    "haproxy_server_current_sessions": frozenset({"proxy", "server"}),
    "haproxy_server_http_responses_total": frozenset({"proxy", "server", "code"}),
}

OF_SCRAPES: Final[Labels] = frozenset({"job", "instance", "role"})
"""Labels that ``prometheus.yml`` gives to everything."""

METRICS: Final[Mapping[str, Labels]] = {
    "up": _NONE,
    **SERVER,
    **CACHE,
    **BALANCER,
    **{name: labels for metrics in ROLES_METRICS.values() for name, labels in metrics.items()},
}

_SAMPLE: Final = re.compile(r"^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? \S+", re.MULTILINE | re.IGNORECASE)
_LABEL: Final = re.compile(r'([a-z_]\w*)="(?:[^"\\]|\\.)*"')


def exposed(text: str) -> dict[str, set[str]]:
    """Names in an exposition, each with all its labels."""
    found: dict[str, set[str]] = {}
    for name, labels in _SAMPLE.findall(text):
        found.setdefault(name, set()).update(_LABEL.findall(labels))
    return found


def lacking(text: str, metrics: Mapping[str, Labels], *, unless: Iterable[str] = ()) -> list[str]:
    """What an exposition does not have of ``metrics``, one line each, except for the names in ``unless``."""
    found = exposed(text)
    return [
        f"{name} is not exposed" if name not in found else f"{name} has the labels {sorted(found[name])}"
        for name, labels in metrics.items()
        if name not in unless and (name not in found or found[name] != labels)
    ]
