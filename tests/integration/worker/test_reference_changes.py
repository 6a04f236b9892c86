"""One case is added or erased without building the index again; an erased case leaves nothing and does not return."""

from __future__ import annotations

import io
import json
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console
from sqlalchemy import select

from db import reference
from db.errors import ConfigurationError
from db.models import ReferenceCase
from db.reports.versions import BANNER
from db.session import transaction
from db.settings import Settings
from deploy.operate import index_info
from deploy.operate.erasure import erase as everywhere
from tests.unit.worker.fakes import FakeModel
from worker.phantoms.datasets import write_reference_cases
from worker.reference_build import erasing
from worker.reference_build.erasing import erase, faults
from worker.reference_build.importing import build_reference, import_reference, removals
from worker.reference_build.publishing import add
from worker.resident import Resident
from worker.retrieval import changes
from worker.retrieval.snapshot import archive_beside

if TYPE_CHECKING:
    import uuid
    from pathlib import Path

    from worker.retrieval.archive import ArchivedCase

MODEL = FakeModel()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_reference_cases(folder / "cases", count=7, seed=1)
    return folder / "cases"


@pytest.fixture
def site(database_url: str, tmp_path: Path, drawn: Path) -> Settings:
    """A site with an index of six cases of a folder with seven."""
    settings = Settings(data_dir=tmp_path, database_url=database_url, validation_cases=0)
    shutil.copytree(drawn, tmp_path / "cases")
    first(tmp_path, 6)
    build_reference(tmp_path / "first", MODEL, settings)  # type: ignore[arg-type]
    return settings


def first(folder: Path, count: int) -> None:
    shutil.copytree(folder / "cases", folder / "first", dirs_exist_ok=True)
    lines = (folder / "cases" / "cases.jsonl").read_text().splitlines()
    (folder / "first" / "cases.jsonl").write_text("\n".join(lines[:count]))


def served(settings: Settings) -> Resident:
    return Resident(MODEL, settings)  # type: ignore[arg-type]


def names(settings: Settings) -> set[str]:
    with transaction(settings.database()) as session:
        return set(session.scalars(select(ReferenceCase.source_case)))


def files_with(folder: Path, text: bytes) -> list[Path]:
    return [path for path in (folder / "reference").rglob("*") if path.is_file() and text in path.read_bytes()]


def case_id(settings: Settings, name: str) -> uuid.UUID:
    with transaction(settings.database()) as session:
        return session.scalars(select(ReferenceCase.id).where(ReferenceCase.source_case == name)).one()


def archived(settings: Settings, folder: Path, name: str) -> ArchivedCase:
    with transaction(settings.database()) as session:
        current = reference.current_snapshots(session)[0].directory
    return archive_beside(folder / current, MODEL.digest).read(name)


def set_aside(settings: Settings, folder: Path, name: str) -> None:
    """Add an indexed case again, although report and images disagree."""
    add(settings, MODEL.digest, [archived(settings, folder, name)], lambda _: {name: "they disagree"})


def test_an_added_case_is_visible_to_a_worker_at_once(site: Settings, tmp_path: Path) -> None:
    worker = served(site)
    before = worker._current_index()
    assert before is not None
    (tmp_path / "first" / "cases.jsonl").write_text((tmp_path / "cases" / "cases.jsonl").read_text())

    added = import_reference(tmp_path / "first", MODEL, site, names=["00007"])  # type: ignore[arg-type]
    started = time.monotonic()
    after = worker._current_index()

    assert after is not None
    assert time.monotonic() - started < 2
    assert (added.indexed, added.excluded) == (1, [])
    assert set(after.case_ids()) == {*before.case_ids(), str(case_id(site, "00007"))}
    assert faults(site) == []


