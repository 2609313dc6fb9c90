"""Names that the files of ``deploy/`` may use, because the server knows them."""

from pathlib import Path
from typing import Final

from tokenwire_server.settings import Settings
from tokenwire_server.settings_aliases import ALIASES, PREFIX

__all__ = ["DEPLOY", "ROLES", "ROOT", "SETTINGS"]

ROOT: Final = Path(__file__).parents[3]
DEPLOY: Final = ROOT / "deploy"

ROLES: Final = {"collect": 8000, "process": 8001, "gateway": 8002, "load": 8003}
"""Each command that is one part of many, and its port for ``/health``, ``/ready`` and ``/metrics``."""

SETTINGS: Final = frozenset(PREFIX + name.upper() for name in Settings.model_fields) | ALIASES.keys()
"""Every variable that a server reads."""
