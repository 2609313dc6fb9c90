"""HAProxy: only whether it is there, and which; what it balances is told it by the test that needs it."""

import os
import re
import shutil
import subprocess

__all__ = ["find", "lacking", "version"]


def find() -> str:
    """Its program; empty when there is none. Debian keeps it where only root looks."""
    return shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))) or ""


def lacking() -> str:
    """What to install, in one line; empty when it is there."""
    return "" if find() else "no haproxy (apt-get install haproxy)"


def version() -> str:
    said = subprocess.run([find(), "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d[\d.]*)", said)
    return found[1] if found else "unknown"
