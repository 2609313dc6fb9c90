"""The server cases, a module for each group of clauses. Importing this package fills ``server.bench.SERVER``."""

from tokenwire_conformance.server.bench import SERVER
from tokenwire_conformance.server.cases import mc

__all__ = ["SERVER", "mc"]
