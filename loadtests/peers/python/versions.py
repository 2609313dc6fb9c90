"""Print the versions of Python and of the packages named, in one line."""

import platform
import sys
from importlib.metadata import version

print(f"Python {platform.python_version()},", ", ".join(f"{name} {version(name)}" for name in sys.argv[1:]))
