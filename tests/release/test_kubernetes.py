"""The chart and the plain manifests: Helm renders the one to the others, and the last three Kubernetes take them.

`make kubernetes` runs this. What pods do with what they are given is in `tests/proof/test_pods.py`.
"""

import importlib.util
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml
from support.pages import commands

from funkenshield import config

helm = pytest.importorskip("helm_python", reason="make kubernetes installs it")
validator = pytest.importorskip("kubernetes_validate", reason="make kubernetes installs it")
pytestmark = pytest.mark.release
ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "contrib" / "kubernetes"
KINDS = ("front", "node")
RELEASES = list(dict.fromkeys(".".join(each.split(".")[:2]) for each in validator.utils.all_versions()))[-3:]
MORE = {
    "as it is": {},
    "with all": {
        "image": {"repository": "registry.example.com/funkenshield", "tag": "1"},
        "imagePullSecrets": [{"name": "registry"}],
        "config": 'cache.snapshot = "/var/lib/funkenshield/cache"\nzones = [{ name = "example.com", ttl.max = 60 }]',
        "service": {"type": "LoadBalancer", "clusterIP": "10.96.0.53", "annotations": {"of": "a cloud"}},
        "networkPolicy": {
            "clients": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
            "metrics": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "upstreamPorts": [53, 5353],
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dns", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "system-cluster-critical",
        "ipFamily": "IPv6",
        "cluster": {"store": "rediss://shield@valkey:6380/1", "secretName": "nodes", "password": True},
    },
    "with little": {"podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}, "lameDuck": 0},
}

EACH = list(product(KINDS, MORE))


def _tool():
    spec = importlib.util.spec_from_loader("render_chart", loader=None)
    module = importlib.util.module_from_spec(spec)
    path = ROOT / "tools" / "render-chart"
    module.__file__ = str(path)
    exec(compile(path.read_text(), path, "exec"), module.__dict__)
    return module


chart = _tool()


def documents(kind, **values):
    return list(yaml.safe_load_all(chart.render(kind, values)))


def found(kind, wanted, **values):
    return [each for each in documents(kind, **values) if each["kind"] == wanted]


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_manifests_are_what_the_chart_makes(kind):
    assert (KUBERNETES / f"{kind}.yaml").read_text() == chart.plain(kind), "say make kubernetes"


def given(words):
    """Return the values that `--set` in a command gives."""
    values = {}
    for option, word in pairwise(words):
        if option == "--set":
            path, _, value = word.partition("=")
            *outer, last = path.split(".")
            table = values
            for each in outer:
                table = table.setdefault(each, {})
            table[last] = value.strip("{}").split(",") if value.startswith("{") else value
    return values


HELM = [words for words in commands("docs/guide/kubernetes.md") if words[0] == "helm"]


@pytest.mark.parametrize("words", HELM, ids=[" ".join(words[1:3]) for words in HELM])
def test_the_chart_takes_what_the_guide_gives_it(words):
    assert ROOT / words[3] == chart.CHART
    values = given(words)
    assert documents(values.pop("kind", "front"), **values)


def test_helm_finds_nothing_wrong():
    said = helm.lint(chart.CHART)
    assert not said["errors"]
    assert [each["error"] for each in said["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("kind", "more"), EACH)
def test_kubernetes_takes_it(kind, more, release):
    kinds = []
    for each in documents(kind, **MORE[more]):
        kinds.append(each["kind"])
        if each["kind"] != "ServiceMonitor":  # of the Prometheus Operator
            validator.validate(each, release, strict=True)
    assert kinds.count("Service") == 2
    assert ("DaemonSet" in kinds) == (kind == "node") != ("Deployment" in kinds)
    assert {"PodDisruptionBudget", "NetworkPolicy"} & set(kinds) == (
        {"PodDisruptionBudget", "NetworkPolicy"} if kind == "front" and more != "with little" else set()
    )


@pytest.mark.parametrize(("kind", "more"), EACH)
def test_the_daemon_takes_its_configuration_and_has_the_time_that_it_needs(kind, more, tmp_path):
    (configured,) = found(kind, "ConfigMap", **MORE[more])
    (tmp_path / "funkenshield.toml").write_text(configured["data"]["funkenshield.toml"])
    listen = {"FUNKENSHIELD_LISTEN": "192.0.2.1:8054", "FUNKENSHIELD_METRICS__LISTEN": "192.0.2.1:9153"}
    read = config.load(tmp_path / "funkenshield.toml", {}, listen if kind == "node" else {})
    assert read.share_addresses == (kind == "node")
    assert {each.port for each in read.listen} == {8054}
    pod = found(kind, "DaemonSet" if kind == "node" else "Deployment", **MORE[more])[0]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > read.lame_duck + read.drain_timeout + 2
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    assert limit >= 2 * read.cache.memory


def test_a_service_monitor_finds_the_metrics_and_nothing_else():
    (monitor,) = found("front", "ServiceMonitor", **MORE["with all"])
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    selected = [each for each in found("front", "Service") if wanted <= each["metadata"]["labels"].items()]
    assert [each["metadata"]["name"] for each in selected] == ["funkenshield-metrics"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert [each["name"] for each in selected[0]["spec"]["ports"]] == [endpoint["port"]]


def test_services_budgets_and_policies_select_the_pods():
    for kind in KINDS:
        (workload,) = found(kind, "DaemonSet" if kind == "node" else "Deployment")
        labels = workload["spec"]["template"]["metadata"]["labels"].items()
        for each in documents(kind):
            spec = each.get("spec", {})
            for selector in (spec.get("selector"), spec.get("podSelector")):
                wanted = (selector or {}).get("matchLabels", selector or {})
                assert wanted.items() <= labels


def test_on_nodes_questions_stay_there_and_ports_are_not_named():
    (workload,) = found("node", "DaemonSet")
    assert workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "ports" not in workload["spec"]["template"]["spec"]["containers"][0]
    assert found("node", "Service")[0]["spec"]["internalTrafficPolicy"] == "Local"
    environ = workload["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [each.get("value") for each in environ] == [None, "$(NODE_ADDRESS):8054", "$(NODE_ADDRESS):9153"]
    (workload,) = found("node", "DaemonSet", ipFamily="IPv6")
    environ = workload["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [each.get("value") for each in environ] == [None, "[$(NODE_ADDRESS)]:8054", "[$(NODE_ADDRESS)]:9153"]


@pytest.mark.parametrize("kind", KINDS)
def test_pods_reach_a_store_and_have_what_they_sign_with(kind, tmp_path):
    stored = {"store": "redis://valkey", "secretName": "nodes"}
    (configured,) = found(kind, "ConfigMap", cluster=stored)
    (tmp_path / "funkenshield.toml").write_text(configured["data"]["funkenshield.toml"])
    environ = {
        "FUNKENSHIELD_CLUSTER__NODE": "pod-1", "FUNKENSHIELD_LISTEN": "192.0.2.1:8054",
        "FUNKENSHIELD_METRICS__LISTEN": "192.0.2.1:9153",
    }  # fmt: skip
    cluster = config.load(tmp_path / "funkenshield.toml", {}, environ).cluster
    assert (cluster.store, cluster.node, cluster.password_file) == ("redis://valkey", "pod-1", "")
    (workload,) = found(kind, "DaemonSet" if kind == "node" else "Deployment", cluster=stored)
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (volume,) = (each for each in pod["volumes"] if "secret" in each)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    assert volume["secret"] == {"secretName": "nodes", "defaultMode": 0o440}  # for the pod's group alone
    assert cluster.secret_file == f"{mount['mountPath']}/secret"
    assert container["env"][0]["name"] == "FUNKENSHIELD_CLUSTER__NODE"
    assert container["env"][0]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(
    ("store", "port"),
    [
        ("redis://valkey", 6379), ("rediss://shield@valkey.dns.svc:6380/1", 6380), ("redis://[2001:db8::1]", 6379),
        ("redis://[2001:db8::1]:7000", 7000), ("redis://valkey-0", 6379),
    ],
)  # fmt: skip
def test_the_policy_lets_pods_reach_the_store(store, port):
    (policy,) = found("front", "NetworkPolicy", cluster={"store": store, "secretName": "nodes"})
    assert policy["spec"]["egress"][-1] == {"ports": [{"port": port, "protocol": "TCP"}]}
    (alone,) = found("front", "NetworkPolicy")
    assert alone["spec"]["egress"] == policy["spec"]["egress"][:-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "frnot"}, {"replica": 2}, {"port": 53}, {"upstreams": []}, {"cluster": {"store": "redis://valkey"}},
        {"cluster": {"sotre": "redis://valkey", "secretName": "nodes"}},
    ],
)  # fmt: skip
def test_what_is_mistyped_is_refused(wrong):
    with pytest.raises(helm.HelmError):
        chart.render(wrong.get("kind", "front"), wrong)
