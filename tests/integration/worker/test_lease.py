"""Large studies, all slots at once, beside a dispatcher and a watchdog: every first attempt ends in its report."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select

from db.jobs.rescue import rescue
from db.models import Job, Report
from db.session import transaction
from tests.integration.db.conftest import Arrivals
from tests.unit.worker.fakes import FakeIndex, FakeModel, compared
from worker.claim_loop import ClaimLoop
from worker.model.resident_model import ResidentModel
from worker.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from db.settings import Settings

REPOSITORY = Path(__file__).parents[3]


def radiograph(path: Path, rows: int, columns: int, view: int) -> None:
    """Write a view of 12 bits with detector noise."""
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(view).normal(0, 40, (rows, columns))
    levels = 2000 + 1200 * np.cos(x / (190 + 20 * view)) * np.sin(y / (310 + 15 * view)) + noise
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.SOPInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.BodyPartExamined, image.SeriesNumber = "DX", "SPINE", view + 1
    image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PhotometricInterpretation, image.WindowCenter, image.WindowWidth = "MONOCHROME2", "2048", "4096"
    image.PixelData = levels.clip(0, 4095).astype(np.uint16).tobytes()
    image.save_as(path, enforce_file_format=True)


def fill(url: str, data_dir: Path, studies: int, views: int, size: tuple[int, int]) -> None:
    """Queue studies of equal views."""
    for view in range(views):
        radiograph(data_dir / f"{view}.dcm", *size, view)
    for _ in range(studies):
        study = Arrivals(url)
        for view in range(views):
            name = f"{study.uid}.{view}"
            (data_dir / name).hardlink_to(data_dir / f"{view}.dcm")
            study.image(sop_instance_uid=name, file_path=name, modality="DX")
        study.settle()


def drain(settings: Settings, model: Any, slots: int) -> ClaimLoop:
    """Write all reports in *slots* threads, beside what a dispatcher and a watchdog do."""
    jobs, done = ClaimLoop(settings), threading.Event()
    nothing_similar = FakeIndex(ood=compared(1.0, min_similarity=0.95))
    pipeline = Pipeline(model, nothing_similar, lambda _: {}, settings)

    def watch() -> None:
        while not done.wait(0.1):
            jobs.end_silent()
            rescue(settings.database(), max_attempts=3)

    with ThreadPoolExecutor(slots + 1) as pool:
        watching = pool.submit(watch)
        serving = [pool.submit(_serve, jobs, pipeline.run) for _ in range(slots)]
        for thread in serving:
            thread.result()
        done.set()
        watching.result()
    return jobs


def _serve(jobs: ClaimLoop, write: Callable[..., Any]) -> None:
    while jobs.run_once(write) is not None:
        pass


def outcomes(url: str) -> tuple[list[tuple[str, int]], list[dict[str, float]]]:
    """Return state and attempts of each job, and the seconds of each report's steps."""
    with transaction(url) as session:
        ends = [(state, attempt) for state, attempt in session.execute(select(Job.state, Job.attempt))]
        return ends, [report.provenance["seconds"] for report in session.scalars(select(Report))]


def test_first_attempts_at_large_studies_keep_their_leases(database_url: str, settings: Settings) -> None:
    """Short form: the steps together are longer than a lease, each one is short."""
    fill(database_url, settings.operations.data_dir, studies=2, views=3, size=(1500, 2000))

    class Slow(FakeModel):
        def patch_tokens(self, images: Any) -> Any:
            time.sleep(0.8)
            return super().patch_tokens(images)

    drain(settings.replace(lease_seconds=2), Slow(), slots=2)

    ends, seconds = outcomes(database_url)
    assert ends == [("finished", 1)] * 2
    assert all(sum(steps.values()) > 2 for steps in seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_studies_of_eight_views_of_15_million_pixels_at_once(database_url: str, settings: Settings) -> None:
    fill(database_url, settings.operations.data_dir, studies=4, views=8, size=(3000, 5000))
    model = ResidentModel.load(REPOSITORY / "deploy" / "demo" / "checkpoint", device="cpu")
    started = time.monotonic()
    try:
        drain(settings, model, slots=4)
    finally:
        model.close()

    ends, seconds = outcomes(database_url)
    print(f"{time.monotonic() - started:.1f} s", *seconds, sep="\n")  # noqa: T201 - the figures, with -s
    assert ends == [("finished", 1)] * 4
    assert max(max(steps.values()) for steps in seconds) < settings.queue.lease_seconds
