"""What a client needs to go on after its process was restarted."""

import msgspec

from tokenwire.cuts import HIDDEN, as_repr, shown
from tokenwire.errors import CheckpointError
from tokenwire_schemas.limits import MAX_SEQUENCE

__all__ = ["Checkpoint"]

_FORMAT = 1


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=False):
    """A client's place in the stream, covering exactly the events that were taken from it.

    ``session`` is the session's secret (keep it like a password), None without ``resume``; ``position`` the number
    up to which everything was taken; ``attempt`` rises with every connection. ``names`` maps each wanted name to its
    address, None as long as it is not known; ``versions`` holds the last version taken of each address in ``stream``.
    """

    session: str | None = None
    position: int = 0
    attempt: int = 0
    stream: str | None = None
    names: dict[str, str | None] = {}
    versions: dict[str, int] = {}
    format: int = _FORMAT

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """The fields without the secret."""
        return shown(self, session=self.session and HIDDEN)

    def __repr__(self) -> str:
        """Without the secret: checkpoints end up in logs."""
        return as_repr(type(self).__name__, self.__rich_repr__())

    def to_json(self) -> str:
        """The checkpoint as text, to be saved where secrets may be."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Checkpoint":
        """Reads what :meth:`to_json` wrote.

        Raises:
            CheckpointError: the text is none, or of a later format.
        """
        remedy = "Start without a checkpoint; current values follow."
        try:
            found = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise CheckpointError("INVALID_CHECKPOINT", f"not a checkpoint: {error}", remedy) from None
        if found.format != _FORMAT:
            raise CheckpointError("INVALID_CHECKPOINT", f"format {found.format} is not known here", remedy)
        if not 0 <= found.position <= MAX_SEQUENCE or not 0 <= found.attempt <= MAX_SEQUENCE:
            raise CheckpointError("INVALID_CHECKPOINT", "position or attempt is out of range", remedy)
        if not all(0 <= version <= MAX_SEQUENCE for version in found.versions.values()):
            raise CheckpointError("INVALID_CHECKPOINT", "a version is out of range", remedy)
        return found
