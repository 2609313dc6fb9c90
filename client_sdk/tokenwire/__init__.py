"""The client package of tokenwire. The reconnecting client comes with the next version; see the changelog."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("tokenwire")
