"""What ``tokenwire-server config`` prints."""

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenwire_server.settings import Settings, explain

__all__ = ["print_json", "print_table"]


def print_table(settings: Settings) -> None:
    """Setting, value and origin, one a row; names that are set without effect follow on standard error."""
    table = Table("setting", "value", "origin", header_style="bold", box=None, pad_edge=False)
    for row in explain(settings):
        style = "dim" if row.origin == "default" else ""
        # Text, not str: a value in brackets is no markup.
        table.add_row(Text(row.env_name), Text(row.value), Text(row.origin), style=style)
    Console(soft_wrap=True).print(table)
    errors = Console(stderr=True, soft_wrap=True)
    for notice in settings.notices:
        errors.print(Text(f"note: {notice}"))


def print_json(settings: Settings) -> None:
    """``{"settings": [{name, env, value, origin}], "notices": [...]}``."""
    rows = [
        {"name": row.name, "env": row.env_name, "value": row.value, "origin": row.origin} for row in explain(settings)
    ]
    print(json.dumps({"settings": rows, "notices": list(settings.notices)}, indent=2))
