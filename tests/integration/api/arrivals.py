"""Studies in every state, made through the very functions the processes call."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from db.jobs import claims
from db.models import Instance, Job, ReferenceCase, Study
from db.reports import versions
from db.session import transaction
from db.states import CheckState
from db.studies import lifecycle, settling

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def png(shade: int = 90, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), shade).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Arrivals:
    """Creates studies in given states in one database."""

    url: str

    def receiving(self, modality: str = "DX", **attributes: str) -> uuid.UUID:
        uid = f"2.25.{uuid.uuid4().int}"
        with transaction(self.url) as session:
            self._image(session, uid, modality, attributes)
            return session.query(Study).filter_by(study_instance_uid=uid).one().id

    def late_image(self, study_id: uuid.UUID, *, ae_title: str = "", **attributes: str) -> None:
        with transaction(self.url) as session:
            uid = session.get_one(Study, study_id).study_instance_uid
            self._image(session, uid, "DX", attributes, ae_title)

    def sent_by(self, ae_title: str, study_id: uuid.UUID) -> None:
        with transaction(self.url) as session:
            session.query(Study).filter_by(id=study_id).update({"calling_ae_title": ae_title})
            session.query(Instance).filter_by(study_id=study_id).update({"calling_ae_title": ae_title})

    def queued(self, **attributes: str) -> uuid.UUID:
        study_id = self.receiving(**attributes)
        with transaction(self.url) as session:
            settling.settle(session, session.get_one(Study, study_id), "quiet for 30 s")
        return study_id

    def running(self, **attributes: str) -> uuid.UUID:
        study_id = self.queued(**attributes)
        self.claim(study_id)
        return study_id

    def failed(self, **attributes: str) -> uuid.UUID:
        study_id = self.queued(**attributes)
        claim = self.claim(study_id)
        with transaction(self.url) as session:
            claims.fail(session, claim, "broken", "the model broke")
        return study_id

    def not_reportable(self, **attributes: str) -> uuid.UUID:
        study_id = self.queued(**attributes)
        claim = self.claim(study_id)
        with transaction(self.url) as session:
            claims.not_reportable(session, claim, "no_pixels", "its images hold no pixels")
        return study_id

    def reported(self, draft: versions.Draft | None = None, **attributes: str) -> uuid.UUID:
        study_id = self.queued(**attributes)
        self.report(study_id, draft)
        return study_id

    def report(self, study_id: uuid.UUID, draft: versions.Draft | None = None) -> None:
        claim = self.claim(study_id)
        with transaction(self.url) as session:
            claims.finish(session, claim, draft or self.draft())

    def settle_again(self, study_id: uuid.UUID) -> None:
        with transaction(self.url) as session:
            settling.settle(session, session.get_one(Study, study_id), "quiet for 30 s")

    def claim(self, study_id: uuid.UUID) -> claims.Claim:
        with transaction(self.url) as session:
            # The most urgent of all queued jobs, so that this one is claimed.
            first = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            session.query(Job).filter_by(study_id=study_id, state="queued").update({"urgent_at": first})
            claim = claims.claim_next(session, owner="test", lease_seconds=60)
        assert claim is not None
        assert claim.study_id == study_id
        return claim

    def draft(
        self, images: list[bytes] | None = None, parts: list[dict[str, Any]] | None = None, **text: str
    ) -> versions.Draft:
        shown = [
            versions.Shown(image, "1.2.3", frame, "the only frame", {"window": [40, 400]}, ["burned-in text"])
            for frame, image in enumerate(images or [png()])
        ]
        words = {"findings": "The lungs are clear.", "impression": "No acute finding.", "basis": "1 of 1 images"}
        return versions.Draft(
            **(words | text),
            prompt_version="report/1",
            model_digest="sha256:abc",
            provenance={"torch": "2.13.0"} | ({"parts": parts} if parts else {}),
            limitations=["cut short at 200 tokens"],
            evidence=[versions.Quoted(self._case(), 0.91, "Clear lungs in an earlier case.", "Clear lungs.")],
            images=shown,
            checks=[
                versions.CheckResult("sex", CheckState.NOT_APPLICABLE, ["the header does not give the sex"]),
                versions.CheckResult("prior", CheckState.WARNING, ["The text compares <b>with</b> a prior."]),
                versions.CheckResult("size", CheckState.PASSED),
            ],
        )

    def _case(self) -> uuid.UUID:
        case = ReferenceCase(
            id=uuid.uuid4(),
            source="made",
            source_case=uuid.uuid4().hex,
            modality="DX",
            body_part="CHEST",
            report="Clear lungs in an earlier case.",
            labels=[],
        )
        with transaction(self.url) as session:
            session.add(case)
            return case.id

    def _image(
        self, session: Session, study_uid: str, modality: str, attributes: dict[str, str], ae_title: str = ""
    ) -> None:
        named = {"patient_name": "Doe^Jane", "patient_id": "P-17", "patient_birth_date": "19610203"} | attributes
        sop_uid = f"2.25.{uuid.uuid4().int}"
        lifecycle.record_instance(
            session,
            lifecycle.ReceivedInstance(
                study=lifecycle.StudyAttributes(study_instance_uid=study_uid, **named),  # type: ignore[arg-type]
                sop_instance_uid=sop_uid,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                series_instance_uid=study_uid + ".1",
                modality=modality,
                reportable=True,
                file_path=f"spool/{sop_uid}.dcm",
                file_bytes=1000,
                sha256=uuid.uuid4().hex,
                received_at=dt.datetime.now(dt.UTC),
                body_part="CHEST",
                calling_ae_title=ae_title,
            ),
        )
