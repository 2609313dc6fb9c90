"""The command ``tokenwire-conformance``, also as ``python -m tokenwire_conformance``."""

import sys
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main() -> NoReturn:
    """Run the command line of ``sys.argv`` and exit."""
    try:
        # Imported here, for it takes its time: a Ctrl-C meanwhile is the user's, too.
        from tokenwire_conformance.cli import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        print("tokenwire-conformance: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
