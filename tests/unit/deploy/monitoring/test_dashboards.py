"""The dashboard is what its script makes, and every query is valid and reads exported metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from deploy.operate.monitoring.dashboards import PANELS, dashboard_text
from tests.documents import DASHBOARD
from tests.exported_metrics import LABELS
from tests.unit.deploy.monitoring.promtool import metrics_of, promtool
from tests.unit.deploy.monitoring.test_alerts import RULES

if TYPE_CHECKING:
    from pathlib import Path

QUERIES = [expression for panel in PANELS for expression in panel.queries.values()]


def test_file_is_what_the_script_makes() -> None:
    assert DASHBOARD.read_text() == dashboard_text(), "run `make docs`"


def test_every_query_is_valid(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": expression} for number, expression in enumerate(QUERIES)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    promtool("check", "rules", "queries.yml", folder=tmp_path)


@pytest.mark.parametrize("source", ["dashboard", "rules"])
def test_queries_read_only_exported_metrics(source: str) -> None:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    read = {name for expression in (QUERIES if source == "dashboard" else rules) for name in metrics_of(expression)}

    assert read <= LABELS.keys()
