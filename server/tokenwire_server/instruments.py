"""What is measured, by which name: the spec's five (Monitoring) and what an operator needs beside them.

Everything is a plain integer of its owner, read when somebody asks.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import NamedTuple, TypeVar

from tokenwire_server.core.plain_hub import PlainHub
from tokenwire_server.core.plain_room import StreamForm
from tokenwire_server.core.states import LinkState
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.history.recorder import HistoryState, Recorder
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState, Tallied
from tokenwire_server.telemetry.histogram import LatencyHistogram
from tokenwire_server.telemetry.metrics import Kind, Metrics, Readings, build_metrics

__all__ = ["FeedCounts", "build_instruments", "observe_feed", "observe_socketio"]

K = TypeVar("K")


def build_instruments(pipeline: Pipeline, endpoint: Endpoint, streams: PlainHub, otlp_endpoint: str | None) -> Metrics:
    """All metrics of a server. Raises UserError if OTLP is asked for and not installed."""
    metrics = build_metrics(otlp_endpoint=otlp_endpoint)
    _connections(metrics, endpoint)
    _sessions(metrics, endpoint)
    _traffic(metrics, endpoint)
    _latency(metrics, endpoint)
    _streams(metrics, streams)
    _channels(metrics, pipeline)
    _market(metrics, pipeline)
    if pipeline.recorder is not None:
        _history(metrics, pipeline.recorder)
    return metrics


def _connections(metrics: Metrics, endpoint: Endpoint) -> None:
    hub = endpoint.hub
    stats = hub.stats

    def states() -> Readings:
        counts = dict.fromkeys((LinkState.CONNECTED, LinkState.REJECTED, LinkState.CLOSING), 0)
        for link in hub.links:
            counts[link.state] += 1
        for link in hub.parting:
            counts[link.state] += 1
        counts[LinkState.REJECTED] += hub.rejected
        return [(count, {"state": state.value}) for state, count in counts.items()]

    metrics.observe("connections", description="Connections by state.", kind=Kind.GAUGE, read=states)
    metrics.observe(
        "connection_state_changes",
        description="Steps between connection states.",
        kind=Kind.COUNTER,
        read=lambda: [(n, {"from": a.value, "to": b.value}) for (a, b), n in stats.steps.items()],
    )
    metrics.observe(
        "connections_closed_by_server",
        description="Connections that the server closed, by close code.",
        kind=Kind.COUNTER,
        read=lambda: _by(stats.closes, "code"),
    )
    metrics.observe(
        "handshakes_refused",
        description="Upgrade requests answered with an HTTP error, by status.",
        kind=Kind.COUNTER,
        read=lambda: _by(endpoint.handshakes_refused, "status"),
    )
    metrics.observe(
        "subscriptions",
        description="Tokens subscribed to, summed over sessions, those that wait for their client among them.",
        kind=Kind.GAUGE,
        read=lambda: [(hub.sets.subscriptions, {})],
    )
    metrics.observe(
        "subscription_sets",
        description="Distinct sets of subscribed tokens; connections with equal sets share their work.",
        kind=Kind.GAUGE,
        read=lambda: [(len(hub.sets), {})],
    )
    metrics.observe(
        "sessions_behind",
        description="Connections whose socket takes no more, so that their updates are conflated.",
        kind=Kind.GAUGE,
        read=lambda: [(sum(link.session.is_behind for link in hub.links), {})],
    )
    metrics.observe(
        "queued_frames",
        description="Replies and values that wait for a socket, summed over connections.",
        kind=Kind.GAUGE,
        read=lambda: [(sum(link.session.waits() for link in hub.links), {})],
    )
    metrics.observe(
        "write_stalls",
        description="Times a socket took nothing for 5 s.",
        kind=Kind.COUNTER,
        read=lambda: [(stats.stalls, {})],
    )


def _sessions(metrics: Metrics, endpoint: Endpoint) -> None:
    hub = endpoint.hub
    stats, registry, ledger = hub.stats, hub.registry, hub.ledger

    def sessions() -> Readings:
        detached = len(registry.detached)
        return [(len(registry) - detached, {"state": "attached"}), (detached, {"state": "detached"})]

    def ack_lag() -> int:
        return max((session.sequence - session.ring.acked for session in registry if session.ring), default=0)

    metrics.observe(
        "sessions_resumable",
        description="Sessions that can be resumed, with a socket and waiting for their client.",
        kind=Kind.GAUGE,
        read=sessions,
    )
    metrics.observe(
        "resumes",
        description="Clients that asked for their session back, by outcome.",
        kind=Kind.COUNTER,
        read=lambda: _by(stats.resumes, "outcome"),
    )
    metrics.observe(
        "sessions_evicted",
        description="Sessions given up while their client was away, by cause.",
        kind=Kind.COUNTER,
        read=lambda: _by(stats.evicted, "cause"),
    )
    gauges: dict[str, tuple[str, str, Callable[[], int]]] = {
        "replay_frames_held": ("Frames kept for a replay, summed over sessions.", "", lambda: ledger.frames),
        "replay_held": (
            "Memory of the frames kept for a replay; what is shared counts once.",
            "By",
            lambda: ledger.octets,
        ),
        "ack_lag_frames": ("Frames sent and not acknowledged, of the session with the most.", "", ack_lag),
        "sessions_streaming": ("Sessions that get every version.", "", lambda: hub.streaming),
    }
    for name, (description, unit, read) in gauges.items():
        metrics.observe(name, description=description, unit=unit, kind=Kind.GAUGE, read=_one(read))
    counters: dict[str, tuple[str, Callable[[], int]]] = {
        "replays_requested": ("Replay messages that were served.", lambda: stats.replays),
        "replay_hits": ("Frames sent once more, after a resume or on request.", lambda: stats.replayed),
        "replay_misses": ("Frames asked for once more that were not held.", lambda: stats.replay_missed),
        "acks_received": ("Acknowledgments of sessions that can be resumed.", lambda: stats.acks),
        "heartbeats_sent": ("Heartbeat messages, answers to pings among them.", lambda: stats.heartbeats),
    }
    for name, (description, read) in counters.items():
        metrics.observe(name, description=description, kind=Kind.COUNTER, read=_one(read))


def _traffic(metrics: Metrics, endpoint: Endpoint) -> None:
    stats = endpoint.hub.stats
    counters: dict[str, tuple[str, str, Callable[[], int]]] = {
        "frames_sent": ("Numbered frames sent.", "", lambda: stats.frames),
        "updates_sent": ("Token values sent.", "", lambda: stats.updates),
        "versions_conflated": (
            "Token versions overtaken by a newer one before a frame carried them, summed over clients.",
            "",
            lambda: stats.conflated,
        ),
        "messages_received": ("Messages of clients.", "", lambda: stats.messages_in),
        "messages_dropped": ("Messages and control frames beyond a client's rate.", "", lambda: stats.dropped_in),
        "received": ("Bytes of clients, after the handshake.", "By", lambda: stats.bytes_in),
        "sent": ("Bytes to clients: framed, compressed, before TLS.", "By", lambda: stats.bytes_out),
        "ticks": ("Update ticks.", "", lambda: stats.ticks),
        "ticks_skipped": ("Ticks left out because an earlier one was late.", "", lambda: endpoint.ticks_skipped),
    }
    for name, (description, unit, read) in counters.items():
        metrics.observe(name, description=description, unit=unit, kind=Kind.COUNTER, read=_one(read))
    metrics.observe(
        "defects",
        description="Exceptions that should not have been; each is in the log with its traceback.",
        kind=Kind.COUNTER,
        read=_one(lambda: endpoint.defects + stats.bad_rows),
    )
    metrics.observe(
        "errors",
        description="Errors and warnings told to clients, by catalogue code.",
        kind=Kind.COUNTER,
        read=lambda: _by(stats.errors, "code"),
    )


def _latency(metrics: Metrics, endpoint: Endpoint) -> None:
    message, lag, duration = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    endpoint.hub.stats.latency = message
    endpoint.tick_lag = lag
    endpoint.tick_time = duration
    metrics.histogram(
        "message_latency",
        message,
        description="From a change's arrival to its tick; at most the update interval plus the lag.",
    )
    metrics.histogram("tick_lag", lag, description="How late a tick began after its planned instant.")
    metrics.histogram("tick_duration", duration, description="Time to number and hand over one tick's frames.")


def _streams(metrics: Metrics, hub: PlainHub) -> None:
    """Of the plain paths."""
    stats = hub.stats

    def forms() -> Readings:
        counts = dict.fromkeys(StreamForm, 0)
        for room in hub.rooms.values():
            counts[room.key.form] += len(room.live) + len(room.behind)
        return [(count, {"stream": form.value}) for form, count in counts.items()]

    metrics.observe("stream_clients", description="Clients of the plain paths.", kind=Kind.GAUGE, read=forms)
    metrics.observe(
        "streams_closed_by_server",
        description="Clients of the plain paths that the server closed, by close code.",
        kind=Kind.COUNTER,
        read=lambda: _by(stats.closes, "code"),
    )
    metrics.observe(
        "slow_consumers_cut",
        description="Clients of the plain paths closed because they lagged, by the limit that was exceeded.",
        kind=Kind.COUNTER,
        read=lambda: _by(stats.cuts, "limit"),
    )
    gauges: dict[str, tuple[str, str, Callable[[], int]]] = {
        "streams": ("Distinct streams of the plain paths that somebody listens to.", "", lambda: len(hub.rooms)),
        "stream_clients_behind": (
            "Clients of the plain paths whose socket takes no more.",
            "",
            lambda: sum(len(room.behind) for room in hub.rooms.values()),
        ),
        "stream_log_held": (
            "Memory of the messages kept for those clients.",
            "By",
            lambda: sum(room.log_octets for room in hub.rooms.values()),
        ),
    }
    for name, (description, unit, read) in gauges.items():
        metrics.observe(name, description=description, unit=unit, kind=Kind.GAUGE, read=_one(read))
    counters: dict[str, tuple[str, str, Callable[[], int]]] = {
        "stream_messages": ("Messages of the plain paths, counted once for all clients.", "", lambda: stats.published),
        "stream_sent": ("Bytes of messages to clients of the plain paths.", "By", lambda: stats.bytes_out),
        "stream_received": ("Bytes of clients of the plain paths.", "By", lambda: stats.bytes_in),
        "stream_messages_dropped": (
            "Messages and control frames of such clients beyond their rate.",
            "",
            lambda: stats.dropped_in,
        ),
    }
    for name, (description, unit, read) in counters.items():
        metrics.observe(name, description=description, unit=unit, kind=Kind.COUNTER, read=_one(read))


def _channels(metrics: Metrics, pipeline: Pipeline) -> None:
    """Of the v1.0 endpoint."""
    topics, books, stats = pipeline.hub.topics, pipeline.books, pipeline.hub.stats
    gauges: dict[str, tuple[str, Callable[[], int]]] = {
        "channel_sets": ("Distinct sets of channels that sessions hold, prices aside.", lambda: len(topics)),
        "channel_subscriptions": ("Subscriptions of sessions to those.", lambda: topics.subscriptions),
        "order_books": ("Order books kept up to date, because somebody wants them.", lambda: len(books)),
    }
    for name, (description, read) in gauges.items():
        metrics.observe(name, description=description, kind=Kind.GAUGE, read=_one(read))
    counters: dict[str, tuple[str, Callable[[], int]]] = {
        "channel_events": ("Trades and closed bars handed to sessions.", lambda: stats.events),
        "order_books_crossed": ("Times that a book's best bid reached its best ask.", lambda: books.crossed),
    }
    for name, (description, read) in counters.items():
        metrics.observe(name, description=description, kind=Kind.COUNTER, read=_one(read))


def observe_socketio(metrics: Metrics, sockets: Sized, cut: Callable[[], int]) -> None:
    """Of the Socket.IO path: its clients now, and how many did not read and were ended."""
    metrics.observe(
        "socketio_clients", description="Clients of Socket.IO.", kind=Kind.GAUGE, read=_one(lambda: len(sockets))
    )
    metrics.observe(
        "socketio_clients_cut",
        description="Clients of Socket.IO that were ended because they did not read.",
        kind=Kind.COUNTER,
        read=_one(cut),
    )


def _history(metrics: Metrics, recorder: Recorder) -> None:
    builder = recorder.builder
    metrics.observe(
        "history_state",
        description="1 for the state that the storing of bars and trades is in.",
        kind=Kind.GAUGE,
        read=lambda: [(int(recorder.status.state is state), {"state": state.value}) for state in HistoryState],
    )
    metrics.observe(
        "history_rows_waiting",
        description="Trades and bars that wait to be stored.",
        kind=Kind.GAUGE,
        read=_one(lambda: builder.rows),
    )
    counters: dict[str, tuple[str, Callable[[], int]]] = {
        "history_commits": ("Batches stored.", lambda: recorder.commits),
        "history_failures": ("Attempts to store a batch that failed.", lambda: recorder.failures),
        "history_rows_pruned": ("Rows deleted, being older than they are kept.", lambda: recorder.rows_pruned),
        "trades_unnumbered": (
            "Trades applied without a number, because none could be reserved: in no list and no stream of trades.",
            lambda: recorder.unnumbered,
        ),
    }
    for name, (description, read) in counters.items():
        metrics.observe(name, description=description, kind=Kind.COUNTER, read=_one(read))
    metrics.observe(
        "history_given_up",
        description="Trades, and series of bars with holes, that were not stored because too much waited.",
        kind=Kind.COUNTER,
        read=lambda: [
            (builder.given_up_trades, {"what": "trades"}),
            (builder.given_up_bars, {"what": "series"}),
        ],
    )


def _market(metrics: Metrics, pipeline: Pipeline) -> None:
    market = pipeline.market
    metrics.observe("tokens", description="Known tokens.", kind=Kind.GAUGE, read=lambda: [(len(market), {})])
    metrics.observe(
        "tokens_stale",
        description="Tokens older than their source promises.",
        kind=Kind.GAUGE,
        read=lambda: [(len(pipeline.hub.staleness.stale), {})],
    )
    feed = FeedCounts(
        pipeline.source_states,
        pipeline.accepted,
        pipeline.values_taken,
        pipeline.gaps,
        pipeline.rejections,
        pipeline.tallied,
    )
    observe_feed(metrics, feed)
    metrics.observe(
        "data_doubted",
        description="Trades and stated values that were used although something about them is odd.",
        kind=Kind.COUNTER,
        read=lambda: [(n, {"source": s, "reason": r}) for (s, r), n in pipeline.doubts.items()],
    )
    metrics.observe(
        "trades_set_aside",
        description="Valid trades and stated values with no effect, or with one on volumes only.",
        kind=Kind.COUNTER,
        read=lambda: [
            (market.duplicates, {"reason": "duplicate"}),
            (market.late, {"reason": "late"}),
            (market.unknown, {"reason": "unknown_token"}),
            (market.foreign, {"reason": "foreign_token"}),
            (market.mixed, {"reason": "mixed_kind"}),
        ],
    )


class FeedCounts(NamedTuple):
    """What is counted of sources; the numbers may change, the containers stay."""

    states: Callable[[], Mapping[str, SourceState]]
    trades: Mapping[str, int]
    """That passed validation, by source."""
    values: Mapping[str, int]
    gaps: Mapping[str, tuple[int, int]]
    """Holes, and trades in them, by source."""
    rejections: Mapping[tuple[str, str], int]
    """By source and reason."""
    tallied: Sequence[Tallied]


def observe_feed(metrics: Metrics, feed: FeedCounts) -> None:
    """What sources brought, and how they are."""
    metrics.observe(
        "source_state",
        description="1 for the state that a source is in.",
        kind=Kind.GAUGE,
        read=lambda: [
            (int(state is now), {"source": source, "state": state.value})
            for source, now in feed.states().items()
            for state in SourceState
        ],
    )
    metrics.observe(
        "trades_accepted",
        description="Trades that passed validation, by source.",
        kind=Kind.COUNTER,
        read=lambda: _by(feed.trades, "source"),
    )
    metrics.observe(
        "values_accepted",
        description="Stated values that passed validation, by source.",
        kind=Kind.COUNTER,
        read=lambda: _by(feed.values, "source"),
    )
    metrics.observe(
        "source_events",
        description="What sources did: frames, reconnects, poll cycles, requests and the like.",
        kind=Kind.COUNTER,
        read=lambda: [
            (count, {"source": source, "event": event})
            for tallied in feed.tallied
            for source, event, count in tallied.tally()
        ],
    )
    metrics.observe(
        "source_gaps",
        description="Holes in a source's own numbering.",
        kind=Kind.COUNTER,
        read=lambda: [(gaps, {"source": source}) for source, (gaps, _) in feed.gaps.items()],
    )
    metrics.observe(
        "trades_missed",
        description="Trades in those holes.",
        kind=Kind.COUNTER,
        read=lambda: [(missed, {"source": source}) for source, (_, missed) in feed.gaps.items()],
    )
    metrics.observe(
        "data_rejected",
        description="Trades and frames of sources that were not used.",
        kind=Kind.COUNTER,
        read=lambda: [(n, {"source": s, "reason": r}) for (s, r), n in feed.rejections.items()],
    )


def _by(counts: Mapping[K, int], label: str) -> Readings:
    return [(count, {label: str(key)}) for key, count in counts.items()]


def _one(read: Callable[[], int]) -> Callable[[], Readings]:
    return lambda: [(read(), {})]
