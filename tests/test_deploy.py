"""What operators install with, in `deploy/` and `config/`: valid by its own formats, and held to the code."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from guardproxy import app
from guardproxy.cli import parser
from guardproxy.settings import Settings, load
from tests.test_observing import SERIES

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose"
UNIT = DEPLOY / "systemd" / "guardproxy.service"
# The oldest and the newest Kubernetes that the manifests must suit.
VERSIONS = ("1.30", "1.36")
# Kinds of KEDA and Prometheus Operator, whose schemas are no part of Kubernetes.
CUSTOM = {"ScaledObject", "ServiceMonitor"}


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return list(YAML(typ="safe").load_all(path.read_text()))


def resources() -> list[dict[str, Any]]:
    """Every resource of the base and of the components, without patches and kustomizations."""
    files = [path for path in KUBERNETES.rglob("*.yaml") if path.name not in {"kustomization.yaml", "proxy.yaml"}]
    files = [path for path in files if path.parent.name != "gpu" and path.name != "guard.yaml"]
    return [one for path in sorted(files) for one in documents(path)]


def named(kind: str, name: str) -> dict[str, Any]:
    """A resource."""
    (found,) = [one for one in resources() if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


WORKLOADS = {
    "proxy": named("Deployment", "guardproxy-proxy"),
    "guard": named("StatefulSet", "guardproxy-guard"),
}


def pod(component: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod of a component, and its container."""
    spec = WORKLOADS[component]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def settings(path: Path) -> Settings:
    """The settings of a configuration file, without its secrets."""
    return load(path, {}, app.catalogue(builtin_only=True), without_secrets=True)


CONFIGURATIONS = {
    "proxy": settings(KUBERNETES / "base" / "proxy.yaml"),
    "guard": settings(KUBERNETES / "base" / "guard.yaml"),
}


def references(path: Path) -> set[str]:
    """The environment variables that a configuration names."""
    return set(re.findall(r"\$\{env:(\w+)\}", path.read_text()))


# --- Kubernetes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", resources(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_resources_are_valid(one: dict[str, Any], version: str) -> None:
    """By the schemas of Kubernetes, in which no field is unknown."""
    validation = pytest.importorskip("kubernetes_validate")
    if one["kind"] in CUSTOM:
        pytest.skip("its schema is no part of Kubernetes")
    validation.validate(one, version, strict=True)


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    if tool := shutil.which("kubectl"):
        command = [tool, "kustomize", str(folder)]
    elif tool := shutil.which("kustomize"):
        command = [tool, "build", str(folder)]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return list(YAML(typ="safe").load_all(done.stdout))


