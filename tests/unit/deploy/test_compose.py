from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from db.environment import load_settings
from db.settings import PREFIX, SECTION_OF, Settings
from deploy.launcher.processes import MIGRATE, PROCESSES
from deploy.operate.backup import sealing
from deploy.operate.plan import needs
from tests.tools import tool
from tests.unit.docs.test_commands import problem

REPOSITORY = Path(__file__).parents[3]
COMPOSE = REPOSITORY / "docker-compose.yml"
DOCKER = REPOSITORY / "deploy" / "docker"
DATABASES = {"postgres", "redis"}
MONITORING = {"prometheus", "grafana"}
#: The same process for another device.
VARIANTS = {"worker-gpu": "worker"}
#: Commands that end, beside the processes of the launcher.
ONE_SHOT = {"migrate", "backup"}

Document = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> Document:
    document: Document = yaml.safe_load(COMPOSE.read_text())
    return document


@pytest.fixture(scope="module")
def services(compose: Document) -> Document:
    found: Document = compose["services"]
    return found


def prelim_services(services: Document) -> Document:
    return {name: service for name, service in services.items() if name not in DATABASES | MONITORING}


def test_file_follows_the_compose_specification() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")

    checked = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout


def test_services_run_the_commands_of_the_launcher(services: Document) -> None:
    commands = {process.name: list(process.command) for process in PROCESSES} | {"migrate": list(MIGRATE)}

    assert {VARIANTS.get(name, name) for name in prelim_services(services)} - {"backup"} == commands.keys()
    for name in prelim_services(services).keys() - {"backup"}:
        service = services[name]
        assert service["command"] == commands[VARIANTS.get(name, name)]


def test_services_have_the_grace_times_and_checks_of_the_launcher(services: Document) -> None:
    processes = {process.name: process for process in PROCESSES}

    for name, service in prelim_services(services).items():
        if name in ONE_SHOT:
            assert service["restart"] == "no"
            continue
        process = processes[VARIANTS.get(name, name)]
        health = service["healthcheck"]
        assert service["stop_grace_period"] == f"{process.grace_seconds}s"
        assert health["test"] == ["CMD", "prelim", "ready", process.name]
        assert int(health["start_period"].removesuffix("s")) >= process.ready_seconds


def test_every_service_has_limits_of_memory_processes_cpu_and_logs(services: Document) -> None:
    for name, service in services.items():
        assert service["mem_limit"] == service["memswap_limit"], f"{name}: swap would hide a leak"
        assert int(service["pids_limit"]) > 0
        assert "cpus" in service
        assert service["logging"]["driver"] == "local"
        assert int(service["logging"]["options"]["max-file"]) * 20 <= 100, "MB"


def test_limits_of_memory_add_up_to_at_most_90_percent_of_the_machine_of_the_plan(services: Document) -> None:
    # Of the workers, one runs on a machine.
    limits = {VARIANTS.get(name, name): gibibytes(service["mem_limit"]) for name, service in services.items()}

    assert limits["worker"] == needs.WORKER_MEMORY
    assert sum(limits.values()) <= needs.WORKER_MEMORY + needs.OTHER_MEMORY
    assert sum(limits.values()) <= 0.9 * needs.MACHINE_MEMORY


def gibibytes(limit: str) -> float:
    """Return a limit such as 512m, 2g or ${WORKER_MEMORY:-24g} in GiB."""
    number, unit = re.findall(r"(\d+)([mg])", limit)[-1]
    return int(number) / (1024 if unit == "m" else 1)


