"""Checks before the start, so that what a person can mend is said in one line instead of failing later."""

import errno
import socket
import ssl
from pathlib import Path
from typing import Final

from tokenwire_schemas import limits
from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import get_log

__all__ = ["RESERVED_FILES", "bind_socket", "preflight", "raise_file_limit", "tls_context"]

RESERVED_FILES: Final = 100  # sources, REST requests, logs, the interpreter's own
_BACKLOG: Final = 2048

_log = get_log(__name__)


def preflight(settings: Settings) -> None:
    """All checks before a start with ``settings``; logs what the settings have to say about names without effect.

    Raises:
        UserError: in one line, for the first check that fails.
    """
    for notice in settings.notices:
        _log.warning(notice)
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls_context(settings.tls_cert, settings.tls_key)
    raise_file_limit(settings.max_connections)
    bind_socket(settings.host, settings.port).close()


def bind_socket(host: str, port: int, flag: str = "--port") -> socket.socket:
    """A listening socket on ``host:port``, for uvicorn's ``serve(sockets=[…])``; port 0 takes a free one. ``flag`` is
    what names the port on the command line.

    Binding here, instead of asking whether the port is free, leaves no moment in which another could take it.

    Raises:
        UserError: the port is taken or reserved, or the host is none of this machine's.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"host {host!r} is not a known name or address; use --host 127.0.0.1, or 0.0.0.0") from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # SO_REUSEADDR lets two sockets bind that do not listen yet: only listening settles whose port it is.
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UserError(_bind_problem(host, port, flag, error)) from None
    return listener


def _bind_problem(host: str, port: int, flag: str, error: OSError) -> str:
    other = port + 1 if port < 65535 else 8080
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is already in use; stop what uses it or choose another: " + (
                f"PORT={other} make run, or tokenwire-server --port {other}" if flag == "--port" else f"{flag} {other}"
            )
        case errno.EACCES | errno.EPERM:
            return f"port {port} needs privileges that this user lacks; choose one from 1024 up, as {flag} 8080"
        case errno.EADDRNOTAVAIL:
            return f"host {host} is no address of this machine; use --host 127.0.0.1, or 0.0.0.0 for all"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The TLS context of these files (PEM), TLS 1.2 or newer.

    Raises:
        UserError: a file can't be read, is no PEM, needs a passphrase, or the two do not belong together.
    """
    for name, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"{name} {path} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without the callback OpenSSL would stop and ask at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserError(f"--tls-key {key} is not the key of --tls-cert {certificate}") from None
        raise UserError(
            f"--tls-cert {certificate} and --tls-key {key} must be PEM files, the key without a passphrase"
        ) from None
    return context


def raise_file_limit(max_connections: int) -> int:
    """Raise the limit of open files to what ``max_connections`` sockets need; returns the limit in force.

    Needed are the connections, those over capacity that are being told so, and a reserve.

    Raises:
        UserError: the hard limit is lower than that.
    """
    try:
        import resource  # noqa: PLC0415 - exists on Unix only; elsewhere there is no such limit
    except ImportError:
        return 0
    needed = max_connections + limits.MAX_REJECTED_SOCKETS + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return soft
    if hard != resource.RLIM_INFINITY and hard < needed:
        possible = hard - needed + max_connections
        fewer = f" or use --max-connections {possible}" if possible > 0 else ""
        raise UserError(
            f"--max-connections {max_connections} needs {needed} open files, this system allows {hard}: "
            f"raise the limit (ulimit -n {needed}){fewer}"
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot raise the limit of open files from {soft} to {needed}: {error}") from None
    return needed
