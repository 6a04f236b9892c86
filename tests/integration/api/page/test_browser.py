"""A real server process in a real browser."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from sqlalchemy import text

from db.session import transaction
from tests.conftest import missing
from tests.integration.api.arrivals import png

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab


def log_in(tab: Tab, address: str, key: str, path: str = "/") -> None:
    tab.open(address + path)
    tab.evaluate(f"document.querySelector('#key').value = '{key}'")
    tab.evaluate("document.querySelector('form.card button').click()")
    tab.wait(f"location.pathname === '{path}' && document.readyState === 'complete'")


def refresh(tab: Tab) -> None:
    """Refresh the page and wait until that is done."""
    tab.evaluate("window.refreshed = false; refresh().then(() => { window.refreshed = true })")
    tab.wait("window.refreshed")


def test_reader_logs_in_and_opens_a_report_with_its_image(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft([png(size=96)]))
    log_in(tab, address, key)
    tab.evaluate(f"document.getElementById('study-{study_id}').click()")
    tab.wait("document.querySelector('figure img')?.naturalWidth === 96")

    assert "The lungs are clear." in tab.evaluate("document.querySelector('.report').innerText")
    assert tab.evaluate("getComputedStyle(document.querySelector('.banner')).position") == "sticky"
    assert not tab.evaluate("document.cookie")
    assert tab.errors == []


def test_image_that_cannot_be_shown_is_named(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft([png(), png(91)]))
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE report_images SET png = '\\x00' WHERE ordinal = 2"))
    log_in(tab, address, key, f"/studies/{study_id}")

    tab.wait("document.querySelectorAll('figure img').length === 1")
    notice = tab.evaluate("document.querySelector('figure a p').innerText")
    assert notice == "Image 2 of 2 cannot be shown, although the report was written from it."


def test_open_study_page_shows_a_new_report_without_reload(
    tab: Tab, address: str, key: str, arrivals: Arrivals
) -> None:
    study_id = arrivals.queued()
    log_in(tab, address, key, f"/studies/{study_id}")
    before = tab.evaluate("document.querySelector('.report')")
    arrivals.report(study_id)

    assert before is None
    tab.wait("document.querySelector('.report')?.innerText.includes('The lungs are clear.')")
    assert tab.errors == []


def test_report_is_not_shown_in_place_of_a_notice_of_another_patient(
    tab: Tab, address: str, key: str, arrivals: Arrivals
) -> None:
    study_id = arrivals.queued(patient_name="Doe^Jane")
    log_in(tab, address, key, f"/studies/{study_id}")
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET patient_name = 'Roe^Ann'"))
    refresh(tab)
    arrivals.report(study_id)
    for _ in range(2):
        refresh(tab)

    assert "Now: Patient: Roe, Ann" in tab.evaluate("document.querySelector('#newer').innerText")
    assert tab.evaluate("document.querySelector('.report')") is None
    tab.evaluate("document.querySelector('#newer button').click()")
    tab.wait("document.querySelector('.report')?.innerText.includes('The lungs are clear.')")
    assert "Roe, Ann" in tab.evaluate("document.querySelector('.identity').textContent")
    assert tab.evaluate("document.querySelector('#newer')") is None


#: Fails every request for the page of versions.
NO_VERSIONS = """(() => {
  const sent = fetch;
  window.fetch = (url, ...rest) => (url.endsWith("/versions") ? Promise.reject(new Error()) : sent(url, ...rest));
})()"""


def test_newer_version_is_offered_and_the_text_stays(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft(findings="The first text."))
    log_in(tab, address, key, f"/studies/{study_id}")
    arrivals.late_image(study_id)
    tab.evaluate("refresh()")
    tab.wait("document.querySelector('#status').innerText.includes('Images arrived after')")
    arrivals.settle_again(study_id)
    arrivals.report(study_id, arrivals.draft(findings="The second text."))
    tab.evaluate(NO_VERSIONS)
    tab.evaluate("refresh()")
    tab.wait("document.querySelector('#newer')?.innerText.includes('Version 2')")
    tab.wait("document.querySelector('#newer').innerText.includes('The words that differ could not be loaded.')")

    assert "The first text." in tab.evaluate("document.querySelector('.report').innerText")
    tab.evaluate("document.querySelector('#newer button').click()")
    tab.wait("document.querySelector('.report')?.innerText.includes('The second text.')")
    assert tab.evaluate("document.querySelector('#newer')") is None


def test_hung_server_is_noticed_and_selected_text_stays(
    tab: Tab, server: tuple[str, subprocess.Popen[bytes]], key: str, arrivals: Arrivals
) -> None:
    address, process = server
    arrivals.receiving(patient_name="Doe^Jane")
    log_in(tab, address, key)
    tab.evaluate("getSelection().selectAllChildren(document.querySelector('tbody bdi'))")
    arrivals.receiving(patient_name="Roe^Ann")
    refresh(tab)
    tab.evaluate("updated = Date.now() - 3000")
    tab.wait("document.querySelector('#age').innerText.startsWith('Updated ')")
    assert tab.evaluate("getSelection().toString()") == "Doe, Jane"

    tab.evaluate("getSelection().removeAllRanges()")
    tab.evaluate("refresh()")
    tab.wait("document.body.innerText.includes('Roe, Ann')")
    process.send_signal(signal.SIGSTOP)
    tab.evaluate("updated = Date.now() - 16000")
    tab.wait("document.querySelector('#stale')?.innerText.includes('No answer from the server')")
    process.send_signal(signal.SIGCONT)
    tab.evaluate("refresh()")
    tab.wait("document.querySelector('#stale') === null")


def test_opened_details_stay_open(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    study_id = arrivals.failed()
    log_in(tab, address, key, f"/studies/{study_id}")
    tab.evaluate("document.querySelector('#status summary').click()")
    refresh(tab)

    assert tab.evaluate("document.querySelector('#status details').open")
    assert tab.errors == []


def test_every_printed_sheet_names_patient_and_banner(
    tab: Tab, address: str, key: str, arrivals: Arrivals, tmp_path: Path
) -> None:
    if shutil.which("pdftotext") is None:
        missing("pdftotext, to read the printed sheets,")
    text = "\n".join(f"Finding {number}: the lungs are clear." for number in range(120))
    study_id = arrivals.reported(arrivals.draft([png(size=96)], findings=text), patient_name="Doe^Jane")
    log_in(tab, address, key, f"/studies/{study_id}")
    tab.evaluate("offer('2', '1', '', [])")
    tab.print_pdf(tmp_path / "printed.pdf")
    subprocess.run(["pdftotext", "-layout", "printed.pdf"], cwd=tmp_path, check=True)
    sheets = (tmp_path / "printed.txt").read_text().rstrip("\f").split("\f")

    assert len(sheets) > 2
    assert "Version 2 of this report exists" in sheets[0]
    for sheet in sheets:
        assert "Doe, Jane" in sheet
        assert "P-17" in sheet
        assert "PRELIMINARY" in sheet.upper()


def test_work_list_refreshes_without_scripts(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    log_in(tab, address, key)
    tab.without_scripts()
    tab.open(f"{address}/")
    arrivals.receiving(patient_name="Doe^Jane")

    tab.wait("document.body.innerText.includes('Doe, Jane')")


def test_rows_stay_in_place_while_one_has_the_focus(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    first = arrivals.receiving(patient_name="Doe^Jane")
    log_in(tab, address, key)
    tab.press("j")
    place = tab.evaluate("document.activeElement.getBoundingClientRect().top")
    arrivals.receiving(patient_name="Roe^Ann")
    # The event arrives by itself.
    tab.wait("document.querySelector('#news').innerText.startsWith('1 new')")
    names = "[...document.querySelectorAll('tbody th a')].map((link) => link.innerText)"

    assert tab.evaluate(names) == ["Doe, Jane"]
    assert tab.evaluate("document.activeElement.id") == f"study-{first}"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().top") == place
    tab.press("n")
    tab.wait("document.querySelectorAll('tbody th a').length === 2")
    tab.wait("document.activeElement.innerText === 'Roe, Ann'")
    assert tab.evaluate(names) == ["Roe, Ann", "Doe, Jane"]
    assert tab.errors == []
