"""What the results were measured on: hardware and versions, no names of hosts or folders."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loadtests.peers.manifest import BY_NAME

__all__ = ["describe"]

PACKAGES = ("tokenwire", "uvloop", "isal", "zstandard", "msgspec", "websockets", "uvicorn")


def describe(peers: Iterable[str]) -> Mapping[str, str]:
    """The machine, our versions, and those of the peers that took part."""
    memory = _first(r"MemTotal:\s*(\d+)", "/proc/meminfo")
    found = {
        "CPU": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo"),
        "cores used": f"{min(len(os.sched_getaffinity(0)), 2)} of {os.cpu_count()}",
        "memory": f"{int(memory or 0) / 1e6:.1f} GB",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "C library": " ".join(platform.libc_ver()),
        "compiler": _compiler(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    for name in peers:
        found[f"peer {name}"] = BY_NAME[name].versions()
    return found


def _first(pattern: str, path: str) -> str:
    match = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"))
    return match[1].strip() if match else ""


def _compiler() -> str:
    try:
        done = subprocess.run(["cc", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "unknown"
    return done.stdout.splitlines()[0] if done.stdout else "unknown"
