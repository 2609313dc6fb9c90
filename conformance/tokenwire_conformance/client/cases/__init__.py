"""The client cases, a module for each group of clauses. Importing this package fills ``client.bench.CLIENT``."""

from tokenwire_conformance.client.bench import CLIENT
from tokenwire_conformance.client.cases import (
    cm,
    cm_backoff,
    cm_codes,
    cm_silence,
    cr,
    cs,
    dc,
    eh,
    ep,
    mb,
    me,
    mo,
    ms,
    mu,
    pf,
    xa,
    xb,
    xh,
    xr,
    xz,
)

__all__ = [
    "CLIENT", "cm", "cm_backoff", "cm_codes", "cm_silence", "cr", "cs", "dc", "eh", "ep", "mb", "me", "mo", "ms", "mu",
    "pf", "xa", "xb", "xh", "xr", "xz",
]  # fmt: skip
