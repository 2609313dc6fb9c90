"""Install peers of the benchmark: ``python -m loadtests.peers.install [NAME …]``, all when none is named.

Each writes only under its own folder (.venv, node_modules, bin, target). What can't be installed is named with the
reason; the others go on. Exit status 1 when one failed that could have been installed.
"""

import argparse
import subprocess
import sys

from loadtests.peers.manifest import NAMES_HELP, PEERS, Peer, peer_named

LIMIT_S = 540
"""No install step takes longer than this."""


def install(peer: Peer) -> str:
    """Run its commands at low priority; the reason when it can't be installed, empty when it is."""
    reason = peer.why_not()
    if reason and not reason.startswith("not built"):
        return reason
    for command in peer.install:
        try:
            done = subprocess.run(
                ["nice", "-n", "10", *command],
                cwd=peer.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` took more than {LIMIT_S} s"
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            return f"`{' '.join(command[:3])} …` failed: {said[:200]}"
    return peer.why_not()


def main() -> int:
    parser = argparse.ArgumentParser(description="Install peers of the benchmark, each under its own folder.")
    parser.add_argument("peers", nargs="*", metavar="NAME", type=peer_named, help=NAMES_HELP)
    parser.add_argument("--again", action="store_true", help="also those that are installed, to bring them up to date")
    options = parser.parse_args()
    failed = False
    done: dict[tuple[tuple[str, ...], ...], str] = {}
    for peer in options.peers or PEERS:
        if peer.available() and not options.again:
            print(f"{peer.name}: installed", flush=True)
            continue
        if peer.lacking:
            print(f"{peer.name}: {peer.lacking}", flush=True)
            continue
        if peer.install not in done:
            print(f"{peer.name}: installing in loadtests/peers/{peer.folder} …", flush=True)
            done[peer.install] = install(peer)
        reason = done[peer.install]
        print(f"{peer.name}: {reason or 'installed'}", flush=True)
        failed = failed or bool(reason and not reason.startswith("no "))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
