"""Modalities that send until all objects are acknowledged, and the client's history of a run."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import BasicTextSRStorage, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from tests.chaos.children import POISON, STUCK
from tests.integration.dicom_listener.objects import encode, image

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping


#: Seconds until a modality resends objects that were not acknowledged.
RESEND_SECONDS = 0.5
RESPONSE_SECONDS = 10
#: Seconds after which a modality gives up a study; no fault lasts that long.
PATIENCE_SECONDS = 60
HIGH, MEDIUM = 1, 0
KINDS = {"plain": 20, "late": 6, "stat": 4, "duplicate": 4, "poison": 1, "stuck": 1, "document": 2}
#: What the pixels of a kind do to its worker; others are harmless.
PIXELS = {"poison": POISON, "stuck": STUCK}
#: Poison studies in a row, if there are enough others.
SERIES = 4


@dataclass
class PlannedStudy:
    """Batches of one study that a modality will send, each some seconds after the previous one."""

    kind: str
    uid: str
    batches: list[tuple[float, list[Dataset]]]
    priority: int = MEDIUM

    def objects(self) -> dict[str, Dataset]:
        """Return the objects by SOP Instance UID."""
        return {dataset.SOPInstanceUID: dataset for _, batch in self.batches for dataset in batch}


@dataclass
class History:
    """Responses to the senders: the digest of each object that was answered with 0x0000, and counts of the others."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    unanswered: int = 0


def plan(count: int, rng: random.Random, weights: Mapping[str, int] = KINDS) -> list[PlannedStudy]:
    """Return *count* studies, at least one of every kind if *count* permits, and a series of poison studies."""
    kinds = [*weights, *rng.choices(list(weights), weights=list(weights.values()), k=count)][:count]
    rng.shuffle(kinds)
    if "poison" in weights and count > 10 * SERIES:
        middle = count // 3
        kinds[middle : middle + SERIES] = ["poison"] * SERIES
    return [_planned(kind, rng) for kind in kinds]


def _planned(kind: str, rng: random.Random) -> PlannedStudy:
    uid = f"2.25.{rng.getrandbits(100)}"
    objects = [_object(uid, number, kind, rng) for number in range(1, rng.randint(3, 6))]
    batches = [(0.0, objects)]
    if kind == "late":
        batches = [(0.0, objects[:1]), (rng.uniform(2, 5), objects[1:])]
    elif kind == "duplicate":
        batches.append((rng.uniform(0, 4), objects))
    return PlannedStudy(kind, uid, batches, HIGH if kind == "stat" else MEDIUM)


def _object(study: str, number: int, kind: str, rng: random.Random) -> Dataset:
    dataset = image(
        SOPClassUID=BasicTextSRStorage if kind == "document" else CTImageStorage,
        SOPInstanceUID=f"2.25.{rng.getrandbits(100)}",
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study}.1",
        SeriesNumber=1,
        InstanceNumber=number,
        PixelData=PIXELS.get(kind, b"CHAOS").ljust(32, b".") + rng.randbytes(32),
    )
    syntax = FileMetaDataset()
    syntax.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = syntax
    return dataset


def digest(dataset: Dataset) -> str:
    """Return the digest that the row must have: of transfer syntax and data set."""
    without_file_meta = Dataset(dataset)
    return hashlib.sha256(str(ExplicitVRLittleEndian).encode() + encode(without_file_meta)).hexdigest()


class Modality(threading.Thread):
    """Sends its studies over *seconds*, each in its own associations, and resends unacknowledged objects."""

    def __init__(self, name: str, port: int, studies: list[PlannedStudy], seconds: float, history: History) -> None:
        super().__init__(name=name, daemon=True)
        #: Where the next association goes.
        self.port = port
        self._history = history
        pause = seconds / max(len(studies), 1)
        self._due = sorted(
            (
                (index * pause + sum(later for later, _ in study.batches[: number + 1]), study, objects)
                for index, study in enumerate(studies)
                for number, (_, objects) in enumerate(study.batches)
            ),
            key=lambda due: due[0],
        )

    def run(self) -> None:
        began = time.monotonic()
        for due, study, objects in self._due:
            time.sleep(max(began + due - time.monotonic(), 0))
            waiting, give_up = list(objects), time.monotonic() + PATIENCE_SECONDS
            while (waiting := self._send(study, waiting)) and time.monotonic() < give_up:
                time.sleep(RESEND_SECONDS)

    def _send(self, study: PlannedStudy, objects: list[Dataset]) -> list[Dataset]:
        """Send in one association; return the unacknowledged objects."""
        ae = AE(self.name)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = RESPONSE_SECONDS
        ae.add_requested_context(objects[0].SOPClassUID, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", self.port, ae_title="PRELIM")
        if not association.is_established:
            return objects
        try:
            left = [
                o for o in objects if not (association.is_established and self._acknowledged(association, o, study))
            ]
        finally:
            if association.is_established:
                association.release()
        return left

    def _acknowledged(self, association: object, dataset: Dataset, study: PlannedStudy) -> bool:
        try:
            answer = association.send_c_store(dataset, priority=study.priority)  # type: ignore[attr-defined]
        except RuntimeError:  # aborted between the check and the call
            answer = None
        status = getattr(answer, "Status", None)
        if status == 0x0000:
            self._history.acknowledged[dataset.SOPInstanceUID] = digest(dataset)
        elif status is None:
            self._history.unanswered += 1
        else:
            self._history.refused[status] = self._history.refused.get(status, 0) + 1
        return status == 0x0000
