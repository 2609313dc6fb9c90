"""The command ``tokenwire-conformance``: test a server or a client, list the cases, explain them.

Every exit status has one meaning, see ``tokenwire_conformance.outcome.ExitStatus``.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.cli_text import CLIENT, CLIENT_PROFILES, EXPLAIN, LIST, SERVER, TOP
from tokenwire_conformance.drive import NothingTestedError
from tokenwire_conformance.explain import UnknownNameError, case_data, case_lines, clause_lines, explain
from tokenwire_conformance.model import PROFILES, Role
from tokenwire_conformance.options import OptionError, all_cases, parts_of
from tokenwire_conformance.outcome import ExitStatus
from tokenwire_conformance.registry import SelectionError, select
from tokenwire_conformance.reports import ReportError
from tokenwire_conformance.reports.text import one_line
from tokenwire_conformance.runner import CaseBrokeError

__all__ = ["main"]

_PROGRAM: Final = "tokenwire-conformance"
_AT_FAULT: Final = "the suite itself is at fault, please report this"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line in ``argv`` (``sys.argv`` without the program unless given) and exit."""
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _complain("interrupted", ExitStatus.INTERRUPTED)
    except BrokenPipeError:
        # A reader such as `head` has enough of a list or a page of help. A run never ends here: it goes on unseen.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = ExitStatus.OK
    except Exception as error:  # whatever it is, it must neither look like a verdict nor like the user's mistake
        if sys.flags.dev_mode:
            raise
        what = f"{type(error).__name__}: {error} (python -X dev shows where)"
        status = _complain(f"{_AT_FAULT}: {what}", ExitStatus.INTERNAL)
    sys.exit(int(status))


def _run(argv: Sequence[str]) -> ExitStatus:
    try:
        arguments = _parser().parse_args(argv)
        match arguments.command:
            case "list":
                return _list(arguments)
            case "explain":
                return _explain(arguments)
            case command:
                from tokenwire_conformance.run_command import run_command  # noqa: PLC0415 - what it needs takes time

                return run_command(Role(command), arguments)
    except (OptionError, UnknownNameError, ReportError) as error:
        return _complain(str(error), ExitStatus.USAGE)
    except NothingTestedError as error:
        return _complain(f"not tested: {error}", ExitStatus.NOT_TESTED)
    except CaseBrokeError as error:
        return _complain(f"{_AT_FAULT}: {error}", ExitStatus.INTERNAL)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tokenwire_conformance"):
            raise
        return _complain(f"{error}; install it with pip install 'tokenwire[conformance]'", ExitStatus.USAGE)


def _complain(message: str, status: ExitStatus) -> ExitStatus:
    print(f"{_PROGRAM}: {one_line(message)}", file=sys.stderr)
    return status


def _list(arguments: argparse.Namespace) -> ExitStatus:
    if arguments.clauses:
        clauses = [c for c in CLAUSES.values() if arguments.role is None or Role(arguments.role) in c.roles]
        if arguments.json:
            print(json.dumps([_clause_data(clause.id) for clause in clauses], indent=2, ensure_ascii=False))
        else:
            print("\n".join(clause_lines(clauses)))
        return ExitStatus.OK
    cases = [case for case in all_cases() if arguments.role is None or case.info.role == arguments.role]
    names = parts_of(arguments.profile or ()) or PROFILES
    try:
        infos = [case.info for case in select(cases, names)]
    except SelectionError as error:
        raise OptionError(str(error)) from error
    if arguments.json:
        print(json.dumps([case_data(info) for info in infos], indent=2, ensure_ascii=False))
    else:
        print("\n".join(case_lines(infos)))
    return ExitStatus.OK


def _clause_data(name: str) -> dict[str, object]:
    clause = CLAUSES[name]
    return {
        "id": clause.id, "level": clause.level.value, "authority": clause.authority.value,
        "roles": [role.value for role in clause.roles], "text": clause.text, "quote": clause.quote,
        "source": clause.source, "capability": clause.capability,
    }  # fmt: skip


def _explain(arguments: argparse.Namespace) -> ExitStatus:
    infos = [case.info for case in all_cases()]
    print("\n\n".join(explain(name, infos, CLAUSES) for name in arguments.name))
    return ExitStatus.OK