def test_images_of_others_are_pinned_by_digest(services: Document) -> None:
    base = re.findall(r"^ARG BASE=(.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)

    for image in [*base, *(services[name]["image"] for name in DATABASES | MONITORING)]:
        assert re.fullmatch(r"[a-z/]+:v?[0-9]+\.[0-9.]+[a-z-]*@sha256:[0-9a-f]{64}", image), image


def test_prelim_runs_without_privileges_and_as_a_number(services: Document) -> None:
    for service in prelim_services(services).values():
        assert service["user"] == "10001:10001"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
        assert not [volume for volume in service["volumes"] if "docker.sock" in volume]
    assert re.findall(r"^USER (.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE) == ["10001:10001"]


def test_no_service_uses_the_docker_socket_or_a_namespace_of_the_host(services: Document) -> None:
    for service in services.values():
        assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "userns_mode", "cap_add", "devices"}
        assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]
        assert not [volume for volume in service.get("volumes", []) if volume.startswith(("/", "~"))]


def test_monitoring_is_optional_has_no_privileges_and_mounts_existing_files(services: Document) -> None:
    for name in MONITORING:
        service = services[name]
        assert service["profiles"] == ["monitoring"]
        assert service["user"] not in {"0", "0:0"}
        assert service["read_only"]
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        mounted = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith("./")]
        assert mounted
        assert all((REPOSITORY / path).exists() for path in mounted)
    assert not [volume for name in MONITORING for volume in services[name]["volumes"] if volume.startswith("data")]


def test_services_use_the_image_that_is_built_for_them(services: Document) -> None:
    stages = re.findall(r"^FROM runtime AS (\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]

    targets = {service["build"]["target"] for service in prelim_services(services).values()}
    assert targets == set(stages)
    for service in prelim_services(services).values():
        assert service["image"] == f"prelim-{service['build']['target']}:{version}"
    assert services["worker-gpu"]["build"]["target"] == "worker-cuda"


@pytest.mark.parametrize("kind", ["networks", "secrets"])
def test_networks_and_secrets_exist_and_are_used(compose: Document, services: Document, kind: str) -> None:
    used = {name for service in services.values() for name in service.get(kind, [])}

    assert used == compose[kind].keys()


def test_volumes_exist_and_are_used(compose: Document, services: Document) -> None:
    sources = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]

    assert {source for source in sources if re.fullmatch(r"\w+", source)} == compose["volumes"].keys()


def test_dependencies_exist_and_can_be_met(services: Document) -> None:
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert name in services
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert services[name]["restart"] == "no"


def test_only_dicom_port_api_and_grafana_are_published_and_on_loopback(services: Document) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert published.keys() == {"listener", "api", "grafana"}
    for ports in published.values():
        assert all(re.match(r"\$\{[A-Z]+_BIND:-127\.0\.0\.1\}:", port) for port in ports)


def test_databases_are_on_the_internal_network_only(compose: Document, services: Document) -> None:
    assert compose["networks"]["inside"] == {"internal": True}
    for name in DATABASES:
        assert services[name]["networks"] == ["inside"]


def test_backup_has_files_database_key_and_folders_of_its_own(services: Document) -> None:
    backup = services["backup"]
    folders = {volume.rpartition(":")[2]: volume.rpartition(":")[0] for volume in backup["volumes"]}

    assert backup["profiles"] == ["backup"], "it is run by a schedule, not by `up`"
    assert folders["/backups"] == "${BACKUP_FOLDER:-./backups}", "not a volume, which `down --volumes` deletes"
    assert folders.keys() == {backup["environment"]["PRELIM_DATA_DIR"], "/backups", "/scratch"}
    assert backup["secrets"] == ["prelim_database_url", "backup_key"]
    assert not [
        name for name in prelim_services(services).keys() - {"backup"} if "backup_key" in services[name]["secrets"]
    ]


def test_backup_can_be_restored_into_a_database_without_tables(services: Document) -> None:
    assert services["backup"]["depends_on"].keys() == {"postgres"}, "`migrate` would create them"


def test_prelim_accepts_the_command_of_backup(services: Document) -> None:
    assert problem(services["backup"]["command"][1:]) is None


