"""What a client asks for at the handshake, and what it is granted (Interpretation I-50)."""

from enum import StrEnum
from typing import Final, Literal, NamedTuple

import msgspec

__all__ = ["NOTHING", "STRICT", "Capability", "Deflate", "Grants", "Offer", "grant"]


class Capability(StrEnum):
    """Extensions of the protocol, by their names on the wire."""

    BATCH = "batch"
    HEARTBEAT = "heartbeat"
    RESUME = "resume"
    DETAILS = "details"
    CHANNELS = "channels"
    ZSTD = "zstd"


class Deflate(NamedTuple):
    """What was agreed of permessage-deflate for our messages (RFC 7692 7.1): the client's window, 2 to the power of
    ``window_bits`` bytes, and whether it keeps that from message to message."""

    window_bits: int = 15
    takeover: bool = True


class Offer(msgspec.Struct, frozen=True):
    """A client's wishes: of the capabilities those that are known.

    ``session`` is the secret of the session to resume, ``position`` the last number received in order (None when
    missing or no number), ``attempt`` rises with every try of one client.
    """

    capabilities: frozenset[str] = frozenset()
    delivery: Literal["latest", "every"] = "latest"
    session: str | None = None
    position: int | None = None
    attempt: int = 0


NOTHING: Final = Offer()


class Grants(msgspec.Struct, frozen=True):
    """What is in force. ``heartbeat`` and ``zstd`` belong to a socket, the others to the session (I-54)."""

    batch: bool = False
    heartbeat: bool = False
    resume: bool = False
    details: bool = False
    channels: bool = False
    zstd: bool = False
    every: bool = False

    @property
    def capabilities(self) -> list[str]:
        """The granted names, as ``data.capabilities`` lists them."""
        return [capability.value for capability in Capability if getattr(self, capability.value)]

    def fits(self, other: "Grants") -> bool:
        """Whether a session that was granted ``other`` can go on under these."""
        mine = (self.batch, self.resume, self.details, self.channels, self.every)
        return mine == (other.batch, other.resume, other.details, other.channels, other.every)


STRICT: Final = Grants()


def grant(offer: Offer) -> Grants:
    """Everything that is known of what ``offer`` asks for; ``every`` only together with ``resume`` (I-63)."""
    wanted = offer.capabilities
    if not wanted:
        return STRICT
    granted = {capability.value: capability.value in wanted for capability in Capability}
    return Grants(**granted, every=offer.delivery == "every" and granted[Capability.RESUME])
