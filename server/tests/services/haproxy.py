"""HAProxy with the configuration of ``deploy/haproxy``, in front of gateways that a test started."""

import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from .engine import Engine, new_folder
from .errors import ServiceError
from .ports import free_port
from .process import POLL_S

__all__ = ["CONFIG", "Gateway", "HAProxy", "balancing", "find", "lacking", "version"]

CONFIG: Final = Path(__file__).parents[3] / "deploy" / "haproxy" / "haproxy.cfg"
MAX_GATEWAYS: Final = 8
"""As many as the configuration has places for."""
_MAX_CLIENTS: Final = 2_000
"""Connections at once; two open files each."""
_ASK_S: Final = 2.0
_NOTICES_S: Final = 60
"""Seconds in which it has to notice what became of a gateway, on a machine that is busy with others."""
_UP: Final = re.compile(r'^haproxy_server_status\{proxy="gateways",server="([^"]+)",state="UP"\} 1$', re.MULTILINE)
_CLIENTS: Final = re.compile(
    r'^haproxy_server_current_sessions\{proxy="gateways",server="([^"]+)"\} (\d+)$', re.MULTILINE
)


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


class Gateway(NamedTuple):
    """One of the servers behind it, running or not. HAProxy calls the first ``gateway-1``."""

    port: int
    """For clients."""
    ready_port: int
    """On which it answers ``/ready``."""


class HAProxy(Engine):
    """One HAProxy; clients connect to ``address``."""

    name = "haproxy"

    def __init__(
        self,
        folder: Path,
        gateways: Sequence[Gateway] = (),
        environment: Mapping[str, str] | None = None,
        *,
        password: str = "",
    ) -> None:
        super().__init__(folder, password=password)
        assert len(gateways) <= MAX_GATEWAYS, f"the configuration has {MAX_GATEWAYS} places"
        self.gateways = tuple(gateways)
        self.environment = dict(environment or {})
        self.metrics_port = 0

    @classmethod
    def lacking(cls) -> str:
        return lacking()

    def answers(self) -> bool:
        try:
            return bool(self.metrics())
        except OSError:
            return False

    def metrics(self) -> str:
        """What it tells Prometheus; ``OSError`` when it does not answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=_ASK_S) as answer:
            return str(answer.read().decode())

    def up(self) -> set[str]:
        """Names of the gateways that get new clients now."""
        return set(_UP.findall(self.metrics()))

    def clients(self) -> dict[str, int]:
        """Connections by the name of the gateway that has them."""
        return {name: int(count) for name, count in _CLIENTS.findall(self.metrics())}

    def wait_for(self, *names: str) -> None:
        """Until exactly these gateways get new clients; :class:`ServiceError` when that does not happen."""
        deadline = time.monotonic() + _NOTICES_S
        while (now := self.up()) != set(names):
            if time.monotonic() > deadline:
                said = f"{self.log} ends with:\n{self._last_words()}"
                raise ServiceError(f"{sorted(now)} are up, not {sorted(names)}; {said}")
            time.sleep(POLL_S)

    def _create(self) -> None:
        self.metrics_port = free_port()

    def _command(self) -> list[str]:
        return [find(), "-db", "-f", str(CONFIG)]

    def _environment(self) -> dict[str, str]:
        places = {}
        for number, gateway in enumerate(self.gateways, 1):
            places[f"TOKENWIRE_GATEWAY_{number}"] = f"127.0.0.1:{gateway.port}"
            places[f"TOKENWIRE_GATEWAY_{number}_READY"] = str(gateway.ready_port)
        return {
            "TOKENWIRE_BIND": self.address,
            "TOKENWIRE_BALANCER_METRICS": f"127.0.0.1:{self.metrics_port}",
            "TOKENWIRE_MAX_CLIENTS": str(_MAX_CLIENTS),
            **places,
            **self.environment,
        }

    def _find_version(self) -> str:
        return version()


@contextmanager
def balancing(gateways: Sequence[Gateway], environment: Mapping[str, str] | None = None) -> Iterator[HAProxy]:
    """A HAProxy in front of these for the block, with more of the configuration's variables in ``environment``.

    Raises:
        ServiceError: it is not installed, or does not start.
    """
    balancer = HAProxy(new_folder(), gateways, environment)
    try:
        balancer.launch()
        yield balancer
    finally:
        balancer.destroy()
        balancer.folder.rmdir()
