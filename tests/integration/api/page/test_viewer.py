"""Stored images in a real browser, by keyboard only: the levels on the screen are those of the values received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread

from db.models import Instance
from db.session import transaction
from tests.integration.api.page.test_reading import VIOLATIONS, load_rules, log_in_by_keyboard
from tests.integration.api.v1.test_frames import stored

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab

VIEWER = "document.querySelector('stored-images')"
#: Number of table indices whose level differs between server and browser, by the largest difference.
COMPARE = """import("/static/frames.js").then(async ({parse, tableOf}) => {
  const frame = parse(await (await fetch(%r)).arrayBuffer());
  const own = tableOf(frame, frame.window, false);
  return Math.max(...[0, 0, 0].concat([...own].map((level, at) => Math.abs(level - frame.levels[at]))));
})"""

#: Milliseconds from a key to the frame of the browser that has the picture.
TIMED = """const begin = () => { window.began = performance.now(); };
document.addEventListener("keydown", begin, { capture: true, once: true });
new MutationObserver((_, observer) => {
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.took = performance.now() - window.began; }));
}).observe(document.querySelector("#picture"), { attributeFilter: ["data-shown"] }); true"""


@pytest.fixture
def study_id(arrivals: Arrivals, tmp_path: Path) -> uuid.UUID:
    study_id = arrivals.reported()
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    stored(arrivals, study_id, tmp_path, ramp)
    with transaction(arrivals.url) as session:
        # The object of the report's image.
        session.query(Instance).filter_by(study_id=study_id).update({"sop_instance_uid": "1.2.3"})
    return study_id


@pytest.fixture
def viewer(tab: Tab, address: str, arrivals: Arrivals, study_id: uuid.UUID) -> Tab:
    log_in_by_keyboard(tab, address, arrivals, f"/studies/{study_id}")
    tab.wait("Boolean(customElements.get('stored-images'))")
    tab.press("v")
    tab.wait("document.querySelector('#picture').dataset.shown")
    return tab


def level(tab: Tab, column: int, row: int) -> int:
    """Return the level on the screen of a pixel (from 0), at one pixel for each."""
    tab.press("o")
    found: list[int] = tab.evaluate(
        f"(([left, top]) => [...document.querySelector('#picture').getContext('2d')"
        f".getImageData(left + {column}, top + {row}, 1, 1).data])({VIEWER}.origin)"
    )
    assert found[0] == found[1] == found[2]
    return found[0]


def window(tab: Tab) -> list[float]:
    return [float(tab.evaluate(f"{VIEWER}.part('{name}').value")) for name in ("center", "width")]


def test_stored_image_is_shown_windowed_and_inverted_by_keys(viewer: Tab) -> None:
    tab = viewer
    edges = tab.evaluate("[...document.querySelectorAll('.edge')].map((edge) => edge.textContent)")
    plain = [level(tab, 0, 0), level(tab, 0, 32), level(tab, 63, 63)]
    tab.press("i")
    inverted = [level(tab, 0, 0), level(tab, 63, 63)]
    tab.press("r")
    tab.press("ArrowRight", shift=True)
    wider = window(tab)
    tab.press("1")

    assert edges == ["R", "L", "H", "F"]
    assert plain == [0, 127, 255]
    assert inverted == [255, 0]
    assert wider[1] > 4096
    assert window(tab) == [2048, 4096]
    assert "NOT FOR DIAGNOSIS" in tab.evaluate("document.querySelector('.stage').innerText")
    assert "image 1 of 1" in tab.evaluate("document.querySelector('#picture-words').innerText")
    tab.press("b")
    assert "Given to the model as image 1 of 1." in tab.evaluate("document.querySelector('.beside').innerText")
    assert tab.errors == []


@pytest.mark.slow
def test_first_picture_of_a_server_is_shown_within_a_second(
    tab: Tab, address: str, arrivals: Arrivals, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """docs/api.md#frames has the time on an idle machine, 0.3 s at most; here other tests run."""
    study_id = arrivals.reported()
    noise = np.random.default_rng(1).integers(0, 4096, (2048, 2048)).astype(np.uint16)
    stored(arrivals, study_id, tmp_path, noise)
    log_in_by_keyboard(tab, address, arrivals, f"/studies/{study_id}")
    tab.wait("Boolean(customElements.get('stored-images'))")
    tab.evaluate(TIMED)
    tab.press("v")
    tab.wait("window.took")
    took = tab.evaluate("window.took")
    record_property("first_picture_ms", took)

    assert took < 1000


@pytest.mark.slow
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_browser_and_server_give_every_value_the_same_level(
    tab: Tab, address: str, arrivals: Arrivals, study_id: uuid.UUID, tmp_path: Path, function: str
) -> None:
    with transaction(arrivals.url) as session:
        row = session.query(Instance).filter_by(study_id=study_id).one()
        path, image_id = tmp_path / row.file_path, row.id
    dataset = dcmread(path)
    elements: dict[str, Any] = {
        "PhotometricInterpretation": "MONOCHROME1",
        "PixelRepresentation": 1,
        "RescaleSlope": "1.5",
        "RescaleIntercept": "-100",
        "WindowCenter": "40",
        "WindowWidth": "900",
        "VOILUTFunction": function,
    }
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.add_new("PixelPaddingValue", "SS", -2048)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -2040)
    dataset.save_as(path)
    log_in_by_keyboard(tab, address, arrivals, f"/studies/{study_id}")

    assert tab.evaluate(COMPARE % f"/v1/studies/{study_id}/instances/{image_id}/frames/1") == 0


def test_frame_that_cannot_be_shown_leaves_no_other_picture(viewer: Tab) -> None:
    viewer.evaluate(f"{VIEWER}.stack[0].frame = 6")
    viewer.press("Home")
    viewer.wait(f"{VIEWER}.part('problem').innerText.includes('the frame does not exist')")

    drawn = "[...document.querySelector('#picture').getContext('2d').getImageData(0, 0, 999, 999).data].some(Boolean)"
    assert not viewer.evaluate(drawn)
    assert viewer.evaluate("[...document.querySelectorAll('.edge')].every((edge) => !edge.textContent)")


@pytest.mark.slow
def test_viewer_has_no_violation_of_accessibility_rules(viewer: Tab) -> None:
    load_rules(viewer)
    viewer.press("b")
    wide = viewer.evaluate(VIOLATIONS)
    viewer.resize(320, 800)

    assert (wide, viewer.evaluate(VIOLATIONS)) == ([], [])
    assert viewer.evaluate("document.documentElement.scrollWidth") <= 320
