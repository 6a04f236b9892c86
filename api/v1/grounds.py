"""Grounds of a report's findings, and the request of its study beside it, as the API publishes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.v1.schemas import Citation, Finding, ImagingRequest, InImage, Omission, Region, RequestedFinding, Sentence
from db.reference import fingerprint
from db.reports.grounds import is_flagged
from db.states import Calibration
from db.studies.imaging_request import compared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Row

    from db.answers.answer import NeighbourCase
    from db.reports.complete import CompleteReport
    from db.reports.grounds import GroundedFinding, GroundedSentence
    from db.reports.grounds import InImage as Stored
    from db.reports.versions import EvidenceLine


def of(report: CompleteReport, *, regions: bool) -> dict[str, Any]:
    """Return the fields of a report that hold its grounds; None for a report without stored ones.

    Without *regions* no score says where it comes from.
    """
    if report.grounds is None:
        return dict.fromkeys(("sentences", "also_look_for"))
    of_rank = {case.rank: case for case in report.evidence}
    return {
        "sentences": [_sentence(report.columns, one, of_rank, regions=regions) for one in report.grounds.sentences],
        "also_look_for": [
            Omission(name=one.name, side=one.side, in_image=_in_image(one.in_image, regions=regions))
            for one in report.grounds.omitted
        ],
    }


def standing(report: CompleteReport) -> dict[str, Any]:
    """Return the fields of a report with the standing of its verdicts: as written, unless suspended since."""
    suspended = report.suspended_because
    if suspended is not None:
        return {"calibration": Calibration.SUSPENDED, "calibration_reason": suspended, "certificate": None}
    stored = report.columns.provenance.get("calibration") or {}
    reason, certificate = stored.get("reason", ""), stored.get("certificate")
    return {"calibration": report.columns.calibration, "calibration_reason": reason, "certificate": certificate}


def _sentence(
    report: Row[Any], sentence: GroundedSentence, cases: dict[int, EvidenceLine], *, regions: bool
) -> Sentence:
    findings = [finding(one, cases, regions=regions) for one in sentence.findings]
    return Sentence(
        section=sentence.section,
        start=sentence.start,
        end=sentence.end,
        text=getattr(report, sentence.section)[sentence.start : sentence.end],
        flagged=any(one.flagged for one in findings),
        findings=findings,
    )


def finding(found: GroundedFinding, cases: Mapping[int, EvidenceLine | NeighbourCase], *, regions: bool) -> Finding:
    """Return a finding of a report or an answer; *cases* are its earlier cases by rank."""
    same = ("name", "side", "zone", "size", "certainty", "start", "end", "verdict", "log_prob")
    return Finding(
        **{name: getattr(found, name) for name in same},
        flagged=is_flagged(found.certainty, found.verdict, found.cited),
        in_image=found.in_image and _in_image(found.in_image, regions=regions),
        affirmed_by=_cited(found, cases, "affirms"),
        denied_by=_cited(found, cases, "denies"),
    )


def _cited(finding: GroundedFinding, cases: Mapping[int, EvidenceLine | NeighbourCase], stance: str) -> list[Citation]:
    return [
        Citation(
            rank=one.rank,
            case_id=cases[one.rank].case_id,
            similarity=cases[one.rank].similarity,
            sentence=one.sentence,
        )
        for one in finding.cited
        if one.stance == stance
    ]


def _in_image(stored: Stored, *, regions: bool) -> InImage:
    shown = stored.region is not None and regions
    region = dict(zip(Region.model_fields, stored.region or (), strict=False)) if shown else None
    return InImage(
        score=stored.score,
        threshold=stored.threshold,
        image=stored.image,
        shares=stored.shares if shown else None,
        region=None if region is None else Region(**region),
    )


def imaging_request(report: CompleteReport) -> ImagingRequest:
    """Return the request of a study, with the comparison that was stored with the version of the report."""
    stored = report.columns.provenance.get("imaging_request")
    because = _unknown_because(report, stored)
    named = {} if because or stored is None else stored["findings"]
    return ImagingRequest(
        indication=report.indication,
        requested_procedure=report.requested_procedure,
        mentioned="unknown" if because else "all" if all(named.values()) else "some" if any(named.values()) else "none",
        unknown_because=because,
        findings=[RequestedFinding(name=name, mentioned=mentioned) for name, mentioned in named.items()],
    )


def _unknown_because(report: CompleteReport, stored: dict[str, Any] | None) -> str:
    """Return why it is unknown whether the report mentions what the request names; empty if it is known."""
    request = compared(report.indication, report.requested_procedure)
    if report.indication is None and report.requested_procedure is None:
        return "the study was received by a release that did not read the request"
    if not request:
        return "the headers give no reason for the examination"
    if stored is None:
        return "the report was written by a release that did not compare it with the request"
    if stored["fingerprint"] != fingerprint(request):
        return "the request has changed since the report was written"
    return "" if stored["findings"] else "the request names no finding that is known here"
