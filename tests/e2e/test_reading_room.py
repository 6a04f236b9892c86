"""From C-STORE to the copied report in two real browsers, by keyboard only, with hostile headers in view."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from deploy.demo.demo import CHECKPOINT
from tests.e2e.conftest import running_system
from tests.integration.api.browser import chromium
from tests.integration.api.page.test_reading import CLIPBOARD, focused, said
from worker.phantoms.cases import Case, Finding
from worker.phantoms.datasets import write_reference_cases
from worker.phantoms.dicom_files import write_study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import System
    from tests.integration.api.browser import Tab

SCRIPT = "<script>document.title='run'</script>"
#: Patient ID and name of each study; the second name is as long as a 16-bit length permits.
PATIENTS = {"P-1": f"{SCRIPT}^\u202eevil", "P-2": "N" * 65_534}
DESCRIPTION = f"\u202e\u2067{SCRIPT}"
#: Enough for the searched chest to have similar cases.
CASES = 24


@dataclass(frozen=True)
class Reader:
    """One person at one browser."""

    tab: Tab
    name: str


def hostile_study(folder: Path, patient_id: str, *, late: bool = False) -> Path:
    """Write a chest radiograph under hostile headers; *late*: another object of the same study."""
    case = Case("chest", 11, (Finding("pleural effusion", side="left", size="large"),))
    (path,) = write_study(case, folder / patient_id, patient=int(patient_id[2:]))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    if late:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    with disable_value_validation():
        dataset.PatientID, dataset.PatientName, dataset.StudyDescription = patient_id, PATIENTS[patient_id], DESCRIPTION
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    return path.parent


@pytest.fixture
def room(tmp_path: Path) -> Iterator[System]:
    changes = {"PRELIM_CHECKPOINT": str(CHECKPOINT), "PRELIM_DTYPE": "float32", "PRELIM_MAX_NEW_TOKENS": "256"}
    write_reference_cases(tmp_path / "cases", count=CASES, seed=0)
    with running_system(tmp_path, **changes) as system:
        system.prelim("index", "build", str(tmp_path / "cases"))
        yield system


@pytest.fixture
def readers(room: System, tmp_path: Path) -> Iterator[tuple[Reader, Reader]]:
    with ExitStack() as stack:
        found = []
        for name in ("first", "second"):
            tab = stack.enter_context(chromium(tmp_path / name))()
            log_in(tab, room, name)
            found.append(Reader(tab, name))
        first, second = found
        yield first, second


def log_in(tab: Tab, room: System, name: str) -> None:
    scopes = [option for scope in ("read", "feedback", "questions") for option in ("--scope", scope)]
    printed = room.prelim("key", "create", name, *scopes).stdout
    (key,) = re.findall(r"prelim_\S+", printed)
    tab.open(f"http://127.0.0.1:{room.environment['PRELIM_API_PORT']}/")
    tab.write(key)
    tab.press("Enter")
    tab.wait("location.pathname === '/' && document.readyState === 'complete'")
    tab.permit_clipboard()


def find(tab: Tab, patient_id: str) -> None:
    """Open the study of a patient from the work list."""
    tab.press("/")
    tab.write(patient_id)
    tab.press("Enter")
    tab.wait("location.search.includes('patient_id') && document.readyState === 'complete'")
    tab.wait("document.querySelectorAll('tbody tr').length === 1")
    tab.press("j")
    tab.press("Enter")
    tab.wait("location.pathname.startsWith('/studies/') && Boolean(document.querySelector('.report'))", 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_report_is_found_read_questioned_accepted_and_copied_by_keyboard(
    room: System, readers: tuple[Reader, Reader], tmp_path: Path
) -> None:
    tab, other = (reader.tab for reader in readers)
    before = sum(room.status()["studies"].values())
    for patient_id in PATIENTS:
        room.prelim("send", str(hostile_study(tmp_path / "sent", patient_id)))
    room.wait_for_studies(lambda counts: sum(counts.values()) == before + len(PATIENTS))
    tab.wait("document.querySelectorAll('tbody tr').length >= 2")
    tab.resize(320, 800)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320, "long names are broken"
    tab.resize(1280, 800)
    shown = tab.evaluate("document.querySelector('tbody').innerText")
    assert all(words in shown for words in (SCRIPT, "Name too long, not read", "not read: Patient's Name")), shown

    for each in (tab, other):
        find(each, next(iter(PATIENTS)))
    tab.wait("Boolean(customElements.get('stored-images'))")
    tab.press("v")
    tab.wait("document.querySelector('#picture').dataset.shown")
    tab.press("Escape")
    assert focused(tab).startswith("grounds-")
    evidence = tab.evaluate("document.querySelector('.grounds').innerText")
    assert "effusion" in evidence.lower()
    assert re.search(r"Case \d \(similarity 0\.\d+\) (affirms|denies) it:", evidence), evidence

    tab.press("q")
    tab.write("Is there a pleural effusion?")
    tab.press("Enter")
    tab.wait("Boolean(document.querySelector('#answers .impression'))", 60)
    answer = tab.evaluate("document.querySelector('#answers li').innerText")
    assert "PRELIMINARY" in answer
    assert "Is there a pleural effusion?" in answer

    room.prelim("send", str(hostile_study(tmp_path / "late", next(iter(PATIENTS)), late=True)))
    for each in (tab, other):
        each.wait("document.querySelector('#newer')?.innerText.includes('Version 2')", 60)
        each.press("c")
        said(each, "Not copied: the report or its status has changed")
        each.press("j")
        each.press("a")
        said(each, "Not stored: the report or its status has changed")
    tab.press("n")
    assert "I have seen what changed" in tab.evaluate("document.activeElement.innerText")
    tab.press("Enter")
    tab.wait("document.querySelector('#main')?.dataset.version === '2' && document.readyState === 'complete'")
    tab.press("j")
    tab.press("a")
    said(tab, "Sentence accepted.")
    tab.press("c")
    said(tab, "Copied")
    plain, html = tab.evaluate(CLIPBOARD)
    other.press("c")
    said(other, "Not copied: the report or its status has changed")

    assert plain.startswith("PRELIMINARY - generated by AI, not reviewed by a physician\nVersion 2, written 20")
    assert f"[accepted by key {readers[0].name}]" in plain
    assert f"[accepted by key {readers[0].name}]" in html
    for each in (tab, other):
        assert "run" not in each.evaluate("document.title")
        assert each.errors == []
