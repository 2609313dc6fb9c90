"""What a seed means: how a simulated world is made up, and which faults befall it when."""

import random
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["ClientSetup", "Fault", "FaultKind", "Setup", "draw_setup"]

FaultKind = Literal[
    "cut",  # a socket ends at some byte; the server hears of it at once, late, or never
    "half_open",  # a socket goes dead in one direction or both, and nobody is told
    "stall",  # a client's host reads nothing for a while
    "restart",  # the server dies and comes back, with or without its state, with or without telling its sockets
    "drain",  # the server shuts down in good order and comes back
    "kill",  # a client's process dies and starts again from its newest checkpoint, an older one, or none
    "refuse",  # handshakes are answered with an HTTP error
    "slow",  # handshakes take long, on the way there or back
    "clock",  # a wall clock is set
    "churn",  # the application subscribes and unsubscribes
    "pause",  # the application reads no events for a while
    "checkpoint",  # the application saves a checkpoint
    "lose",  # a broken intermediary drops, repeats or swaps messages
    "burst",  # a token changes many times at once
]

_WEIGHTS: Final[dict[FaultKind, int]] = {
    "cut": 10,
    "half_open": 4,
    "stall": 4,
    "restart": 2,
    "drain": 1,
    "kill": 4,
    "refuse": 2,
    "slow": 4,
    "clock": 2,
    "churn": 10,
    "pause": 4,
    "checkpoint": 5,
    "lose": 4,
    "burst": 3,
}
_STANDARD_SETS: Final = (
    (),
    ("resume", "details"),
    ("batch", "heartbeat", "resume", "details"),
    ("batch", "heartbeat", "resume", "details"),
    ("batch", "heartbeat", "resume", "details", "zstd"),
    ("resume",),
    ("details",),
    ("batch", "details"),
    ("heartbeat", "resume", "details", "zstd"),
)


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """One client: its wishes, its patience, its network."""

    name: str
    capabilities: tuple[str, ...]
    delivery: Literal["latest", "every"]
    deflate: bool
    ack: Literal["consumed", "checkpoint"]
    ack_frames: int
    ack_interval_ms: int
    queue_events: int
    max_retries: int | None
    idle_timeout_ms: int
    """How long it bears silence, unless the server tells it."""
    latency_ms: int
    high_water_bytes: int
    reads_at_once: int | None
    """How many events the application takes at a time; None: all there are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at ``at`` to client number ``client``. The numbers mean what its kind makes of them."""

    at: int
    kind: FaultKind
    client: int
    a: int
    b: int
    flag: bool


@dataclass(frozen=True, slots=True)
class Setup:
    """A whole schedule. ``pace`` divides the protocol's time-outs, so that more happens in less virtual time."""

    seed: int
    pace: int
    tokens: int
    clients: tuple[ClientSetup, ...]
    faults: tuple[Fault, ...]
    duration_ms: int
    interval_ms: int
    resume_window_ms: int
    resume_max_frames: int
    resume_max_bytes: int
    resume_instance_bytes: int
    max_connections: int
    change_every_ms: int
    still_from_ms: int | None
    """Nothing changes any more from here on: what is lost later is not made good by a newer value."""

    def describe(self) -> str:
        """The schedule as a person reads it."""
        lines = [
            f"seed {self.seed}: {len(self.clients)} client(s), {self.tokens} tokens, {self.duration_ms} ms of faults, "
            f"tick {self.interval_ms} ms, time-outs / {self.pace}, a change every {self.change_every_ms} ms",
            f"  server keeps {self.resume_max_frames} frames, {self.resume_max_bytes} bytes, "
            f"{self.resume_window_ms} ms of a session, {self.resume_instance_bytes} bytes in all; "
            f"{self.max_connections} connections; the market stands still from {self.still_from_ms} ms on",
            *(f"  {client}" for client in self.clients),
            *(
                f"  {fault.at:6} ms {fault.kind:10} {self.clients[fault.client].name} "
                f"a={fault.a} b={fault.b} flag={fault.flag}"
                for fault in self.faults
            ),
        ]
        return "\n".join(lines)


def draw_setup(seed: int) -> Setup:
    """The world of ``seed``."""
    draw = random.Random(f"world {seed}")
    pace = draw.choice((1, 4, 4, 4, 8))
    count = draw.choice((1, 1, 1, 2, 3))
    tokens = draw.randint(2, 6)
    duration = draw.randint(12_000, 30_000) + (20_000 if pace == 1 else 0)
    clients = tuple(_draw_client(draw, number, tokens) for number in range(count))
    faults = [
        Fault(
            at=draw.randrange(500, duration),
            kind=draw.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0],
            client=draw.randrange(count),
            a=draw.randrange(1 << 16),
            b=draw.randrange(1 << 16),
            flag=draw.random() < 0.5,
        )
        for _ in range(draw.randint(2, 9))
    ]
    return Setup(
        seed=seed,
        pace=pace,
        tokens=tokens,
        clients=clients,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        duration_ms=duration,
        interval_ms=draw.choice((500, 1000, 2000, 5000)),
        resume_window_ms=draw.choice((2_000, 120_000 // pace, 120_000 // pace)),
        resume_max_frames=draw.choice((3, 10, 1024, 1024)),
        resume_max_bytes=draw.choice((600, 5_000, 1 << 20, 1 << 20)),
        resume_instance_bytes=draw.choice((3_000, 1 << 28, 1 << 28, 1 << 28)),
        max_connections=draw.choice((count, 1000, 1000)),
        change_every_ms=draw.choice((250, 500, 1_000)),
        still_from_ms=draw.choice((None, duration, duration - 3_000, duration - 8_000)),
    )


def _draw_client(draw: random.Random, number: int, tokens: int) -> ClientSetup:
    capabilities = draw.choice(_STANDARD_SETS)
    small = draw.random() < 0.25
    return ClientSetup(
        name=f"c{number}",
        capabilities=capabilities,
        delivery="every" if "resume" in capabilities and draw.random() < 0.25 else "latest",
        deflate=draw.random() < 0.3,
        ack=draw.choice(("consumed", "consumed", "checkpoint")),
        ack_frames=draw.choice((1, 5, 64)),
        ack_interval_ms=draw.choice((200, 1000, 60_000)),
        queue_events=tokens + 8 if small else 10_000,
        max_retries=draw.choice((None, None, None, None, 2)),
        idle_timeout_ms=draw.choice((20_000, 60_000, 60_000)),
        latency_ms=draw.choice((1, 5, 30, 120)),
        high_water_bytes=draw.choice((0, 400, 2_000, 65_536)),
        reads_at_once=draw.choice((None, None, 1, 3)),
    )
