"""Checks before the start."""

import resource
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.preflight import bind_socket, preflight, raise_file_limit, tls_context
from tokenwire_server.settings import Settings, load


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certificate, key


def test_a_busy_port_names_the_port_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} on 127\.0\.0\.1 is already in use.*PORT=\d+ make run"):
            bind_socket("127.0.0.1", port)


def test_a_free_port_is_bound_and_listens() -> None:
    with bind_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize(
    ("host", "words"), [("192.0.2.1", "no address of this machine"), ("no host", "not a known name or address")]
)
def test_a_wrong_host(host: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        bind_socket(host, 0)


def test_certificates(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "a")
    _, other = make_certificate(tmp_path, "b")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    assert tls_context(certificate, key).minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(UserError, match=r"--tls-cert .*gone\.pem cannot be read: No such file"):
        tls_context(tmp_path / "gone.pem", key)
    with pytest.raises(UserError, match=r"--tls-key .* cannot be read: Is a directory"):
        tls_context(certificate, tmp_path)
    with pytest.raises(UserError, match=r"b\.key is not the key of --tls-cert .*a\.pem"):
        tls_context(certificate, other)
    with pytest.raises(UserError, match="must be PEM files"):
        tls_context(broken, key)


@pytest.fixture
def _file_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_file_limit")
def test_the_file_limit_is_raised() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert raise_file_limit(500) == 650
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (650, hard)
    assert raise_file_limit(100) == 650


def test_a_hard_limit_below_the_need_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(UserError, match=r"--max-connections 1000 needs 1150 open files, this system allows 1024.*874"):
        raise_file_limit(1000)


def test_preflight_logs_what_settings_noticed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    preflight(load({"port": 0}, environ={"TOKENWIRE_PORTS": "1"}, env_file=None))
    assert caplog.messages == ["TOKENWIRE_PORTS is no setting; did you mean TOKENWIRE_PORT? (environment)"]
    with pytest.raises(UserError, match="cannot be read"):
        preflight(Settings(port=0, tls_cert=tmp_path / "x", tls_key=tmp_path / "y"))
