"""Conformance of Token Data WebSocket v1.0 servers and clients, clause by clause.

``tokenwire-conformance server ws://…`` tests a server by its address alone, ``tokenwire-conformance client --exec …`` a
client by the program that starts it. The suite has its own WebSocket peer and imports neither the server nor the SDK
that are developed beside it; of the contract it reads the JSON Schemas.

This module imports nothing, so that the pytest plugin costs nothing where it is not used.
"""

__all__ = ["model"]
