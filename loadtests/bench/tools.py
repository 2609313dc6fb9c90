"""The two C programs of the benchmark, compiled once for each state of their source."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["BUILD", "ROOT", "BenchError", "compiled"]

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
BUILD: Final = HERE / "build"
"""Everything the benchmark makes goes here unless told otherwise; git ignores it."""


class BenchError(Exception):
    """Something the user can mend, in one line."""


def compiled(name: str) -> Path:
    """The program made of ``name``.c (``sink`` or ``floor``).

    Raises:
        BenchError: there is no C compiler, or it refuses the source.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("the benchmark needs a C compiler: install gcc or clang, or name one in CC")
    sources = [HERE / f"{name}.c", HERE / "net.h"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    program = BUILD / f"{name}-{digest}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")  # several may compile at once; the rename decides
        command = [compiler, "-D_GNU_SOURCE", "-std=gnu11", "-O2", "-Wall", "-o", str(made), str(sources[0])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise BenchError(f"{compiler} refuses {name}.c: {done.stderr.strip().splitlines()[0]}")
        made.rename(program)
    return program