def test_image_of_backup_has_postgresql_and_no_small_folder_for_scratch_files() -> None:
    _, _, text = (DOCKER / "Dockerfile").read_text().partition("FROM runtime AS backup\n")
    stage = text.partition("FROM ")[0]

    assert "ENV TMPDIR=/scratch\n" in stage
    assert "COPY --from=packages-backup /opt/prelim /opt/prelim" in stage


def test_senders_and_prometheus_reach_the_outside_and_publish_nothing(services: Document) -> None:
    for name in ("audit-sender", "trace-sender", "prometheus"):
        assert services[name]["networks"] == ["inside", "outside"]
        assert "ports" not in services[name]


def test_prometheus_sends_alerts_to_a_file_beside_its_configuration(services: Document) -> None:
    configuration = yaml.safe_load((REPOSITORY / "deploy" / "monitoring" / "prometheus.yml").read_text())
    files = configuration["alerting"]["alertmanagers"][0]["file_sd_configs"][0]["files"]

    assert files == ["alertmanagers.yml"], "relative to the configuration"
    assert "./deploy/monitoring:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert "/deploy/monitoring/alertmanagers.yml" in (REPOSITORY / ".gitignore").read_text()


def test_environment_variables_and_secrets_are_settings(services: Document) -> None:
    known = {f"{PREFIX}{name}".upper() for name in SECTION_OF}

    for service in prelim_services(services).values():
        assert set(service.get("environment", {})) <= known
        assert {name.upper() for name in service["secrets"]} - {"BACKUP_KEY"} <= known
        given = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
        Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items()})


def test_file_holds_no_password(services: Document) -> None:
    for service in services.values():
        names = [name for name in service.get("environment", {}) if "PASSWORD" in name]
        assert all(name.endswith("_FILE") for name in names)
        assert "requirepass" not in service.get("command", [])
    assert not re.search(r"://[^/\s]*@", COMPOSE.read_text())


def test_secrets_script_creates_every_file_of_the_settings(compose: Document, tmp_path: Path) -> None:
    subprocess.run([DOCKER / "make-secrets"], cwd=tmp_path, check=True)
    folder = tmp_path / "secrets"
    settings = load_settings(folder)

    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} == {
        path.name for path in folder.iterdir() if path.name != ".gitignore"
    }
    password = (folder / "postgres_password").read_text().strip()
    assert settings.database() == f"postgresql+psycopg://prelim:{password}@postgres:5432/prelim"
    assert (folder / "redis_conf").read_text().split()[1] in settings.broker()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(sealing.read_key(folder / "backup_key")) == sealing.KEY


def test_secrets_script_does_not_replace_existing_secrets(tmp_path: Path) -> None:
    subprocess.run([DOCKER / "make-secrets"], cwd=tmp_path, check=True)
    before = (tmp_path / "secrets" / "redis_conf").read_text()

    again = subprocess.run([DOCKER / "make-secrets"], cwd=tmp_path, capture_output=True, check=False)

    assert again.returncode != 0
    assert (tmp_path / "secrets" / "redis_conf").read_text() == before


def test_linter_of_dockerfiles_finds_nothing() -> None:
    linted = subprocess.run([tool("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)

    assert linted.returncode == 0, linted.stdout


def test_image_installs_files_with_known_hashes_only() -> None:
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    commands = [part.partition("\n")[0].split() for part in re.split(r"&&|^RUN ", text, flags=re.MULTILINE)[1:]]
    installs = [words for words in commands if "install" in words]

    assert len(installs) == 6
    assert all("--no-deps" in words for words in installs)
    assert [words[-1] for words in installs if "--require-hashes" not in words] == ["."], "Prelim itself"


def test_failed_command_ends_the_build_of_an_image() -> None:
    assert not re.search(r"\|\| true|; true|set \+e", (DOCKER / "Dockerfile").read_text())


def test_image_copies_every_package_and_only_existing_files() -> None:
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    ignored_not = set(re.findall(r"^!(.*)$", (DOCKER / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}

    assert packages <= copied
    assert copied == ignored_not
    assert all((REPOSITORY / source).exists() for source in copied)
