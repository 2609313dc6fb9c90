"""The contract of the Token Data WebSocket Service v1.0: data first, then one typed reading of it.

``v1/`` holds a JSON Schema for every message, ``errors.json`` the error catalogue. The modules read them:
``limits`` (every number), ``messages`` and ``extension_messages`` (Structs), ``errors`` and ``close_codes``
(enumerations), ``codec`` (text to values and back), ``schema_files`` (the schemas, loaded), ``asyncapi`` (one
AsyncAPI document).

This package imports nothing by itself, so that ``generate`` runs while a generated file is out of date.
"""

__all__ = ["asyncapi", "close_codes", "codec", "errors", "extension_messages", "limits", "messages", "schema_files"]
