"""What a history goes on from, worked out of what it says of itself. Pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tokenwire_server.history.port import ForeignHistoryError
from tokenwire_server.market.records import Beginning

__all__ = ["UNKNOWN_NUMBERS", "Resumption", "resume"]

_OTHER_PLACE: Final = "name another schema with TIMESCALE_SCHEMA"

UNKNOWN_NUMBERS: Final = 1_000_000_000  # skipped when a crash left no bound of them: more than are ever unsaved


class Resumption(NamedTuple):
    """The beginning, and by how many the number of every stored token's newest trade is to be raised before."""

    beginning: Beginning
    skipped: int


def resume(
    meta: Mapping[str, str], offsets: Mapping[str, str], reserved: int | None, stream: str, *, follows: bool
) -> Resumption:
    """Of the stored ``meta`` (stream, follows, version, numbered, floor, finished); the rest as of
    :meth:`~tokenwire_server.history.port.History.begin`, and so is what it raises."""
    stored = meta.get("stream", stream)
    if "stream" in meta:
        _check(meta.get("follows") == "1", stored, follows=follows, stream=stream)
    numbered, floor, skipped = int(meta.get("numbered", 0)), int(meta.get("floor", 0)), 0
    if meta.get("finished") == "0" and not follows:
        upto = numbered + UNKNOWN_NUMBERS if reserved is None else max(reserved, numbered)
        skipped = upto - numbered
    beginning = Beginning(stored, int(meta.get("version", 0)), numbered + skipped, floor + skipped, offsets)
    return Resumption(beginning, skipped)


def _check(has_followed: bool, stored: str, *, follows: bool, stream: str) -> None:
    if has_followed and not follows:
        raise ForeignHistoryError(
            f"what is stored there comes from Kafka by way of load, and nobody else may write it; {_OTHER_PLACE}"
        )
    if follows and not has_followed:
        raise ForeignHistoryError(
            "what is stored there was written by run, collect or import, whose trades have other numbers than those in "
            f"Kafka; {_OTHER_PLACE}"
        )
    if follows and stored != stream:
        raise ForeignHistoryError(
            "what is stored there comes from another log: other brokers, or topics that were deleted and made again; "
            f"name those brokers and topics, or {_OTHER_PLACE}"
        )
