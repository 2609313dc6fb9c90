"""The shapes of a load, pure: how many users at which time, and of which kinds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["SHAPES", "Shape", "Stage", "stage_at"]


@dataclass(frozen=True)
class Stage:
    """Until ``until_s`` seconds into the run there are to be ``users``, coming or going ``rate`` a second."""

    until_s: float
    users: int
    rate: float


@dataclass(frozen=True)
class Shape:
    """``mix`` gives each kind of user its weight; ``stages(users, duration_s, rate)`` the course of the run, where a
    rate of 0 stands for the shape's own."""

    meaning: str
    mix: dict[str, int]
    stages: Callable[[int, float, float], list[Stage]]


def _ramp(users: int, duration_s: float, rate: float) -> list[Stage]:
    """Everybody has come after 40 % of the time."""
    return [Stage(duration_s, users, rate or max(users / (0.4 * duration_s), 1))]


def _storm(users: int, duration_s: float, rate: float) -> list[Stage]:
    """Three times everybody at once, between them nine of ten go."""
    rate = rate or max(users / 5, 1)
    few = max(users // 10, 1)
    shares = ((0.3, users), (0.4, few), (0.65, users), (0.75, few), (1, users))
    return [Stage(share * duration_s, count, rate) for share, count in shares]


SHAPES: Final = {
    "ramp": Shape("users come evenly and stay", {"Subscriber": 1}, _ramp),
    "storm": Shape("three times all come within 5 s; nine of ten go in between", {"Subscriber": 1}, _storm),
    "churn": Shape(
        "four fifths stay; a tenth subscribe, unsubscribe and reconnect, a tenth lose their connection and resume",
        {"Subscriber": 8, "Churner": 1, "Resumer": 1},
        _ramp,
    ),
    "slow": Shape("one in twenty reads too slowly", {"Subscriber": 19, "SlowConsumer": 1}, _ramp),
    "soak": Shape(
        "all kinds, for as long as you like", {"Subscriber": 17, "Churner": 1, "Resumer": 1, "SlowConsumer": 1}, _ramp
    ),
}


def stage_at(stages: list[Stage], elapsed_s: float) -> Stage | None:
    """The stage of a moment; None when the run is over."""
    return next((stage for stage in stages if elapsed_s < stage.until_s), None)