# --- the command line --------------------------------------------------------------------------------------------
class _Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit status of this program."""

    def error(self, message: str) -> NoReturn:
        sys.exit(int(_complain(f"{message} (see {self.prog} --help)", ExitStatus.USAGE)))


class _Version(argparse.Action):
    """Looks the version up only when asked: reading a distribution's metadata costs more than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"{_PROGRAM} {version('tokenwire')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        _PROGRAM, description="Does it keep the Token Data WebSocket v1.0 specification? Clause by clause.",
        epilog=TOP, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    server = commands.add_parser(
        "server", help="test a server by its address", epilog=SERVER, formatter_class=raw, allow_abbrev=False,
        description="Test a server by its address alone.",
    )  # fmt: skip
    server.add_argument("url", metavar="URL", help="ws:// or wss://, the specification's path is added where none is")
    server.add_argument("--tokens", metavar="A,B,…", help="tokens to use, or @FILE with one a line")
    server.add_argument("--update-interval", metavar="S", help="the server's update interval (default: 5)")
    server.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="sent with every handshake; no secrets"
    )
    server.add_argument("--header-file", metavar="FILE", help="headers one a line, for credentials")
    server.add_argument("--ca", metavar="FILE", help="certificates (PEM) to trust instead of the system's")
    server.add_argument("--insecure", action="store_true", help="trust any certificate")
    _add_run(server, PROFILES)

    client = commands.add_parser(
        "client", help="test a client by the command that starts it", epilog=CLIENT, formatter_class=raw,
        description="Test a client by the command that starts it.", allow_abbrev=False,
    )  # fmt: skip
    client.add_argument("--exec", required=True, dest="exec_", metavar="COMMAND", help="with {url}, see below")
    _add_run(client, CLIENT_PROFILES)

    listing = commands.add_parser(
        "list", help="list the cases or the clauses", epilog=LIST, formatter_class=raw, allow_abbrev=False,
        description="List the cases, or the clauses.",
    )  # fmt: skip
    listing.add_argument("--role", choices=[role.value for role in Role], help="only those for servers, or for clients")
    listing.add_argument("--profile", action="append", metavar="NAME", help="only cases of this profile")
    listing.add_argument("--clauses", action="store_true", help="the clauses in the place of the cases")
    listing.add_argument("--json", action="store_true", help="for programs")

    explaining = commands.add_parser(
        "explain", help="say what a case does, or a clause demands", epilog=EXPLAIN, formatter_class=raw,
        description="Say what a case sends, what it expects and why; or what a clause demands, and who checks it.",
        allow_abbrev=False,
    )  # fmt: skip
    explaining.add_argument("name", nargs="+", metavar="CASE|CLAUSE", help="for example S-MC-01, MB.sequence or I-18")
    return parser


def _add_run(parser: argparse.ArgumentParser, profiles: Sequence[str]) -> None:
    parser.add_argument(
        "--profile", action="append", default=[], metavar="NAME",
        help=f"{', '.join(profiles)}, ext.* or all (default: core; with --case, any)",
    )  # fmt: skip
    parser.add_argument("--case", action="append", default=[], metavar="ID", help="only this case, or group of cases")
    parser.add_argument(
        "--declare",
        action="append",
        default=[],
        metavar="I-18,…",
        help="Interpretations that it claims to keep, or all",
    )
    parser.add_argument("--strict", action="store_true", help="NON-STRICT fails the run as well")
    parser.add_argument("--known-failures", metavar="FILE", help="cases that may fail, and must")
    parser.add_argument("--json", metavar="FILE", help="write the results for programs")
    parser.add_argument("--junit", metavar="FILE", help="write the results for a CI")
    parser.add_argument("--html", metavar="FILE", help="write one page with every wire log")
    parser.add_argument("--parallel", type=_cases_at_once, metavar="N", help="cases side by side")
    telling = parser.add_mutually_exclusive_group()
    telling.add_argument("--verbose", action="store_true", help="tell of every case, with its notes")
    telling.add_argument("--quiet", action="store_true", help="before the end, tell only of what fails the run")
    parser.add_argument("--no-colour", "--no-color", action="store_true", help="no colours")


def _cases_at_once(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 200:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 200")
    return int(text)


if __name__ == "__main__":
    main()
