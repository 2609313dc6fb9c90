"""What the client raises. Every exception has a ``code`` and says what to do (``remedy``)."""

__all__ = ["ClientClosedError", "ConnectionFailedError", "SubscriptionError", "TokenwireError"]


class TokenwireError(Exception):
    """Base of everything this package raises on purpose."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(f"{code}: {message}. {remedy}" if remedy else f"{code}: {message}")
        self.code = code
        self.message = message
        self.remedy = remedy


class ConnectionFailedError(TokenwireError):
    """The client is in state FAILED: retries are used up, or the server refuses for good."""


class SubscriptionError(TokenwireError):
    """None of the names of a subscribe was accepted. ``rejected`` maps each name to the code of its refusal."""

    def __init__(self, code: str, message: str, remedy: str, rejected: dict[str, str]) -> None:
        super().__init__(code, message, remedy)
        self.rejected = rejected


class ClientClosedError(TokenwireError):
    """The client was closed by the application (or never opened) and is used all the same."""
