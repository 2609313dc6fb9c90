"""The manifests of Kubernetes: against the schemas of several versions, and one against another."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tokenwire_server.stream.topics import PARTITIONS

from .names import DEPLOY, ROLES, SETTINGS

FOLDER = DEPLOY / "kubernetes"
VERSIONS = ("1.31", "1.33", "1.35", "1.37")
_COMPONENT = "app.kubernetes.io/component"
_CLOSES_S = 10
"""What follows a drain: 5 s for the last closes, 5 s for HTTP."""

Manifest = dict[str, Any]


def documents(name: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text("utf-8")) if each]


FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
ALL = [each for name in FILES for each in documents(name)]
WORKLOADS = [each for each in ALL if each["kind"] in ("Deployment", "StatefulSet")]
NAMES = [each["metadata"]["name"] for each in WORKLOADS]


def of(kind: str, name: str) -> Manifest:
    (found,) = [each for each in ALL if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(workload: Manifest) -> Manifest:
    found = workload["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def container(workload: Manifest) -> Manifest:
    (found,) = pod(workload)["containers"]
    assert isinstance(found, dict)
    return found


def variables(workload: Manifest) -> Iterator[tuple[str, str]]:
    """Every variable of its container, with its value; of what comes from elsewhere the value is empty."""
    for source in container(workload)["envFrom"]:
        yield from of("ConfigMap", source["configMapRef"]["name"])["data"].items()
    for variable in container(workload)["env"]:
        yield variable["name"], variable.get("value", "")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_keeps_its_schema(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for manifest in ALL:
        validator.validate(manifest, version, strict=True)
    broken = {**of("ConfigMap", "tokenwire"), "daten": {}}
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, version, strict=True)


def test_the_kustomization_has_all_but_the_example() -> None:
    (kustomization,) = documents("kustomization.yaml")
    assert sorted(kustomization["resources"]) == [name for name in FILES if "example" not in name]
    namespaces = {each["metadata"].get("namespace") for each in ALL if each["kind"] != "Namespace"}
    assert namespaces == {kustomization["namespace"]} == {of("Namespace", "tokenwire")["metadata"]["name"]}
    assert {container(each)["image"] for each in WORKLOADS} == {image["name"] for image in kustomization["images"]}


def test_there_is_one_workload_for_each_role() -> None:
    assert {container(each)["args"][0] for each in WORKLOADS} == ROLES.keys()
    assert {each["kind"] for each in WORKLOADS if each["metadata"]["name"] != "gateway"} == {"StatefulSet"}


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_its_settings_are_ours(workload: Manifest) -> None:
    given = [name for name, _ in variables(workload)]
    assert len(set(given)) == len(given)
    assert set(given) <= SETTINGS, set(given) - SETTINGS
    (instance,) = [each for each in container(workload)["env"] if each["name"] == "TOKENWIRE_INSTANCE"]
    assert instance["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    secret = of("Secret", "tokenwire")["stringData"]
    asked = [
        each["valueFrom"]["secretKeyRef"]["key"] for each in container(workload)["env"] if "secretKeyRef" in str(each)
    ]
    assert set(asked) <= secret.keys()
    assert not any(secret.values()), "an example has no secret in it"


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_it_is_asked_at_its_own_port(workload: Manifest) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(workload)["ports"]}
    assert ports["role"] == ROLES[container(workload)["args"][0]]
    paths = {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    for probe, path in paths.items():
        assert container(workload)[probe]["httpGet"] == {"path": path, "port": "role"}
    annotations = workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": str(ports["role"])}


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_it_may_do_only_what_it_needs(workload: Manifest) -> None:
    may = pod(workload)["securityContext"]
    user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert user is not None
    assert (may["runAsUser"], may["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert may["runAsNonRoot"] is True
    assert pod(workload)["automountServiceAccountToken"] is False
    inside = container(workload)["securityContext"]
    assert inside["readOnlyRootFilesystem"] is True
    assert inside["allowPrivilegeEscalation"] is False
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} <= container(workload)["resources"].keys()


@pytest.mark.parametrize("workload", WORKLOADS, ids=NAMES)
def test_it_has_the_time_to_drain(workload: Manifest) -> None:
    before_s = 0
    if hook := container(workload).get("lifecycle"):
        waits = re.search(r"sleep\((\d+)\)", hook["preStop"]["exec"]["command"][-1])
        assert waits is not None
        before_s = int(waits[1])
    drain_s = float(dict(variables(workload)).get("TOKENWIRE_DRAIN_S", 5))
    assert pod(workload)["terminationGracePeriodSeconds"] >= before_s + drain_s + _CLOSES_S


def test_a_gateway_is_out_of_the_service_before_it_drains() -> None:
    gateway = container(of("Deployment", "gateway"))
    waits = re.search(r"sleep\((\d+)\)", gateway["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert waits is not None
    probe = gateway["readinessProbe"]
    assert int(waits[1]) > probe["periodSeconds"] * probe["failureThreshold"]
    assert gateway["lifecycle"]["preStop"]["exec"]["command"][0] == "python", (
        "nothing of the image but Python is relied on"
    )
    assert of("Deployment", "gateway")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in of("Deployment", "gateway")["spec"], "the autoscaler has the say"


def test_selectors_find_their_pods() -> None:
    for workload in WORKLOADS:
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels == {_COMPONENT: workload["metadata"]["name"]}
    for each in ALL:
        if each["kind"] == "Service":
            ports = {port["name"] for port in container(_workload(each["spec"]["selector"][_COMPONENT]))["ports"]}
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
        if each["kind"] == "PodDisruptionBudget":
            assert _workload(each["spec"]["selector"]["matchLabels"][_COMPONENT])
        if each["kind"] == "HorizontalPodAutoscaler":
            target = each["spec"]["scaleTargetRef"]
            assert of(target["kind"], target["name"])
            assert each["spec"]["minReplicas"] >= 2, "the clients of one need a place to go"
    for workload in WORKLOADS:
        if workload["kind"] == "StatefulSet":
            assert of("Service", workload["spec"]["serviceName"])["spec"]["clusterIP"] == "None"


def _workload(name: str) -> Manifest:
    (found,) = [each for each in WORKLOADS if each["metadata"]["name"] == name]
    return found


def test_no_more_work_than_there_is() -> None:
    assert int(of("ConfigMap", "tokenwire")["data"]["TOKENWIRE_KAFKA_PARTITIONS"]) == PARTITIONS
    assert 2 <= of("StatefulSet", "processor")["spec"]["replicas"] <= PARTITIONS
    for alone in ("collector", "loader"):
        assert of("StatefulSet", alone)["spec"]["replicas"] == 1
