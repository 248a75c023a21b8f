"""What deploy/ ships fits the gateway, and the tools that will read it accept it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from routewright.config import load
from test_gateway import served
from upstream import Upstream

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "helm" / "routewright"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "routewright.json"
STATE = "/var/lib/routewright"
ONLY_WITH = {  # metrics of gateways that have budgets, a store, or a paced policy
    "routewright_account_usd",
    "routewright_budget_limit_usd",
    "routewright_budget_spent_usd",
    "routewright_pace_lambda",
    "routewright_pace_mean_cost_usd",
    "routewright_pace_mean_goal_usd",
    "routewright_pace_queries",
    "routewright_records_dropped",
    "routewright_records_waiting",
    "routewright_replicas",
    "routewright_store_up",
}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"`{name}` is not installed")
    return path


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(map(str, words), capture_output=True, text=True, **options)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def environment(monkeypatch) -> None:
    monkeypatch.setenv("ROUTEWRIGHT_KEY", "a-key")
    monkeypatch.setenv(
        "ROUTEWRIGHT_STORE", "postgresql+psycopg://routewright:pw@postgres/routewright"
    )


# --- configs -------------------------------------------------------------------------------


def test_the_config_of_the_compose_file_passes_check(environment, routewright):
    code, out, err = routewright("check", DEPLOY / "routewright.yaml")
    assert (code, err) == (0, ""), out


def test_the_config_of_the_chart_passes_check(tmp_path, routewright):
    file = tmp_path / "routewright.yaml"
    file.write_text(read(CHART / "values.yaml")["config"])
    code, out, err = routewright("check", file)
    assert (code, err) == (0, ""), out


# --- the container and the compose file ----------------------------------------------------


def test_the_container_is_not_root_and_listens_where_others_reach_it():
    text = (DEPLOY / "Containerfile").read_text()
    steps = re.sub(r"\\\n\s*", "", text)
    user = re.search(r"^USER (\d+)", steps, re.M)
    assert user
    assert int(user[1]) > 0
    assert steps.index("pip install") < user.start()
    command = json.loads(re.search(r"^CMD (\[.*\])$", steps, re.M)[1])
    assert command == ["serve", f"{STATE}/routewright.yaml", "--host", "0.0.0.0", "--port", "4100"]
    health = json.loads(re.search(r"^HEALTHCHECK.*CMD (\[.*\])$", steps, re.M)[1])
    assert health[:2] == ["python", "-c"]
    compile(health[2], "healthcheck", "exec")
    copied = re.findall(r"^COPY (.*) \S+$", steps, re.M)
    paths = [DEPLOY.parent / path for paths in copied for path in paths.split()]
    assert [path for path in paths if not path.exists()] == []
    assert "[fast,postgres,otel]" in steps


def test_all_parts_of_the_compose_file_exist():
    compose = read(DEPLOY / "compose.yaml")
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source[0] == "." else source in compose["volumes"]
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"], name
        for other in service.get("depends_on", []):
            assert other in compose["services"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
    build = compose["services"]["gateway"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).exists()


def test_the_gateway_gets_more_time_to_end_than_its_config_takes(environment):
    drain = load(DEPLOY / "routewright.yaml").server.drain_seconds
    gateway = read(DEPLOY / "compose.yaml")["services"]["gateway"]
    assert int(gateway["stop_grace_period"].removesuffix("s")) >= drain + 15
    unit = (DEPLOY / "routewright.service").read_text()
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1]) >= drain + 15


def test_compose_accepts_its_file(environment, monkeypatch):
    docker = tool("docker")
    if run(docker, "compose", "version").returncode:
        pytest.skip("`docker compose` is not installed")
    for name in ("POSTGRES_PASSWORD", "GRAFANA_PASSWORD"):
        monkeypatch.setenv(name, "a-password")
    done = run(docker, "compose", "--file", DEPLOY / "compose.yaml", "config", "--quiet")
    assert done.returncode == 0, done.stderr


# --- Prometheus and Grafana ----------------------------------------------------------------


def expressions() -> list[str]:
    """Every query of the dashboard, with its variables replaced."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return [q.replace("$policy", ".*").replace("$__rate_interval", "1m") for q in queries]


def test_every_metric_of_the_dashboard_exists():
    async def work(client):
        url = str(client.base_url).removesuffix("v1/") + "metrics"
        return (await client._client.get(url)).text

    text = served(work, Upstream())
    names = set(re.findall(r"^# HELP (\w+)", text, re.M))
    shown = {name for query in expressions() for name in re.findall(r"routewright_\w+", query)}
    parts = re.compile("_bucket$|_total$")
    stems = {parts.sub("", name) for name in names | ONLY_WITH}
    assert {parts.sub("", name) for name in shown} <= stems
    assert len(shown) > 15
    page = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    listed = {parts.sub("", name) for name in re.findall(r"`(routewright_\w+)`", page)}
    assert listed == {stem for stem in stems if not stem.endswith("_created")}


