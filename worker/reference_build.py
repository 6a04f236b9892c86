"""Build the reference index of the configured checkpoint from files: images, patch tokens, rows and a snapshot."""

from __future__ import annotations

import datetime as dt
import zlib
from typing import TYPE_CHECKING, Any

from db import reference
from db.models import ReferenceCase
from db.session import transaction
from worker.findings.labeller import finding_names
from worker.images.study import StoredInstance, images_of
from worker.retrieval.build import EncodedCase, Steps, build
from worker.retrieval.duplicates import digests_of, prints_of
from worker.retrieval.perturbation import views_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from db.settings import Settings
    from worker.model.resident_model import ResidentModel
    from worker.retrieval.case_files import Case, CaseFile, Owner

    PatchTokens = Callable[[Sequence[npt.NDArray[Any]]], npt.NDArray[Any]]


def build_reference(folder: Path, model: ResidentModel, settings: Settings) -> tuple[int, list[str]]:
    """Index the cases of *folder* and make the snapshot the current one of *model*.

    A folder that was indexed before updates its rows. Returns the number of indexed cases and a message for each
    exclusion; raises ConfigurationError if no case could be indexed.
    """
    url = settings.database()

    def store(case: Case, encoded: EncodedCase, owner: Owner) -> uuid.UUID:
        with transaction(url) as session:
            row = ReferenceCase(
                source=folder.name,
                source_case=case.case_id,
                modality=case.modality or encoded.modality,
                body_part=case.body_part or encoded.body_part,
                patient_hash=owner.patient_hash,
                study_hash=owner.study_hash,
                report=case.report,
                # Not read yet: grounding will compare a report's findings with them.
                labels=case.labels,
            )
            return reference.add_case(session, row)

    directory = f"reference/{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}"
    encode = case_encoder(model.patch_tokens, images_per_case=settings.model.images_per_study)
    steps = Steps(encode, finding_names, store)
    indexed, excluded = build(folder, settings.operations.data_dir / directory, steps, model_digest=model.digest)
    with transaction(url) as session:
        reference.add_snapshot(session, directory=directory, model_digest=model.digest, cases=indexed)
    return indexed, excluded


def case_encoder(patch_tokens: PatchTokens, *, images_per_case: int) -> Callable[[Sequence[CaseFile]], EncodedCase]:
    """Return a function that selects and renders the images of a case and encodes them with *patch_tokens*."""

    def encode(files: Sequence[CaseFile]) -> EncodedCase:
        study = images_of([StoredInstance(*file) for file in files], budget=images_per_case)
        images = [image.pixels for image in study.images]
        # The same views in every build of the case.
        seed = zlib.crc32("".join(file.sop_instance_uid for file in files).encode())
        views = patch_tokens(views_of(images, seed))
        return EncodedCase(
            patch_tokens(images), views, prints_of(images), digests_of(images), study.modality, study.body_part
        )

    return encode