@pytest.mark.parametrize("components", [(), ("gpu",), ("gpu", "keda", "monitoring")], ids="-".join)
def test_what_overlays_make_is_valid(tmp_path: Path, components: tuple[str, ...]) -> None:
    """Of the base with components; with GPUs, the guards ask for one each, and one thing scales them."""
    validation = pytest.importorskip("kubernetes_validate")
    overlay: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(KUBERNETES / "base", tmp_path)],
        "components": [os.path.relpath(KUBERNETES / name, tmp_path) for name in components],
    }
    YAML(typ="safe").dump(overlay, tmp_path / "kustomization.yaml")
    found = rendered(tmp_path)
    for one in found:
        if one["kind"] not in CUSTOM:
            validation.validate(one, VERSIONS[-1], strict=True)
    (guard,) = [one for one in found if one["kind"] == "StatefulSet"]
    (container,) = guard["spec"]["template"]["spec"]["containers"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == ("gpu" in components)
    scalers = [one["metadata"]["name"] for one in found if one["kind"] == "HorizontalPodAutoscaler"]
    assert ("guardproxy-guard" in scalers) == ("keda" not in components)


def test_the_overlay_replaces_what_it_must() -> None:
    """With KEDA only one thing scales the guard, and every reference to a ConfigMap finds it."""
    found = rendered(KUBERNETES / "example")
    scaled = [one["spec"]["scaleTargetRef"]["name"] for one in found if one["kind"] == "HorizontalPodAutoscaler"]
    assert scaled == ["guardproxy-proxy"]
    assert [one["kind"] for one in found].count("ScaledObject") == 1
    maps = {one["metadata"]["name"]: one["data"] for one in found if one["kind"] == "ConfigMap"}
    used = {
        volume["configMap"]["name"]
        for one in found
        if one["kind"] in {"Deployment", "StatefulSet"}
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    }
    assert used == set(maps)
    assert "guardproxy-proxy" in maps
    assert {one["metadata"].get("namespace") for one in found} == {"guardproxy", None}
    images = {
        container["image"]
        for one in found
        if one["kind"] in {"Deployment", "StatefulSet"}
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"registry.example/guardproxy:0.1.0"}


@pytest.mark.parametrize("component", WORKLOADS)
def test_commands_are_those_of_the_command_line(component: str) -> None:
    """The arguments parse, and name the file that is mounted."""
    spec, container = pod(component)
    args = parser().parse_args(container["args"])
    folder = next(one["mountPath"] for one in container["volumeMounts"] if one["name"] == "configuration")
    assert args.config == f"{folder}/guardproxy.yaml"
    assert spec["terminationGracePeriodSeconds"] > 5 + CONFIGURATIONS[component].server.grace_s


@pytest.mark.parametrize("component", WORKLOADS)
def test_ports_are_those_of_the_configuration(component: str) -> None:
    """Of the listeners, the probes, the Services and the network policies."""
    _, container = pod(component)
    found = CONFIGURATIONS[component]
    assert found.admin is not None
    assert {one["name"]: one["containerPort"] for one in container["ports"]} == {
        "http": found.server.port,
        "admin": found.admin.port,
    }
    assert (found.server.host, found.admin.host) == ("0.0.0.0", "0.0.0.0")
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {one["port"] for one in probes.values()} == {"admin"}


def test_the_proxy_asks_the_pods_of_the_guard() -> None:
    """As many by name as there can be, on the port of the guard."""
    replicas = CONFIGURATIONS["proxy"].guard.replicas
    assert replicas is not None
    guard, service = WORKLOADS["guard"], named("Service", "guardproxy-guard")
    assert guard["spec"]["serviceName"] == service["metadata"]["name"]
    port = CONFIGURATIONS["guard"].server.port
    most = named("HorizontalPodAutoscaler", "guardproxy-guard")["spec"]["maxReplicas"]
    assert named("ScaledObject", "guardproxy-guard")["spec"]["maxReplicaCount"] == most
    assert list(replicas.urls) == [
        f"http://{guard['metadata']['name']}-{number}.{guard['spec']['serviceName']}:{port}" for number in range(most)
    ]
    (egress,) = [
        rule for rule in named("NetworkPolicy", "guardproxy-proxy")["spec"]["egress"] if "podSelector" in rule["to"][0]
    ]
    assert [one["port"] for one in egress["ports"]] == [port]
    asked, asking = CONFIGURATIONS["guard"].guard, CONFIGURATIONS["proxy"].guard
    assert (asked.family, asked.model) == (asking.family, asking.model)


def test_secrets_are_files_of_the_secret() -> None:
    """Each variable that the configuration names has its file; the guard has none."""
    _, container = pod("proxy")
    folder = next(one["mountPath"] for one in container["volumeMounts"] if one["name"] == "secrets")
    env = {one["name"]: one["value"] for one in container["env"]}
    names = references(KUBERNETES / "base" / "proxy.yaml")
    assert set(env) == {f"{name}_FILE" for name in names}
    assert all(value.startswith(f"{folder}/") for value in env.values())
    assert references(KUBERNETES / "base" / "guard.yaml") == set()
    text = (KUBERNETES / "example" / "kustomization.yaml").read_text()
    assert all(f"--from-literal={Path(value).name}=" in text for value in env.values())


@pytest.mark.parametrize("component", WORKLOADS)
def test_pods_may_do_little(component: str) -> None:
    """What the standard `restricted` asks for, and a root file system that is read-only."""
    spec, container = pod(component)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {spec['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"/data", "/tmp"} <= {one["mountPath"] for one in container["volumeMounts"]}
    assert "memory" in container["resources"]["limits"]


def test_what_selects_pods_finds_them() -> None:
    """Services, network policies, budgets and scalers."""
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in WORKLOADS.items()}
    found = 0
    for one in resources():
        spec = one.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        selector = selector.get("matchLabels", selector)
        if one["kind"] in {"Service", "NetworkPolicy", "PodDisruptionBudget", "Deployment", "StatefulSet"}:
            component = one["metadata"]["labels"]["app.kubernetes.io/component"]
            assert selector.items() <= labels[component].items(), one["metadata"]["name"]
            found += 1
        target = spec.get("scaleTargetRef")
        if target is not None:
            assert named(target["kind"], target["name"])
    assert found == 10
    for component in WORKLOADS:
        monitor = named("ServiceMonitor", f"guardproxy-{component}")["spec"]
        service = named("Service", f"guardproxy-{component}-admin")
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert [one["port"] for one in monitor["endpoints"]] == [service["spec"]["ports"][0]["name"]]


def test_the_scaling_reads_metrics_that_exist() -> None:
    """By their names in /metrics, of the job that the monitor writes."""
    queries = [one["metadata"]["query"] for one in named("ScaledObject", "guardproxy-guard")["spec"]["triggers"]]
    names = {re.sub(r"_bucket\Z", "", name) for query in queries for name in re.findall(r"\bguardproxy_\w+", query)}
    assert names
    assert names <= set(SERIES)
    jobs = {job for query in queries for job in re.findall(r'job="([^"]+)"', query)}
    (endpoint,) = named("ServiceMonitor", "guardproxy-guard")["spec"]["endpoints"]
    assert jobs == {rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"}


def test_what_prometheus_does_not_know_ends_no_guards() -> None:
    """Without an answer about the work nothing is scaled; a quantile of no checks, which is NaN, is removed."""
    work, wait = (one["metadata"] for one in named("ScaledObject", "guardproxy-guard")["spec"]["triggers"])
    assert work["ignoreNullValues"] == "false"
    assert wait["query"].endswith(">= 0")


# --- Compose ----------------------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    """The Compose file with its anchors and variables filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (COMPOSE / "compose.yaml").read_text())
    found: dict[str, Any] = YAML(typ="safe").load(text)
    return {key: value for key, value in found.items() if not key.startswith("x-")}


def test_the_compose_file_is_valid(tmp_path: Path) -> None:
    """By Compose's specification."""
    specification = pytest.importorskip("compose_spec")
    path = tmp_path / "compose.yaml"
    yaml = YAML(typ="safe")
    yaml.dump(compose(), path)
    assert set(specification.PyCompose.from_yaml(path.read_text()).service_names()) == set(compose()["services"])


@pytest.mark.parametrize(("service", "file"), [("proxy", "proxy"), ("guard-cpu", "guard"), ("guard-cuda", "guard")])
def test_the_services_of_compose(service: str, file: str) -> None:
    """Commands parse, health checks and secrets fit the configuration, nothing is writable but /data and /tmp."""
    one = compose()["services"][service]
    path = COMPOSE / "config" / f"{file}.yaml"
    found = settings(path)
    args = parser().parse_args(one["command"])
    assert args.config == f"/etc/guardproxy/{path.name}"
    assert "./config:/etc/guardproxy:ro" in one["volumes"]
    assert found.admin is not None
    assert one["environment"]["GUARDPROXY_HEALTH_URL"] == f"http://{found.admin.host}:{found.admin.port}/readyz"
    files = {name.removesuffix("_FILE"): value for name, value in one["environment"].items() if name.endswith("_FILE")}
    assert set(files) == references(path)
    assert {f"/run/secrets/{name}" for name in one.get("secrets", ())} == set(files.values())
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert int(one["stop_grace_period"].removesuffix("s")) > found.server.grace_s


def test_only_the_proxy_of_compose_is_reachable() -> None:
    """Its networks, and the address of the guard in its configuration."""
    found = compose()
    assert [name for name, one in found["services"].items() if "ports" in one] == ["proxy"]
    proxy = settings(COMPOSE / "config" / "proxy.yaml")
    (published,) = found["services"]["proxy"]["ports"]
    assert published.endswith(f":{proxy.server.port}")
    assert {name for name, one in found["networks"].items() if one.get("internal")} == {"guard", "database"}
    assert proxy.guard.replicas is not None
    port = settings(COMPOSE / "config" / "guard.yaml").server.port
    assert list(proxy.guard.replicas.urls) == [f"http://guard:{port}"]
    for name in ("guard-cpu", "guard-cuda"):
        assert found["services"][name]["networks"] == {"guard": {"aliases": ["guard"]}}
    assert "COMPOSE_PROFILES=cpu\n" in (COMPOSE / ".env").read_text()


# --- systemd ----------------------------------------------------------------------------------------------------------


def options() -> Iterator[tuple[str, str]]:
    """The options of the unit."""
    for line in UNIT.read_text().splitlines():
        name, is_option, value = line.partition("=")
        if is_option and not line.startswith("#"):
            yield name, value


def test_the_unit_starts_what_there_is() -> None:
    """The command parses, and systemd waits longer than the server."""
    found = dict(options())
    command, *arguments = found["ExecStart"].split()
    assert Path(command).name == "guardproxy"
    parser().parse_args(arguments)
    assert int(found["TimeoutStopSec"]) > settings(ROOT / "config" / "example.yaml").server.grace_s
    assert found["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds no mistake, and calls its exposure low."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    # The command need not be installed here.
    copy.write_text(UNIT.read_text().replace("/opt/guardproxy/bin/guardproxy", sys.executable))
    done = subprocess.run([tool, "verify", str(copy)], capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    command = [tool, "security", "--offline=true", "--threshold=15", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout.splitlines()[-1]