def test_erasure_of_a_patient_reaches_the_index_also_after_an_interruption(
    site: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.loads((tmp_path / "cases" / "cases.jsonl").read_text().splitlines()[1])
    gone, quiet = str(case_id(site, "00002")), Console(quiet=True)
    assert files_with(tmp_path, gone.encode())
    monkeypatch.setattr(everywhere, "INDEXER_SECONDS", 0)
    found = everywhere.show(site, quiet, line["patient"], "")
    with monkeypatch.context() as patched:
        # The row is gone, the vectors are not.
        patched.setattr(erasing, "_without", interrupted)
        with pytest.raises(KeyboardInterrupt):
            everywhere.run(site, quiet, line["patient"], "", found)

    everywhere.resume(site, quiet)

    assert "00002" not in names(site)
    assert files_with(tmp_path, gone.encode()) == []
    assert faults(site) == []
    assert import_reference(tmp_path / "first", MODEL, site, names=["00002"]).indexed == 0  # type: ignore[arg-type]


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_erased_patient_leaves_nothing_and_is_not_imported_again(site: Settings, tmp_path: Path) -> None:
    gone = case_id(site, "00001")
    line = json.loads((tmp_path / "first" / "cases.jsonl").read_text().splitlines()[0])
    assert files_with(tmp_path, str(gone).encode())

    assert erase(site, patient=line["patient"]) == 1

    assert "00001" not in names(site)
    assert files_with(tmp_path, str(gone).encode()) == []
    index = served(site)._current_index()
    assert index is not None
    assert str(gone) not in index.case_ids()
    again = import_reference(tmp_path / "first", MODEL, site)  # type: ignore[arg-type]
    assert any("00001" in excluded and "erased" in excluded for excluded in again.excluded)
    renamed = line | {"patient": "ANOTHER", "case_id": "renamed"}
    (tmp_path / "first" / "cases.jsonl").write_text(json.dumps(renamed))
    assert import_reference(tmp_path / "first", MODEL, site).indexed == 0  # type: ignore[arg-type]
    assert names(site).isdisjoint({"00001", "renamed"})
    assert faults(site) == []


def test_the_rest_of_an_interrupted_erasure_goes_with_the_next(site: Settings, tmp_path: Path) -> None:
    gone = case_id(site, "00001")
    with transaction(site.database()) as session:
        reference.erase_cases(session, [gone])
    assert files_with(tmp_path, str(gone).encode())

    assert erase(site, cases=["00002"]) == 1

    assert files_with(tmp_path, str(gone).encode()) == []
    assert faults(site) == []


def test_statistics_that_an_interrupted_erasure_has_left_are_fitted_with_the_next(
    site: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(changes, "refit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erase(site, cases=[str(case_id(site, "00002"))])
    before = served(site)._current_index()
    assert before is not None
    images = {name: family.stats.images for name, family in before._families.items()}

    erase(site, patient="of no case")

    after = served(site)._current_index()
    assert after is not None
    assert sum(images.values()) > sum(family.stats.images for family in after._families.values())


def test_an_erased_case_that_was_set_aside_leaves_nothing(site: Settings, tmp_path: Path) -> None:
    gone = str(case_id(site, "00002"))
    set_aside(site, tmp_path, gone)
    assert files_with(tmp_path, gone.encode())

    assert erase(site, cases=[gone]) == 1

    assert files_with(tmp_path, gone.encode()) == []
    with transaction(site.database()) as session:
        assert all(gone not in str(snapshot.figures) for snapshot in reference.current_snapshots(session))
    assert faults(site) == []


def test_an_erased_case_is_in_no_older_snapshot(site: Settings, tmp_path: Path) -> None:
    gone = str(case_id(site, "00006"))
    first(tmp_path, 5)
    build_reference(tmp_path / "first", MODEL, site, replace=True)  # type: ignore[arg-type]
    assert files_with(tmp_path, gone.encode())

    assert erase(site, cases=[gone]) == 1

    assert files_with(tmp_path, gone.encode()) == []
    assert len(served(site)._current_index() or ()) == 5


def test_a_case_that_is_added_with_another_modality_is_indexed_once(site: Settings, tmp_path: Path) -> None:
    before = served(site)._current_index()
    case = archived(site, tmp_path, str(case_id(site, "00003")))

    add(site, MODEL.digest, [replace(case, case=replace(case.case, modality="MG"))], lambda _: {})

    after = served(site)._current_index()
    assert before is not None
    assert after is not None
    assert sorted(after.case_ids()) == sorted(before.case_ids())


def test_the_statistics_after_an_erasure_are_those_of_the_other_cases(site: Settings, tmp_path: Path) -> None:
    erase(site, cases=["00001"])
    with transaction(site.database()) as session:
        erased = reference.current_snapshots(session)[0].directory
    lines = (tmp_path / "first" / "cases.jsonl").read_text().splitlines()
    (tmp_path / "first" / "cases.jsonl").write_text("\n".join(lines[1:]))
    build_reference(tmp_path / "first", MODEL, site)  # type: ignore[arg-type]
    with transaction(site.database()) as session:
        built = reference.current_snapshots(session)[0].directory

    with np.load(tmp_path / erased / "DX.stats.npz") as one, np.load(tmp_path / built / "DX.stats.npz") as other:
        np.testing.assert_allclose(one["mean"], other["mean"], atol=1e-5)
        assert int(one["pictures"]) == int(other["pictures"])


def test_a_removed_case_is_readmitted_only_on_request(site: Settings, tmp_path: Path) -> None:
    erase(site, cases=["00002"])

    assert import_reference(tmp_path / "first", MODEL, site, names=["00002"]).indexed == 0  # type: ignore[arg-type]
    again = import_reference(tmp_path / "first", MODEL, site, names=["00002"], readmit=True)  # type: ignore[arg-type]

    assert again.indexed == 1
    assert "00002" in names(site)


def test_a_case_whose_report_and_images_disagree_is_listed_and_indexed_on_request(
    site: Settings, tmp_path: Path
) -> None:
    wrong = str(case_id(site, "00002"))

    set_aside(site, tmp_path, wrong)

    assert wrong not in served(site)._current_index().case_ids()  # type: ignore[union-attr]
    assert any("00002: they disagree" in line for line in shown(site))
    import_reference(tmp_path / "first", MODEL, site, names=["00002"], admit=True)  # type: ignore[arg-type]
    assert wrong in served(site)._current_index().case_ids()  # type: ignore[union-attr]
    assert not any("disagree" in line for line in shown(site))


def test_a_draft_of_this_system_is_indexed_only_on_request(site: Settings, tmp_path: Path) -> None:
    listed = tmp_path / "cases" / "cases.jsonl"
    (line,) = [json.loads(one) for one in listed.read_text().splitlines() if '"00007"' in one]
    listed.write_text(json.dumps(line | {"report": f"{BANNER}. {line['report']}"}))

    left_out = import_reference(tmp_path / "cases", MODEL, site)  # type: ignore[arg-type]

    assert (left_out.indexed, "00007" in names(site)) == (0, False)
    assert any("00007: the report is a draft of this system" in one for one in left_out.excluded)
    assert import_reference(tmp_path / "cases", MODEL, site, admit=True).indexed == 1  # type: ignore[arg-type]


def shown(settings: Settings) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    index_info.show(settings, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_smaller_folder_replaces_the_index_only_on_request(site: Settings, tmp_path: Path) -> None:
    first(tmp_path, 3)

    with pytest.raises(ConfigurationError, match=r"has \d cases, .* only 3"):
        build_reference(tmp_path / "first", MODEL, site)  # type: ignore[arg-type]
    assert build_reference(tmp_path / "first", MODEL, site, replace=True).indexed == 3  # type: ignore[arg-type]


def test_the_last_good_snapshot_serves_while_the_newest_is_damaged(site: Settings, tmp_path: Path) -> None:
    worker = served(site)
    good = worker._current_index()
    build_reference(tmp_path / "first", MODEL, site)  # type: ignore[arg-type]
    with transaction(site.database()) as session:
        newest = tmp_path / reference.current_snapshots(session)[0].directory
    damaged = newest / "DX.0.faiss"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    assert good is not None
    assert worker._current_index() is good
    assert worker.damaged_snapshot == newest.name
    started = served(site)._current_index()
    assert started is not None
    assert started.snapshot == good.snapshot
    assert any("damaged file DX.0.faiss" in fault for fault in faults(site))
    build_reference(tmp_path / "first", MODEL, site)  # type: ignore[arg-type]
    assert worker._current_index() is not good
    assert not worker.damaged_snapshot


def test_a_build_measures_how_well_the_model_reads_each_kind(site: Settings, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=site.database(), validation_cases=3)
    build_reference(tmp_path / "first", MODEL, settings)  # type: ignore[arg-type]
    index = served(site)._current_index()

    assert index is not None
    figures = index.figures["validation"]
    assert set(figures["DX CHEST"]) == {"cases", "reported", "generated", "right", "f1"}
    assert figures["DX CHEST"]["f1"] < 0.5  # the fake model writes the same text about every study
    with transaction(site.database()) as session:
        assert reference.current_snapshots(session)[0].figures == index.figures


def test_texts_that_must_not_be_quoted_are_removed_and_shown(site: Settings, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (tmp_path / "first" / "cases.jsonl").read_text().splitlines()]
    lines[0]["report"] = "Findings: No effusion. Discussed with Dr. Miller on 3/4/2020. Impression: Normal chest."
    (tmp_path / "first" / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))

    assert removals(tmp_path / "first") == ["00001: may identify a person: Discussed with Dr. Miller on 3/4/2020."]
    assert build_reference(tmp_path / "first", MODEL, site).removed == removals(tmp_path / "first")  # type: ignore[arg-type]
    with transaction(site.database()) as session:
        report = session.scalars(select(ReferenceCase.report).where(ReferenceCase.source_case == "00001")).one()
    assert "Miller" not in report
    assert "Normal chest." in report
