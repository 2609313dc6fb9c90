"""Faults on purpose, and what must hold under them: a proxy, a tap, one history format, one set of invariants."""
