"""Our own server and client under the suite: every profile, every Interpretation declared.

Run: python conformance/tools/ours.py [server|client …]     Reports go to the folder build/conformance.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tokenwire_server.sources.simulation import Simulation

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "build" / "conformance"
SUITE = [sys.executable, "-m", "tokenwire_conformance"]
SEED = 7
START_S = 30.0


def reports(role: str) -> list[str]:
    """Options that write every kind of report."""
    endings = {"--json": "json", "--junit": "xml", "--html": "html"}
    return [word for option, ending in endings.items() for word in (option, str(REPORTS / f"{role}.{ending}"))]


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def judge_server() -> int:
    """Start the server as anybody would, and judge it; the suite's exit status."""
    port = free_port()
    tokens = REPORTS / "tokens.txt"
    tokens.write_text("\n".join(token.address for token in Simulation(seed=SEED).tokens()), "utf-8")
    environment = {**os.environ, "TOKENWIRE_SEED": str(SEED)}
    with (REPORTS / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tokenwire_server", "run", "--port", str(port), "--drain", "0"],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        try:
            wait_for(port, server)
            address = f"ws://127.0.0.1:{port}/api/v1/ws/token-data"
            return subprocess.call(
                [*SUITE, "server", address, "--tokens", f"@{tokens}", "--profile", "all", "--declare", "all",
                 *reports("server")]
            )  # fmt: skip
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return once the port accepts connections."""
    deadline_s = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"the server does not listen; see {REPORTS / 'server.log'}")


def judge_client() -> int:
    """Judge the SDK through its example; the suite's exit status."""
    program = ROOT / "client_sdk" / "examples" / "conformance_client.py"
    command = f"'{sys.executable}' '{program}' {{url}} {{tokens}}"
    return subprocess.call(
        [*SUITE, "client", "--exec", command, "--profile", "all", "--declare", "all", *reports("client")]
    )


ROLES = {"server": judge_server, "client": judge_client}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roles", nargs="*", choices=[*ROLES, []], help="what to judge (default: both)")
    chosen = parser.parse_args().roles or list(ROLES)
    REPORTS.mkdir(parents=True, exist_ok=True)
    sys.exit(max(ROLES[role]() for role in chosen))
