"""The manifests for Kubernetes: rendered by kustomize, valid, without privileges, and true to the launcher."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from db.settings import PREFIX, SECTION_OF, Settings
from deploy.launcher.processes import MIGRATE, PROCESSES
from tests.conftest import REPOSITORY
from tests.tools import tool
from tests.unit.docs.test_commands import problem

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
OURS = {f"prelim-{target}:{VERSION}" for target in ("core", "backup", "worker-cpu", "worker-cuda")}
#: Kinds of KEDA, of which the validator has no schema.
OF_KEDA = {"ScaledObject", "TriggerAuthentication"}

Document = dict[str, Any]


@cache
def rendered(overlay: str) -> str:
    command = [tool("kubectl"), "kustomize", str(FOLDER / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def documents(overlay: str) -> list[Document]:
    # Of the C loader: the dashboard is long.
    return list(yaml.load_all(rendered(overlay), yaml.CSafeLoader))


def of_kind(overlay: str, *kinds: str) -> list[Document]:
    return [document for document in documents(overlay) if document["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Document:
    return next(document for document in of_kind(overlay, kind) if document["metadata"]["name"] == name)


def workloads(overlay: str) -> list[Document]:
    return of_kind(overlay, "Deployment", "StatefulSet", "CronJob")


def template(workload: Document) -> Document:
    spec = workload["spec"]
    found: Document = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    return found


def pod(workload: Document) -> Document:
    spec: Document = template(workload)["spec"]
    return spec


def containers(overlay: str) -> list[Document]:
    pods = [pod(workload) for workload in workloads(overlay)]
    return [each for spec in pods for each in (*spec["containers"], *spec.get("initContainers", ()))]


def component(workload: Document) -> str:
    return str(template(workload)["metadata"]["labels"]["app.kubernetes.io/component"])


@pytest.mark.slow
def test_every_manifest_follows_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{overlay}.yaml" for overlay in OVERLAYS]
    for path in paths:
        path.write_text(rendered(path.stem))

    checked = subprocess.run(
        [tool("kubernetes-validate"), "--strict", "--quiet", *paths], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    unknown = re.findall(r"find schema for kind (\w+)", checked.stdout + checked.stderr)
    assert set(unknown) == OF_KEDA


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_without_privileges_on_a_read_only_root(overlay: str) -> None:
    for workload in workloads(overlay):
        context = pod(workload)["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod(workload)["automountServiceAccountToken"] is False
        assert not any("hostPath" in volume for volume in pod(workload)["volumes"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(workload).keys()
    for container in containers(overlay):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_service_becomes_a_setting(overlay: str) -> None:
    """Kubernetes would set PRELIM_API_PORT=tcp://... for the service prelim-api."""
    assert all(pod(workload)["enableServiceLinks"] is False for workload in workloads(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_have_limits_and_images_have_versions(overlay: str) -> None:
    for container in containers(overlay):
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert {"cpu", "memory", "ephemeral-storage"} <= resources["limits"].keys()
        if not re.fullmatch(r"\S+:v?\d+\.[\d.]+@sha256:[0-9a-f]{64}", container["image"]):
            assert container["image"] in OURS


def test_images_of_others_are_those_of_the_compose_file() -> None:
    used = {each["image"] for overlay in OVERLAYS for each in containers(overlay) if "sha256" in each["image"]}

    assert used == {service["image"] for service in COMPOSE.values() if "sha256" in service["image"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_processes_have_the_commands_probes_and_grace_times_of_the_launcher(overlay: str) -> None:
    found = {component(workload): workload for workload in workloads(overlay)}
    optional = {"flower": "monitoring", "audit-sender": "audit", "trace-sender": "traces"}

    for process in PROCESSES:
        if optional.get(process.name, overlay) != overlay:
            continue
        spec = pod(found[process.name])
        container = spec["containers"][0]
        assert container["args"] == list(process.command)
        assert spec["terminationGracePeriodSeconds"] > process.grace_seconds
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["exec"]["command"] == ["prelim", "ready", process.name]
        assert container["livenessProbe"]["exec"]["command"] == ["prelim", "live", process.name]
        # A probe is made every 10 s.
        assert container["startupProbe"]["failureThreshold"] * 10 >= process.ready_seconds


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_stops_before_kubernetes_kills_it(overlay: str) -> None:
    worker = next(workload for workload in workloads(overlay) if component(workload) == "worker")
    stop = Settings(**settings_of(overlay)).operations.stop_seconds

    assert pod(worker)["terminationGracePeriodSeconds"] >= stop + 30
    assert worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def settings_of(overlay: str) -> dict[str, str]:
    data = named(overlay, "ConfigMap", "prelim")["data"]
    return {name.removeprefix(PREFIX).lower(): value for name, value in data.items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_environment_and_secret_files_are_settings(overlay: str) -> None:
    given = chain(settings_of(overlay), (v["name"] for each in containers(overlay) for v in each.get("env", ())))
    ours = [name.removeprefix(PREFIX).lower() for name in given if not name.startswith(("GF_", "POSTGRES_"))]
    volumes = [volume for workload in workloads(overlay) for volume in pod(workload)["volumes"]]
    projected = [source for volume in volumes for source in volume.get("projected", {"sources": ()})["sources"]]
    secrets = [each["secret"] for each in (*volumes, *projected) if "secret" in each]
    files = [item["path"] for secret in secrets for item in secret["items"]]

    assert set(ours) <= SECTION_OF.keys()
    assert {path.removeprefix("prelim_") for path in files if path.startswith("prelim_")} <= SECTION_OF.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_with_a_schema_wait_for_its_migration(overlay: str) -> None:
    for workload in workloads(overlay):
        before = [each["args"] for each in pod(workload).get("initContainers", ())]
        waits = component(workload) in {"dispatcher", "worker", "api", "canary", "audit-sender", "trace-sender"}
        assert before == ([list(MIGRATE)] if waits else [])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_can_always_be_drained(overlay: str) -> None:
    budgets = {document["metadata"]["name"]: document["spec"] for document in of_kind(overlay, "PodDisruptionBudget")}

    assert budgets.keys() == {"prelim-listener", "prelim-dispatcher", "prelim-worker", "prelim-api"}
    assert all(budget["maxUnavailable"] == 1 and "minAvailable" not in budget for budget in budgets.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_traffic_is_denied_unless_a_policy_allows_it(overlay: str) -> None:
    policies = {document["metadata"]["name"]: document["spec"] for document in of_kind(overlay, "NetworkPolicy")}
    components = {component(workload) for workload in workloads(overlay)}

    assert policies["prelim-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        assert all(rule.get("ports") for rule in (*policy.get("ingress", ()), *policy.get("egress", ()))), name
    # The listener may connect to nothing.
    assert not [
        name for name, policy in policies.items() if "egress" in policy and "listener" in str(policy["podSelector"])
    ]
    selected = {document["spec"]["selector"]["app.kubernetes.io/component"] for document in of_kind(overlay, "Service")}
    assert selected <= components


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_modalities_keep_their_addresses(overlay: str) -> None:
    service = named(overlay, "Service", "prelim-dicom")["spec"]

    assert (service["type"], service["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert named(overlay, "StatefulSet", "prelim-listener")["spec"]["serviceName"] == "prelim-listener"


def test_backups_are_made_daily_verified_weekly_and_restored_by_hand() -> None:
    jobs = {job["metadata"]["name"]: job for job in of_kind("backup", "CronJob")}
    commands = {name: pod(job)["containers"][0]["args"][1:] for name, job in jobs.items()}
    folder = ["/backups", "--key-file", "/run/secrets/backup_key"]

    assert commands == {
        "prelim-backup": ["backup", *folder],
        "prelim-backup-verify": ["restore", *folder, "--verify"],
        "prelim-restore": ["restore", *folder],
    }
    assert [problem(words) for words in commands.values()] == [None] * len(jobs)
    assert [name for name, job in jobs.items() if job["spec"].get("suspend")] == ["prelim-restore"]
    assert jobs["prelim-backup"]["spec"]["schedule"].endswith("* * *")
    assert jobs["prelim-backup-verify"]["spec"]["schedule"].endswith("* * 0")


def test_a_backup_is_not_repeated_by_itself_nor_run_twice() -> None:
    for job in of_kind("backup", "CronJob"):
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
        assert pod(job)["restartPolicy"] == "Never"


def test_backup_only_reads_the_files_and_restore_writes_them() -> None:
    mounts = {
        job["metadata"]["name"]: {each["mountPath"]: each for each in pod(job)["containers"][0]["volumeMounts"]}
        for job in of_kind("backup", "CronJob")
    }
    data = settings_of("backup")["data_dir"]

    assert [name for name, each in mounts.items() if not each[data].get("readOnly")] == ["prelim-restore"]
    assert all({"/backups", "/scratch", "/run/secrets"} <= each.keys() for each in mounts.values())


def test_files_of_a_verification_are_on_a_volume_that_is_deleted_with_it() -> None:
    volumes = {each["name"]: each for each in pod(named("backup", "CronJob", "prelim-backup-verify"))["volumes"]}
    data = named("backup", "PersistentVolumeClaim", "prelim-data")["spec"]["resources"]["requests"]

    claim = volumes["scratch"]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["resources"]["requests"] == data


def test_each_worker_has_one_gpu() -> None:
    for overlay in set(OVERLAYS) - {"one-node"}:
        worker = pod(named(overlay, "Deployment", "prelim-worker"))
        container = worker["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["image"].startswith("prelim-worker-cuda:")


def test_one_node_has_its_databases_and_volumes_of_one_node() -> None:
    assert {component(workload) for workload in workloads("one-node")} >= {"postgres", "redis"}
    for claim in of_kind("one-node", "PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    # They are the servers of the addresses that make-secrets writes.
    assert {"postgres", "redis"} <= {service["metadata"]["name"] for service in of_kind("one-node", "Service")}


def test_keda_decides_the_number_of_workers_alone() -> None:
    scaler = of_kind("keda", "ScaledObject")[0]["spec"]

    assert "replicas" not in named("keda", "Deployment", scaler["scaleTargetRef"]["name"])["spec"]
    assert scaler["minReplicaCount"] >= 1
    behaviour = scaler["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 1800
    authentication = of_kind("keda", "TriggerAuthentication")[0]
    assert scaler["triggers"][0]["authenticationRef"]["name"] == authentication["metadata"]["name"]
