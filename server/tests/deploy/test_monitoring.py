"""Prometheus's files read by promtool, the dashboard by what Grafana needs of it, and all names by a real server's."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.asyncio.client import connect

from ..services.fixtures import Balance
from .gateways import LiveGateway, get, scripted
from .metrics import BALANCER, METRICS, OF_SCRAPES, SERVER, exposed, lacking
from .names import DEPLOY, ROLES, ROOT

PROMETHEUS = DEPLOY / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/tokenwire.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

_NAME = re.compile(r"(?:tokenwire|haproxy|process)_[a-z_]+|\bup\b")
_SELECTED = re.compile(r"([a-z_]+)\{([^}]*)\}")
_GROUPED = re.compile(r"\b(?:by|without) \(([a-z_, ]*)\)")
_SHOWN = re.compile(r"\{\{ ?(?:\$labels\.)?([a-z_]+) ?\}\}")
RARE = {"tokenwire_data_rejected_total", "tokenwire_trades_missed_total", "tokenwire_streams_closed_by_server_total"}
"""Exposed only after what they count has happened, which a well source and well clients don't let happen."""


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool (in Debian's package prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_reads_what_is_scraped_and_the_rules() -> None:
    assert "1 rule files found" in promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")
    shown = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text("utf-8"))["tests"]
    assert [test["name"] for test in shown] == [rule["alert"] for rule in ALERTS]
    for test in shown:
        quiet, firing = test["promql_expr_test"]
        assert quiet["expr"] == firing["expr"]
        assert test["name"] in firing["expr"]
        assert (len(quiet["exp_samples"]), len(firing["exp_samples"])) == (0, 1)


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_says_what_it_is_about(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "what_to_do"}


def check_names(query: str, where: str) -> None:
    names = set(_NAME.findall(query))
    assert names, where
    assert names <= METRICS.keys(), (where, names - METRICS.keys())
    known = set.union(set(OF_SCRAPES), *(METRICS[name] for name in names))
    for name, selected in _SELECTED.findall(query):
        labels = set(re.findall(r"([a-z_]+)(?:=|!)", selected))
        assert labels <= METRICS[name] | OF_SCRAPES, (where, name)
    for grouped in _GROUPED.findall(query):
        assert set(grouped.split(", ")) <= known, where


def test_alerts_and_dashboard_use_metrics_that_there_are() -> None:
    for rule in ALERTS:
        check_names(rule["expr"], rule["alert"])
        used = set.union(*(set(METRICS[name]) for name in _NAME.findall(rule["expr"])))
        for text in rule["annotations"].values():
            assert set(_SHOWN.findall(text)) <= used | OF_SCRAPES, text
    for panel in PANELS:
        for target in panel["targets"]:
            check_names(target["expr"], panel["title"])


def test_every_metric_of_the_table_is_used() -> None:
    used = set(_NAME.findall(" ".join([*QUERIES, *(rule["expr"] for rule in ALERTS)])))
    assert METRICS.keys() == used


def test_the_queries_of_the_dashboard_are_right(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", file)


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert DASHBOARD["uid"] == "tokenwire"
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {f"${{{variable['name']}}}" for variable in DASHBOARD["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] in variables
        assert panel["fieldConfig"]["defaults"]["unit"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        for target in panel["targets"]:
            labels = set.union(set(OF_SCRAPES), *(METRICS[name] for name in _NAME.findall(target["expr"])))
            assert set(_SHOWN.findall(target["legendFormat"])) <= labels, panel["title"]


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["uid"] == DASHBOARD["templating"]["list"][0]["current"]["value"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/tokenwire.yml").read_text())["providers"]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    folders = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in folders
    assert source["url"] == "http://prometheus:9090"


def test_everything_in_compose_is_scraped() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    targets = {target for job in jobs for group in job["static_configs"] for target in group["targets"]}
    expected = {
        f"{name}:{ROLES[service['command'][0]]}"
        for name, service in services.items()
        if service["image"] == "tokenwire"
    }
    assert expected <= targets
    assert f"haproxy{services['haproxy']['environment']['TOKENWIRE_BALANCER_METRICS']}" in targets


def test_the_number_of_partitions_is_that_of_the_topics() -> None:
    from tokenwire_server.stream.topics import PARTITIONS

    (rule,) = [rule for rule in ALERTS if rule["alert"] == "TokenwirePartitionsWithoutProcessor"]
    assert rule["expr"].endswith(f"< {PARTITIONS}")


async def test_a_server_exposes_what_is_asked_of_it(live: Callable[..., LiveGateway], tmp_path: Path) -> None:
    gateway = live("--data", str(tmp_path / "data"), "--max-connections", "1", "--drain", "0")
    await asyncio.to_thread(gateway.start)
    url = f"ws://127.0.0.1:{gateway.port}/api/v1/ws/token-data"
    async with connect(f"{url}?caps=resume&session=unknown&seq=1") as first:
        await first.recv()
        async with connect(url) as refused:
            await refused.wait_closed()
        text = await asyncio.to_thread(get, f"http://127.0.0.1:{gateway.port}/metrics")
    assert not lacking(text, SERVER, unless=RARE)
    assert re.search(r'^tokenwire_errors_total\{code="MAX_CONNECTIONS"\} 1', text, re.MULTILINE)
    for value, label in (("connected", "connections"), ("live", "source_state"), ("failing", "history_state")):
        assert re.search(rf'^tokenwire_{label}\{{.*state="{value}"\}} ', text, re.MULTILINE)
    declared = (ROOT / "server/tokenwire_server/instruments.py").read_text("utf-8")
    for name in RARE:
        assert f'"{name.removeprefix("tokenwire_").removesuffix("_total")}"' in declared


def test_the_balancer_exposes_what_is_asked_of_it(balance: Balance) -> None:
    with scripted() as gateway:
        balancer = balance([gateway.place])
        balancer.wait_for("gateway-1")
        found = exposed(balancer.metrics())
    for name, labels in BALANCER.items():
        assert labels <= found[name], name


def test_the_table_is_compared_by_name_and_label() -> None:
    text = 'tokenwire_a_total{outcome="x",why="a } \\" b"} 1\ntokenwire_b 2\n'
    assert exposed(text) == {"tokenwire_a_total": {"outcome", "why"}, "tokenwire_b": set()}
    assert not lacking(text, {"tokenwire_a_total": frozenset({"outcome", "why"}), "tokenwire_b": frozenset()})
    assert len(lacking(text, {"tokenwire_a_total": frozenset(), "tokenwire_c": frozenset()})) == 2
    assert not lacking(text, {"tokenwire_c": frozenset()}, unless=["tokenwire_c"])
