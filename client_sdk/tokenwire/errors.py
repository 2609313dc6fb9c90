"""What the client raises. Every exception has a ``code`` and says what to do (``remedy``)."""

__all__ = [
    "CheckpointError",
    "ClientClosedError",
    "ConfigError",
    "ConnectionFailedError",
    "RequestError",
    "SubscriptionError",
    "TokenwireError",
]


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


class RequestError(TokenwireError):
    """A request was not answered (REPLY_TIMEOUT). What was to be subscribed stays wanted and is tried again later."""


class ClientClosedError(TokenwireError):
    """The client was closed by the application (or never opened) and is used all the same."""


class ConfigError(TokenwireError, ValueError):
    """A setting that cannot work; the message names it."""


class CheckpointError(TokenwireError, ValueError):
    """A text that is no checkpoint."""
