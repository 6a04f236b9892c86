"""Every state of the pages: rules of accessibility, forced colours, 400 % zoom, reduced motion, a visible focus."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from db.access import keys
from db.answers import inquiries
from db.answers.answer import Choice, Question
from db.jobs import claims
from db.models import ReportFeedback, Study
from db.reports import feedback, holds
from db.session import transaction
from db.states import FeedbackKind
from db.studies.identity import decisions
from tests.integration.api.page.test_reading import VIOLATIONS, load_rules, log_in_by_keyboard
from tests.integration.api.test_report_grounds import DENIAL, EFFUSION, draft
from tests.integration.api.v1.test_quarantine import quarantine
from tests.integration.db.jobs.test_inquiries import ANSWER, DIAGNOSIS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab

    Made = Callable[[Arrivals], str]

#: Faults of layout and focus, after one key press: a focus that is set then is shown as that of the keyboard.
FAULTS = """(() => {
  const faults = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) faults.push(`scrolls sideways: ${root.scrollWidth} of ${innerWidth}`);
  if (document.getAnimations().length) faults.push("is animated");
  const forced = matchMedia("(forced-colors: active)").matches;
  const modal = document.querySelector("dialog[open]");
  const controls = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
  for (const one of (modal ?? document).querySelectorAll(controls)) {
    if (!one.checkVisibility({visibilityProperty: true}) || one.disabled) continue;
    document.activeElement?.blur();
    one.focus();
    const name = one.outerHTML.slice(0, 90);
    const style = getComputedStyle(one);
    const outline = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
    const box = one.getClientRects()[0];
    const [x, y] = [box.left + Math.min(box.width, innerWidth) / 2, box.top + Math.min(box.height, 20) / 2];
    const top = document.elementFromPoint(x, y);
    if (document.activeElement !== one) faults.push(`no focus: ${name}`);
    if (outline < 2) faults.push(`no outline: ${name}`);
    const whole = one.getBoundingClientRect().height < innerHeight / 2;
    const seen = one.contains(top) || top?.contains(one);
    if (whole && !seen) faults.push(`covered: ${name} by ${top?.outerHTML.slice(0, 90)}`);
    const edged = one.matches("button, input:not([type=checkbox]), select, textarea");
    if (forced && edged && style.borderTopStyle === "none") faults.push(`no edge: ${name}`);
  }
  return faults;
})()"""


#: As long as an index of the database permits, without a place to break it.
HOSTILE = "\u202e<script>document.title='run'</script>" + "N" * 2000


def path_of(study_id: uuid.UUID) -> str:
    return f"/studies/{study_id}"


def newer(arrivals: Arrivals) -> uuid.UUID:
    """A study with a second version, of which the reader has read the first."""
    study_id = arrivals.reported(arrivals.draft(findings="The first text."))
    with transaction(arrivals.url) as session:
        opened = ReportFeedback(version=1, kind=FeedbackKind.OPENED, text="", author="key reader")
        feedback.add(session, session.get_one(Study, study_id), opened)
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, draft(arrivals, EFFUSION, DENIAL))
    return study_id


def held(arrivals: Arrivals) -> uuid.UUID:
    study_id = arrivals.reported(draft(arrivals, EFFUSION, DENIAL))
    with transaction(arrivals.url) as session:
        holds.hold(session, study_id, "wrong patient?", "key other")
    return study_id


def conflicting(arrivals: Arrivals) -> uuid.UUID:
    study_id = arrivals.reported()
    arrivals.late_image(study_id, patient_name="Roe^Rita", patient_id="P-18")
    return study_id


def refused(arrivals: Arrivals) -> uuid.UUID:
    study_id = conflicting(arrivals)
    with transaction(arrivals.url) as session:
        study = session.get_one(Study, study_id)
        decisions.decide(session, study, decisions.Decision.REFUSE, "key other")
        other = Study.study_instance_uid == study.study_instance_uid, Study.id != study_id
        found: uuid.UUID = session.query(Study).filter(*other).one().id
    return found


def answered(arrivals: Arrivals) -> uuid.UUID:
    study_id = arrivals.reported()
    for asked, result in (
        (Question("Is there an effusion?"), ANSWER),
        (Choice(("effusion", "mass")), DIAGNOSIS),
    ):
        with transaction(arrivals.url) as session:
            inquiries.ask(session, session.get_one(Study, study_id), asked, "key reader")
        claim = arrivals.claim(study_id)
        with transaction(arrivals.url) as session:
            claims.finish_inquiry(session, claim, result)
    with transaction(arrivals.url) as session:
        inquiries.ask(session, session.get_one(Study, study_id), Question("Which side?"), "key reader")
    return study_id


def not_read(arrivals: Arrivals) -> uuid.UUID:
    """A study whose name is too long to be read, with a report of a release that stored no checks."""
    study_id = arrivals.reported(replace(arrivals.draft(), checks=[]), patient_name="")
    with transaction(arrivals.url) as session:
        session.get_one(Study, study_id).not_read = ["patient_name", "study_description"]
    return study_id


def quarantined(arrivals: Arrivals) -> str:
    quarantine(arrivals.url, arrivals.reported())
    return "/quarantine"


def beside(arrivals: Arrivals) -> str:
    one, other = (arrivals.reported(draft(arrivals, EFFUSION, DENIAL), patient_id="P-77") for _ in range(2))
    return f"/studies/{one}?beside={other}"


#: Path of a page by its state, with what is made for it.
STATES: dict[str, Made] = {
    "empty list": lambda _: "/",
    "empty quarantine": lambda _: "/quarantine",
    "unknown study": lambda _: f"/studies/{uuid.UUID(int=1)}",
    "invalid search": lambda _: "/?after=AAAA",
    "nothing found": lambda _: "/?patient_id=none",
    "pending": lambda arrivals: path_of(arrivals.running()),
    "failed": lambda arrivals: path_of(arrivals.failed()),
    "not reportable": lambda arrivals: path_of(arrivals.not_reportable()),
    "reported": lambda arrivals: path_of(arrivals.reported(draft(arrivals, EFFUSION, DENIAL))),
    "newer version": lambda arrivals: path_of(newer(arrivals)),
    "versions": lambda arrivals: f"{path_of(newer(arrivals))}/versions",
    "held": lambda arrivals: path_of(held(arrivals)),
    "identity conflict": lambda arrivals: path_of(conflicting(arrivals)),
    "refused": lambda arrivals: path_of(refused(arrivals)),
    "answered": lambda arrivals: path_of(answered(arrivals)),
    "quarantine": quarantined,
    "side by side": beside,
    "hostile names": lambda arrivals: path_of(arrivals.reported(patient_name=HOSTILE, study_description=HOSTILE)),
    "not read": lambda arrivals: path_of(not_read(arrivals)),
    "list": lambda _: "/?sort=urgency",
    "reference": lambda _: "/docs",
}
SEALED = {"PRELIM_DRAFTS": "after_images", "PRELIM_FAILED_LOGINS_PER_MINUTE": "1"}


def violations(tab: Tab) -> list[str]:
    """Return the violated rules at the size of a desktop, and the faults at 400 % zoom with forced colours."""
    load_rules(tab)
    found: list[str] = tab.evaluate(VIOLATIONS)
    return found + faults(tab)


def faults(tab: Tab) -> list[str]:
    tab.resize(320, 256)
    tab.emulate(forced_colors="active", prefers_reduced_motion="reduce")
    tab.press("Shift")
    found: list[str] = tab.evaluate(FAULTS)
    tab.emulate()
    tab.resize(1280, 800)
    return found


@pytest.mark.slow
def test_no_state_violates_a_rule_and_every_control_shows_its_focus(tab: Tab, address: str, arrivals: Arrivals) -> None:
    tab.resize(1280, 800)
    log_in_by_keyboard(tab, address, arrivals, "/")
    found = {}
    for state, made in STATES.items():
        tab.open(address + made(arrivals))
        found[state] = violations(tab)
    tab.evaluate("document.querySelector('#theme').click()")
    for state in ("list", "side by side", "newer version"):
        tab.open(address + STATES[state](arrivals))
        found[f"{state}, light"] = violations(tab)
    assert tab.evaluate("getComputedStyle(document.body).colorScheme") == "light"

    assert {state: each for state, each in found.items() if each} == {}


@pytest.mark.slow
def test_notices_of_an_open_page_violate_no_rule(tab: Tab, address: str, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(draft(arrivals, EFFUSION, DENIAL))
    tab.resize(1280, 800)
    log_in_by_keyboard(tab, address, arrivals, path_of(study_id))
    tab.press("?")
    found = {"keys": violations(tab)}
    tab.press("Escape")
    arrivals.late_image(study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, replace(draft(arrivals, EFFUSION, DENIAL), findings="Right effusion. No pneumothora"))
    tab.evaluate("update()")
    tab.wait("Boolean(document.querySelector('#newer ins'))")
    tab.evaluate("message('stale', 'No answer from the server for 20 s: this page may be out of date.')")
    tab.press("c")
    tab.wait("document.querySelector('#said').innerText")
    found["notices"] = violations(tab)

    assert found == {"keys": [], "notices": []}


@pytest.mark.slow
@pytest.mark.parametrize("server", [SEALED], indirect=True)
def test_sealed_forbidden_and_limited_pages_violate_no_rule(tab: Tab, address: str, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(draft(arrivals, EFFUSION, DENIAL))
    with transaction(arrivals.url) as session:
        key = keys.create(session, "monitor", ["metrics"])
    tab.resize(1280, 800)
    found, seen = {}, {}
    tab.open(f"{address}/login")
    for state, text, words in (
        ("login failed", "prelim_wrong", "Login failed"),
        ("too many", "prelim_wrong", "Too many requests"),
        ("forbidden", key, "Forbidden"),
    ):
        tab.open(f"{address}/login")
        tab.evaluate("document.querySelector('#key').focus()")
        tab.write(text)
        tab.press("Enter")
        tab.wait(f"document.body.innerText.includes('{words}') && document.readyState === 'complete'")
        found[state] = violations(tab)
    tab.evaluate("document.querySelector('form[action=\"/logout\"] button').click()")
    tab.wait("location.pathname === '/login' && document.readyState === 'complete'")
    log_in_by_keyboard(tab, address, arrivals, path_of(study_id))
    seen["sealed"] = "The draft is sealed" in tab.evaluate("document.body.innerText")
    found["sealed"] = violations(tab)

    assert seen == {"sealed": True}
    assert {state: each for state, each in found.items() if each} == {}
