"""Pages at the sizes of a desktop and a tablet, with the phantom that the README shows.

`TESTS_SCREENSHOTS=docs/images` writes the pictures of the documentation.
"""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from db.models import Instance
from db.session import transaction
from tests.integration.api.arrivals import png
from tests.integration.api.page.test_reading import log_in_by_keyboard
from tests.integration.api.test_report_grounds import DENIAL, EFFUSION, draft
from worker.grounding.requested import comparison
from worker.images.decode.files import read
from worker.images.render.render import render
from worker.phantoms.cases import Case, Finding
from worker.phantoms.dicom_files import write_study

if TYPE_CHECKING:
    import uuid

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab

SIZES = {"desktop": (1280, 800), "tablet": (768, 1024)}
PATIENT = {"patient_name": "Phantom^One", "patient_id": "PHANTOM-0001", "patient_birth_date": "19700101"}
REQUEST = "Dyspnoea. Pleural effusion? Pneumonia?"


@pytest.fixture
def phantom(arrivals: Arrivals, tmp_path: Path) -> uuid.UUID:
    case = Case("chest", 7, (Finding("pleural effusion", side="left", size="large"),))
    path = write_study(case, tmp_path / "phantom")[0]
    picture = io.BytesIO()
    Image.fromarray(np.asarray(render(read(path), 0)[0])).save(picture, "PNG")
    plain = arrivals.draft([picture.getvalue()])
    study_id = arrivals.reported(plain, indication=REQUEST, **PATIENT)
    arrivals.late_image(study_id, **PATIENT)
    arrivals.settle_again(study_id)
    written = replace(draft(arrivals, EFFUSION, DENIAL), images=plain.images)
    provenance = written.provenance | comparison(REQUEST, f"{written.findings} {written.impression}")
    arrivals.report(study_id, replace(written, provenance=provenance))
    with transaction(arrivals.url) as session:
        shown, *others = session.query(Instance).filter_by(study_id=study_id).order_by(Instance.id)
        for row in (shown, *others):
            (tmp_path / row.file_path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / row.file_path)
        shown.sop_instance_uid = "1.2.3"
    return study_id


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_their_screen(
    tab: Tab, address: str, arrivals: Arrivals, phantom: uuid.UUID, tmp_path: Path, size: str
) -> None:
    folder = Path(os.environ.get("TESTS_SCREENSHOTS", tmp_path))
    tab.resize(*SIZES[size])
    log_in_by_keyboard(tab, address, arrivals, f"/studies/{phantom}")
    tab.wait("Boolean(customElements.get('stored-images'))")
    tab.press("v")
    tab.wait("document.querySelector('#picture').dataset.shown")
    tab.evaluate("scrollTo(0, 0)")
    tab.screenshot(folder / f"study-page-{size}.png", whole=False)
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    other = arrivals.reported(arrivals.draft([png(size=256)]), study_date="20250314", **PATIENT)
    tab.open(f"{address}/studies/{phantom}?beside={other}")
    tab.screenshot(folder / f"side-by-side-{size}.png", whole=False)
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    arrivals.failed(**PATIENT)
    arrivals.receiving(patient_name="Phantom^Two", patient_id="PHANTOM-0002")
    tab.open(f"{address}/")
    tab.screenshot(folder / f"work-list-{size}.png", whole=False)

    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert tab.errors == []


#: Elements with a date in a table whose text is on several lines.
BROKEN_DATES = """
    [...document.querySelectorAll('.rows .date')]
        .filter(each => new Set([...each.getClientRects()].map(box => box.top)).size !== 1)
        .map(each => each.textContent)
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 768, 1024, 1280])
def test_no_date_of_a_list_is_broken_into_lines(tab: Tab, address: str, arrivals: Arrivals, width: int) -> None:
    long = {"patient_name": "Phantom^One Two Three", "patient_id": "PHANTOM-0001-0002-0003", "patient_sex": "O"}
    arrivals.reported(
        patient_birth_date="19610203",
        study_date="20250314",
        accession_number="ACCESSION-000001",
        study_description="Computed tomography of chest, abdomen and pelvis with contrast",
        **long,
    )
    tab.resize(width, 900)
    log_in_by_keyboard(tab, address, arrivals, "/")
    dates = tab.evaluate("[...document.querySelectorAll('.rows .date')].map(each => each.textContent)")

    assert dates[:2] == ["1961-02-03", "2025-03-14"]
    assert len(dates) == 4, "and date and time of arrival"
    assert tab.evaluate(BROKEN_DATES) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
