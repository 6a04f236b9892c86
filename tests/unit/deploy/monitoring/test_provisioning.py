"""Files of Prometheus and Grafana: each path in them is where docker-compose.yml mounts it, each address a service."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
PROMETHEUS, GRAFANA = SERVICES["prometheus"], SERVICES["grafana"]
#: Where the image of Grafana reads data sources and providers of dashboards.
PROVISIONING = "/etc/grafana/provisioning"


def mounts(service: dict[str, Any]) -> dict[PurePosixPath, Path]:
    """Return the files and folders of the repository by their path in the container; all are read-only."""
    found = [volume.split(":") for volume in service["volumes"] if volume.startswith("./")]
    assert all(mode == "ro" for *_, mode in found)
    return {PurePosixPath(target): REPOSITORY / source for source, target, _ in found}


def file_of(service: dict[str, Any], path: str) -> Path:
    """Return the file or folder of the repository that is mounted at *path* in the container."""
    for target, source in mounts(service).items():
        if PurePosixPath(path).is_relative_to(target):
            return source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"nothing is mounted at {path}")


def provisioned(kind: str, key: str) -> list[dict[str, Any]]:
    files = sorted(file_of(GRAFANA, f"{PROVISIONING}/{kind}").iterdir())
    assert files
    return [entry for file in files for entry in yaml.safe_load(file.read_text())[key]]


def dashboards() -> list[dict[str, Any]]:
    """Return the dashboards that are mounted in the folders of the providers."""
    folders = [PurePosixPath(provider["options"]["path"]) for provider in provisioned("dashboards", "providers")]
    found = [source for target, source in mounts(GRAFANA).items() if target.parent in folders]
    assert {target.parent for target in mounts(GRAFANA) if target.suffix == ".json"} == set(folders)
    return [json.loads(file.read_text()) for file in found]


def sources_of(item: Any) -> Iterator[Any]:
    """Yield every reference to a data source in a dashboard."""
    if isinstance(item, dict):
        yield from [item["datasource"]] if "datasource" in item else []
    for part in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        yield from sources_of(part)


def test_prometheus_reads_configuration_and_rules_where_they_are_mounted() -> None:
    (path,) = [word.partition("=")[2] for word in PROMETHEUS["command"] if word.startswith("--config.file=")]
    configuration = yaml.safe_load(file_of(PROMETHEUS, path).read_text())

    for rules in configuration["rule_files"]:
        assert yaml.safe_load(file_of(PROMETHEUS, str(PurePosixPath(path).parent / rules)).read_text())["groups"]
    (data,) = [word.partition("=")[2] for word in PROMETHEUS["command"] if word.startswith("--storage.tsdb.path=")]
    assert f"prometheus:{data}" in PROMETHEUS["volumes"], "it is written to a volume"


def test_prometheus_scrapes_a_service_of_its_network_at_its_port() -> None:
    configuration = yaml.safe_load((REPOSITORY / "deploy" / "monitoring" / "prometheus.yml").read_text())

    for job in configuration["scrape_configs"]:
        for target in [each for group in job["static_configs"] for each in group["targets"]]:
            name, _, port = target.partition(":")
            assert SERVICES[name]["environment"]["PRELIM_API_PORT"] == port
            assert set(SERVICES[name]["networks"]) & set(PROMETHEUS["networks"])


def test_grafana_reads_data_sources_and_dashboards_where_they_are_mounted() -> None:
    assert {file.name for file in file_of(GRAFANA, PROVISIONING).iterdir()} == {"datasources", "dashboards"}
    assert [dashboard["uid"] for dashboard in dashboards()] == ["prelim"]
    for secret in [value for name, value in GRAFANA["environment"].items() if name.endswith("__FILE")]:
        assert secret in {f"/run/secrets/{name}" for name in GRAFANA["secrets"]}


def test_data_source_is_the_service_of_prometheus_on_a_network_of_grafana() -> None:
    (source,) = provisioned("datasources", "datasources")
    address = urlsplit(source["url"])

    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    assert SERVICES[address.hostname] == PROMETHEUS
    assert f":{address.port}/" in PROMETHEUS["healthcheck"]["test"][-1]
    assert set(PROMETHEUS["networks"]) & set(GRAFANA["networks"])


def test_dashboard_finds_a_data_source_that_is_provisioned() -> None:
    """By a variable, so that it can be imported elsewhere; a literal uid would have to be in the provisioning file."""
    known = provisioned("datasources", "datasources")
    uids = {(source["type"], source["uid"]) for source in known if "uid" in source}

    for dashboard in dashboards():
        variables = {each["name"]: each for each in dashboard["templating"]["list"] if each["type"] == "datasource"}
        uids |= {(each["query"], f"${{{name}}}") for name, each in variables.items()}
        assert {each["query"] for each in variables.values()} <= {source["type"] for source in known}
        references = [(each["type"], each["uid"]) for each in sources_of(dashboard["panels"])]
        assert len(references) >= len(dashboard["panels"])
        assert set(references) <= uids
