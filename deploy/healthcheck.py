"""Whether the server in this container is well: exits with 0 when HEALTH_URL answers 200, else with 1 and a reason.

Needs nothing but Python, so that the image has no curl.
"""

import os
import sys
import urllib.request

TIMEOUT_S = 3.0


def main() -> int:
    url = os.environ.get("HEALTH_URL", "http://127.0.0.1:8080/health")
    # A proxy of the environment is for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
