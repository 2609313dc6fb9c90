"""The console script ``tokenwire-server``: errors that a person can mend are one line and exit code 2."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from tokenwire_server.errors import UserError

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_OURS = ("tokenwire_server", "tokenwire_schemas")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line in ``argv`` (``sys.argv`` without the program unless given) and exit."""
    sys.exit(_run(sys.argv[1:] if argv is None else argv))


def _run(arguments: Sequence[str]) -> int | str | None:
    try:
        # Imported here: on a base install the command line's own libraries are missing as well.
        from tokenwire_server.cli import run_command  # noqa: PLC0415

        return run_command(arguments)
    except UserError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # A reader such as `head` left: nothing more can be said, not even by the flush at exit.
        sys.stdout = None
        return 1
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if not root or root in _OURS:
            raise  # a mistake of ours, not of the installation
        return _complain(f"{root} is not installed; install the server: pip install 'tokenwire[server]'", 2)


def _complain(message: str, exit_code: int) -> int:
    print(f"tokenwire-server: {' '.join(message.split())}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()
