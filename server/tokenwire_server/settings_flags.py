"""Which settings have a flag on the command line."""

from collections.abc import Mapping
from typing import Final

__all__ = ["FLAGS", "ROLE_FLAGS"]

FLAGS: Final[Mapping[str, str]] = {
    "host": "--host",
    "port": "--port",
    "update_interval_s": "--update-interval",
    "max_connections": "--max-connections",
    "source": "--source",
    "seed": "--seed",
    "tape_speed": "--tape-speed",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "data": "--data",
    "drain_s": "--drain",
    "socketio": "--socketio",
    "log_level": "--log-level",
    "log_format": "--log-format",
}
"""The flag of ``run`` of each setting that has one."""

ROLE_FLAGS: Final[Mapping[str, str]] = {
    **FLAGS,
    "kafka_bootstrap_servers": "--kafka",
    "instance": "--instance",
    "role_port": "--role-port",
}
"""The same of commands that are one role of several."""