def test_every_panel_of_the_dashboard_has_a_place_and_the_shipped_data_source():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    (source,) = read(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        own = {(x, y) for x in columns for y in rows}
        assert not own & cells, panel["title"]
        cells |= own
        for part in (panel, *panel["targets"]):
            assert part["datasource"]["uid"] == source["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path):
    promtool, file = tool("promtool"), tmp_path / "rules.yml"
    rules = [{"record": f"r{i}", "expr": query} for i, query in enumerate(expressions())]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = run(promtool, "check", "rules", file)
    assert done.returncode == 0, done.stderr


def test_prometheus_accepts_its_config(tmp_path):
    promtool, file, key = tool("promtool"), tmp_path / "prometheus.yml", tmp_path / "key"
    key.write_text("a-key")
    text = (DEPLOY / "prometheus.yml").read_text()
    assert "/run/secrets/routewright_key" in text
    file.write_text(text.replace("/run/secrets/routewright_key", str(key)))
    done = run(promtool, "check", "config", file)
    assert done.returncode == 0, done.stdout + done.stderr


# --- systemd -------------------------------------------------------------------------------


def test_systemd_accepts_the_unit_and_finds_it_little_exposed(tmp_path):
    analyze, unit = tool("systemd-analyze"), tmp_path / "routewright.service"
    text = (DEPLOY / "routewright.service").read_text()
    command = str(Path(sys.executable).with_name("routewright"))
    assert "/opt/routewright/bin/routewright" in text
    unit.write_text(text.replace("/opt/routewright/bin/routewright", command))
    done = run(analyze, "verify", unit)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    done = run(analyze, "security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout[-500:]


# --- Kubernetes ----------------------------------------------------------------------------


def test_the_schema_of_the_chart_accepts_its_values_and_refuses_mistakes():
    import jsonschema

    schema = json.loads((CHART / "values.schema.json").read_text())
    values = read(CHART / "values.yaml")
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    for mistake in ({"replicaCount": 0}, {"replicas": 2}, {"service": {"port": "http"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, **mistake}, schema)


def rendered(*options: str) -> dict[str, Any]:
    """The manifests of the chart by kind."""
    done = run(tool("helm"), "template", "rw", CHART, *options)
    assert done.returncode == 0, done.stderr
    return {one["kind"]: one for one in yaml.safe_load_all(done.stdout) if one}


def test_helm_finds_no_mistake_in_the_chart():
    done = run(tool("helm"), "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


def test_the_pods_of_the_chart_are_safe_and_end_in_time(tmp_path, routewright):
    manifests = rendered("--set", "existingSecret=keys")
    assert manifests.keys() == {"ConfigMap", "Deployment", "Service"}
    file = tmp_path / "routewright.yaml"
    file.write_text(manifests["ConfigMap"]["data"]["routewright.yaml"])
    assert routewright("check", file)[0] == 0
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    drain = load(file).server.drain_seconds
    assert pod["terminationGracePeriodSeconds"] == drain + 15
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    (container,) = pod["containers"]
    assert container["args"][container["args"].index("--host") + 1] == "0.0.0.0"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    paths = {
        probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")
    }
    assert paths == {"liveness": "/health", "readiness": "/ready"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"].items() <= labels.items()


def test_options_of_the_chart_reach_its_manifests(tmp_path):
    values = {
        "config": "version: 1\nserver: {drain_seconds: 2.5}\n",
        "image": {"tag": "7"},
        "persistence": {"enabled": True},
        "serviceMonitor": {"enabled": True, "keySecret": {"name": "keys"}},
        "podLabels": {"team": "a"},
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "volumes": [{"name": "router", "configMap": {"name": "router"}}],
        "volumeMounts": [{"name": "router", "mountPath": f"{STATE}/router"}],
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    manifests = rendered("--values", str(file))
    assert "PersistentVolumeClaim" in manifests
    template = manifests["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "a"
    pod = template["spec"]
    assert pod["terminationGracePeriodSeconds"] == 18
    assert pod["volumes"][-1]["name"] == "router"
    (container,) = pod["containers"]
    assert container["image"] == "routewright:7"
    assert container["env"] == values["env"]
    assert container["volumeMounts"][-1]["mountPath"] == f"{STATE}/router"
    (endpoint,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "keys", "key": "ROUTEWRIGHT_KEY"}


def test_the_values_of_the_page_are_as_good(tmp_path, routewright, monkeypatch):
    import jsonschema

    page = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    file = tmp_path / "values.yaml"
    file.write_text(re.search(r"```yaml\n(image:.*?)```", page, re.S)[1])
    values = {**read(CHART / "values.yaml"), **read(file)}
    jsonschema.validate(values, json.loads((CHART / "values.schema.json").read_text()))
    config = tmp_path / "routewright.yaml"
    config.write_text(read(file)["config"])
    for name in ("OPENAI_API_KEY", "ROUTEWRIGHT_KEY"):
        monkeypatch.setenv(name, "a-key")
    monkeypatch.setenv("ROUTEWRIGHT_STORE", "postgresql+psycopg://a:b@db/c")
    assert routewright("check", config)[0] == 0
    manifests = rendered("--values", str(file))
    assert manifests["Deployment"]["spec"]["replicas"] == 3
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 75


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("replicaCount=zebra",), "replicaCount"),
        (("replicaCount=2", "persistence.enabled=true"), "use a PostgreSQL store"),
        (("service.type=Zebra",), "service"),
    ],
)
def test_the_chart_refuses_mistakes(options, reason):
    sets = [word for option in options for word in ("--set", option)]
    done = run(tool("helm"), "template", "rw", CHART, *sets)
    assert done.returncode
    assert reason in done.stderr
