"""Certificates and gateways for the tests of the balancer."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .gateways import LiveGateway


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, in one file."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl (apt-get install openssl)")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., LiveGateway]]:
    """Makes real gateways with more options of ``run``; those that still run after the test are killed."""
    made: list[LiveGateway] = []

    def make(*options: str) -> LiveGateway:
        made.append(LiveGateway(tmp_path, *options))
        return made[-1]

    yield make
    for gateway in made:
        gateway.kill()
