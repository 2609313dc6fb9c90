"""``python -m conformance.tests.kills --csv`` prints the published matrix from the hand-written expectation."""

import csv
import io
import sys
from pathlib import Path
from typing import Final

from conformance.tests.kills_server import SERVER_KILLS

__all__ = ["SERVER_CSV", "server_csv"]

SERVER_CSV: Final = Path(__file__).parents[1] / "kill-matrix-server.csv"


def server_csv() -> str:
    """One row for each pair of fault and failing case."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("fault", "case", "verdict", "reason"))
    for fault, kill in SERVER_KILLS.items():
        writer.writerows((fault, case, "not OK", kill.reason) for case in sorted(kill.cases))
    return out.getvalue()


if __name__ == "__main__" and sys.argv[1:] == ["--csv"]:
    sys.stdout.write(server_csv())
