"""What the person who runs the tests can mend."""

__all__ = ["ServiceError"]


class ServiceError(Exception):
    """An engine is not there or did not start; the text says what to do, in a line or with the end of its log."""
