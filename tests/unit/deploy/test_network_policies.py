"""Components for Kubernetes combine: both sides of a connection allow it, whichever of them a site lists."""

from __future__ import annotations

import os
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FOLDER = REPOSITORY / "deploy" / "kubernetes"
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
LABEL = "app.kubernetes.io/component"
#: Port -> the component that serves it in the cluster. The rest of the world serves any.
SERVERS = {5432: "postgres", 6379: "redis", 8080: "api", 9090: "prometheus", 11112: "listener"}
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "CronJob", "Job"}

Document = dict[str, Any]


def documents(*names: str) -> list[Document]:
    """Return the documents of the base and of components, without their patches."""
    folders = [FOLDER / "base", *(FOLDER / "components" / name for name in names)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    found = [document for path in paths for document in yaml.load_all(path.read_text(), yaml.CSafeLoader)]
    return [document for document in found if document]


def pods(found: Iterable[Document]) -> set[str]:
    """Return the components that have pods."""
    specs = [document["spec"] for document in found if document["kind"] in WORKLOADS]
    templates = [(spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec)["template"] for spec in specs]
    # Patches have no labels.
    labels = [template.get("metadata", {}).get("labels", {}) for template in templates]
    return {each[LABEL] for each in labels if LABEL in each}


def selects(selector: Document, component: str) -> bool:
    """Return whether a selector of pods matches those of a component."""
    labels = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", ())
    assert all(each["operator"] == "In" and each["key"] == LABEL for each in expressions)
    return all(key == LABEL and value == component for key, value in labels.items()) and all(
        component in each["values"] for each in expressions
    )


def allows(policies: Iterable[Document], direction: str, component: str, port: int, other: str) -> bool:
    """Return whether the policies of *component* allow a connection from or to pods of the *other* one."""
    side = "from" if direction == "Ingress" else "to"
    of_it = [each["spec"] for each in policies if selects(each["spec"]["podSelector"], component)]
    rules = [rule for spec in of_it for rule in spec.get(direction.lower(), ())]
    return any(
        port in {each["port"] for each in rule["ports"]}
        and any(
            "podSelector" in peer and selects(peer["podSelector"], other)
            for peer in rule.get(side, [{"podSelector": {}}])
        )
        for rule in rules
    )


@pytest.mark.parametrize("names", list(combinations(COMPONENTS, 2)))
def test_what_one_side_of_a_connection_allows_the_other_allows_too(names: tuple[str, str]) -> None:
    found = documents(*names)
    policies = [document for document in found if document["kind"] == "NetworkPolicy"]
    one_sided = []
    for client in pods(found):
        for port, server in SERVERS.items():
            if server not in pods(found) or client == server:
                continue
            out = allows(policies, "Egress", client, port, server)
            admitted = allows(policies, "Ingress", server, port, client)
            # Listener and API admit the whole network: modalities, readers.
            everyone = allows(policies, "Ingress", server, port, "another-app")
            if (out and not admitted) or (admitted and not out and not everyone):
                one_sided.append((client, server, port))

    assert one_sided == []


def test_only_pods_that_exist_are_admitted_to_the_databases() -> None:
    found = documents(*COMPONENTS)
    policies = [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
    names = {
        name
        for spec in policies
        for rule in spec.get("ingress", ())
        for peer in rule.get("from", ())
        for expression in peer.get("podSelector", {}).get("matchExpressions", ())
        for name in expression["values"]
    }

    assert names <= pods(found)


def test_scaler_of_the_workers_may_read_the_queue_in_the_cluster() -> None:
    policies = [each["spec"] for each in documents("databases", "keda") if each["kind"] == "NetworkPolicy"]
    admitted = [
        rule for spec in policies if selects(spec["podSelector"], "postgres") for rule in spec.get("ingress", ())
    ]

    namespaces = [peer for rule in admitted for peer in rule["from"] if "namespaceSelector" in peer]
    assert namespaces == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]


def test_backups_may_read_the_object_storage_where_it_is_listed() -> None:
    found = documents("backup", "object-storage")
    policies = [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
    clients = [
        each["podSelector"]["matchLabels"] for each in policies if any(443 in ports(rule) for rule in egress(each))
    ]
    templates = [each["spec"]["jobTemplate"]["spec"]["template"] for each in found if each["kind"] == "CronJob"]

    assert len(clients) == 1
    for template in templates:
        assert clients[0].items() <= template["metadata"]["labels"].items()
        settings = [each["configMapRef"] for each in template["spec"]["containers"][0]["envFrom"]]
        assert {"name": "prelim-object-storage", "optional": True} in settings


def egress(policy: Document) -> list[Document]:
    return list(policy.get("egress", ()))


def ports(rule: Document) -> set[int]:
    return {each["port"] for each in rule["ports"]}


def outward(found: Iterable[Document]) -> set[str]:
    """Return the components that may connect to ports that nothing in the cluster serves."""
    found = list(found)
    served = SERVERS.keys() | {53, 26379}
    policies = [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
    return {
        name
        for name in pods(found)
        for spec in policies
        if selects(spec["podSelector"], name)
        for rule in spec.get("egress", ())
        if not ports(rule) <= served
    }


def test_what_may_leave_the_cluster_can_leave_the_containers_of_compose() -> None:
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    leaving = outward(documents("audit", "monitoring", "oidc", "traces"))

    assert {"dispatcher", "api", "prometheus"} < leaving
    assert not [name for name in leaving if "outside" not in services[name]["networks"]]


def test_what_reaches_the_object_storage_in_the_cluster_can_reach_it_from_compose() -> None:
    text = (REPOSITORY / "docs" / "storage.md").read_text()
    override = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["services"]
    clients = (FOLDER / "components" / "object-storage" / "clients.yaml").read_text()
    names = {each["metadata"]["name"].removeprefix("prelim-") for each in yaml.safe_load_all(clients)}

    assert names | {"backup", "worker-gpu"} == override.keys()
    for service in override.values():
        assert "outside" in service["networks"]


def test_logins_at_a_provider_can_leave_the_api() -> None:
    policies = [each for each in documents("oidc") if each["kind"] == "NetworkPolicy"]

    assert allows(policies, "Egress", "api", 443, "anything")


def test_alerts_can_leave_prometheus() -> None:
    policies = [each for each in documents("monitoring") if each["kind"] == "NetworkPolicy"]

    assert allows(policies, "Egress", "prometheus", 9093, "anything")


def test_all_components_are_built_together(tmp_path: Path) -> None:
    relative = os.path.relpath(FOLDER, tmp_path.resolve())
    together = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "prelim",
        "resources": [f"{relative}/base"],
        "components": [f"{relative}/components/{name}" for name in COMPONENTS],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(together))
    command = [tool("kubectl"), "kustomize", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)

    assert built.returncode == 0, built.stderr
    found = list(yaml.load_all(built.stdout, yaml.CSafeLoader))
    assert pods(found) == pods(documents(*COMPONENTS))


def test_only_pods_that_have_the_files_of_tls_name_them() -> None:
    """A variable with a file that is not there ends a process: it is not in the ConfigMap of all."""
    command = [tool("kubectl"), "kustomize", str(FOLDER / "overlays" / "tls")]
    found = list(yaml.load_all(subprocess.check_output(command, text=True), yaml.CSafeLoader))
    settings = next(each for each in found if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "prelim")
    specs = {
        each["spec"]["template"]["metadata"]["labels"][LABEL]: each["spec"]["template"]["spec"]["containers"][0]
        for each in found
        if each["kind"] in WORKLOADS
    }
    naming = {name for name, container in specs.items() if "PRELIM_TLS_CERTIFICATE" in str(container.get("env"))}
    mounting = {name for name, container in specs.items() if "/etc/prelim-tls" in str(container["volumeMounts"])}

    assert naming == mounting == {"listener", "dispatcher", "canary"}
    assert not [name for name in settings["data"] if "TLS" in name]
