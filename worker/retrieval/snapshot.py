"""Write and read snapshots of the reference index: a folder that never changes.

For each modality family the statistics of its features; for each of its body parts the vectors and the rows of its
cases. Vectors and rows are mapped into memory, not read. The manifest holds the digest of every file. A snapshot is
written beside its place and renamed, and unchanged files of the previous one are linked, so that one case is added or
removed at the cost of its partition.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from db.errors import ConfigurationError
from db.studies.modalities import family_of
from worker.retrieval.archive import ArchivedCase, CaseArchive, IndexedCase
from worker.retrieval.families import Family, Partition, fit_family, patients_in
from worker.retrieval.features import FeatureStats
from worker.retrieval.label_regression import FittedImages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    #: float32 [images, layers, patches, channels]
    Tokens = npt.NDArray[Any]
    #: float32 [rows, dimension]
    Vectors = npt.NDArray[np.float32]

MANIFEST = "snapshot.json"
#: Key of the figures that hold id and reason of each case whose report and images disagree.
SET_ASIDE = "set_aside"
#: Key of the names of families whose statistics have a share of erased cases.
TO_REFIT = "to_refit"
#: Version of the file format; other versions must be built again.
FORMAT = 2


class SnapshotWriter:
    """Collects reference cases, then writes the snapshot; made by `writing`."""

    def __init__(self, partial: Path, model_digest: str, archive: CaseArchive) -> None:
        self._partial = partial
        self._model_digest = model_digest
        self._archive = archive
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._cases: dict[str, list[str]] = defaultdict(list)
        self._views: dict[str, int] = defaultdict(int)
        self._new: list[str] = []

    def add(self, case: IndexedCase, tokens: Tokens, labels: Collection[str] = (), **images: Any) -> None:
        """Add a case, the tokens of its images and its labels; *images*: other fields of ArchivedCase."""
        self.add_archived(ArchivedCase(case, tokens, sorted(labels), **images))

    def add_archived(self, archived: ArchivedCase) -> None:
        """Add a case; raises ConfigurationError if its tokens differ in shape from those of an earlier one."""
        name, shape = family_of(archived.case.modality), archived.tokens.shape[1:]
        if self._shapes.setdefault(name, shape) != shape:
            raise ConfigurationError(
                "unsupported checkpoint: its patch grid varies from image to image, so it cannot have a reference index"
            )
        if not self._archive.has(archived.case.case_id):
            self._new.append(archived.case.case_id)
        self._archive.write(archived.beside(self._views[name]))
        self._views[name] += 0 if archived.views is None else len(archived.views)
        self._cases[name].append(archived.case.case_id)

    def discard(self) -> None:
        """Delete the files of cases that were added for the first time."""
        self._archive.delete(self._new)

    def cases(self) -> Iterator[ArchivedCase]:
        """Read the cases that were added."""
        return (self._archive.read(case_id) for case_ids in self._cases.values() for case_id in case_ids)

    def leave_out(self, case_ids: Collection[str]) -> None:
        """Keep cases out of the index; their files stay, for the digests of their images if they are erased."""
        for name, known in self._cases.items():
            self._cases[name] = [case_id for case_id in known if case_id not in case_ids]

    def write(self, figures: dict[str, Any] | None = None) -> list[str]:
        """Fit each family and write its files; returns a message for each that cannot be searched."""
        families = {name: fit_family(self._archive, case_ids) for name, case_ids in self._cases.items() if case_ids}
        write_families(self._partial, families, model_digest=self._model_digest, figures=figures or {})
        return [
            f"{name}: not searchable with a single image; add reference cases of this modality"
            for name, family in families.items()
            if family.stats is None
        ]


def write_families(
    partial: Path,
    families: dict[str, Family],
    *,
    model_digest: str,
    figures: dict[str, Any],
    unchanged: dict[str, Any] | None = None,
    previous: Path | None = None,
    to_refit: Sequence[str] = (),
) -> None:
    """Write the files of *families* and the manifest into *partial*.

    *unchanged* has the manifest's entries of other families, whose files are linked from the *previous* snapshot.
    *to_refit* names the families whose statistics were fitted to cases that are erased since.
    """
    entries = dict(unchanged or {})
    for entry in entries.values():
        for file in _files_of(entry):
            os.link(previous / file["file"], partial / file["file"])  # type: ignore[operator]
    for name, family in families.items():
        entries[name] = _write_family(partial, name, family)
    manifest = {"format": FORMAT, "model_digest": model_digest, "figures": figures, "modalities": entries}
    _write_durably(partial / MANIFEST, json.dumps(manifest | {TO_REFIT: sorted(to_refit)}).encode())


def _write_family(partial: Path, name: str, family: Family) -> dict[str, Any]:
    rows = [partition.rows for partition in family.partitions.values()]
    patients = patients_in(np.concatenate(rows)) if rows else 0
    entry: dict[str, Any] = {
        "stats": None,
        "least_similarity": family.min_similarity,
        "patients": patients,
        "parts": [],
    }
    if family.stats is None:
        return entry | {"unindexed": family.unindexed}
    family.stats.save(partial / f"{name}.stats.npz")
    entry["stats"] = _sealed(partial, f"{name}.stats.npz")
    if family.stats.fitted_images is not None:
        family.stats.fitted_images.save(partial / f"{name}.fitted.npy")
        entry["fitted"] = _sealed(partial, f"{name}.fitted.npy")
    for number, (body_part, partition) in enumerate(family.partitions.items()):
        stem = f"{name}.{number}"
        faiss.write_index(partition.index, str(partial / f"{stem}.faiss"))
        np.save(partial / f"{stem}.rows.npy", partition.rows)
        np.save(partial / f"{stem}.digests.npy", partition.digests)
        files = {kind: _sealed(partial, f"{stem}.{kind}") for kind in ("faiss", "rows.npy", "digests.npy")}
        counts = {"cases": len(partition.rows), "patients": patients_in(partition.rows)}
        entry["parts"].append({"body_part": body_part, **counts, **files})
    return entry


def _files_of(entry: dict[str, Any]) -> Iterator[dict[str, str]]:
    # Snapshots of earlier releases have no fitted images.
    yield from (entry[kind] for kind in ("stats", "fitted") if entry.get(kind))
    for part in entry["parts"]:
        yield from (part[kind] for kind in ("faiss", "rows.npy", "digests.npy"))


def _sealed(directory: Path, name: str) -> dict[str, str]:
    """Flush a file to disk; return its name and digest."""
    with (directory / name).open("rb") as file:
        os.fsync(file.fileno())
        return {"file": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """Give a folder to write to; *directory* appears complete and durable after the block, or not at all."""
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(directory)
    finally:
        # No effect after the rename.
        shutil.rmtree(partial, ignore_errors=True)
    parent = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


@contextmanager
def writing(directory: Path, *, model_digest: str) -> Iterator[SnapshotWriter]:
    """Collect cases and call `write`; *directory* appears complete after the block, or not at all."""
    with appearing(directory) as partial:
        writer = SnapshotWriter(partial, model_digest, archive_beside(directory, model_digest))
        try:
            yield writer
        except BaseException:
            writer.discard()
            raise


def archive_beside(directory: Path, model_digest: str) -> CaseArchive:
    """Return the archive of a model's cases, beside its snapshots."""
    return CaseArchive(directory.parent / f"cases-{model_digest[:16]}")


def read_manifest(directory: Path, model_digest: str) -> dict[str, Any]:
    """Read the manifest; raises ConfigurationError for a damaged snapshot, of another model or an earlier version."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"no reference index in {directory}: build one with `prelim index build`") from error
    if manifest.get("model_digest") != model_digest:
        raise ConfigurationError(
            f"the reference index {directory.name} was built with a different model:"
            " build one for this checkpoint with `prelim index build`"
        )
    if manifest.get("format") != FORMAT:
        problem = f"the reference index {directory.name} was built by an earlier version: build it again"
        raise ConfigurationError(problem)
    return manifest


def read_family(directory: Path, entry: dict[str, Any], *, changed: bool = False) -> Family:
    """Map a family into memory, or read it if it will be *changed*.

    Raises ConfigurationError if a file is missing or its digest differs.
    """
    for file in _files_of(entry):
        _verify(directory, file)
    if entry["stats"] is None:
        return Family(None, unindexed=entry["unindexed"])
    parts = {part["body_part"]: _read_partition(directory, part, changed=changed) for part in entry["parts"]}
    stats = FeatureStats.load(directory / entry["stats"]["file"])
    if fitted := entry.get("fitted"):
        stats = replace(stats, fitted_images=FittedImages.load(directory / fitted["file"]))
    return Family(stats, entry["least_similarity"], parts)


def _read_partition(directory: Path, part: dict[str, Any], *, changed: bool) -> Partition:
    path = str(directory / part["faiss"]["file"])
    rows, digests = (np.load(directory / part[kind]["file"], mmap_mode="r") for kind in ("rows.npy", "digests.npy"))
    # A mapped index cannot be changed: FAISS aborts the process.
    return Partition(faiss.read_index(path, 0 if changed else faiss.IO_FLAG_MMAP_IFC), rows, digests)


def _verify(directory: Path, entry: dict[str, str]) -> None:
    try:
        with (directory / entry["file"]).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"missing file {entry['file']} of the reference index: build it again") from error
    if digest != entry["sha256"]:
        raise ConfigurationError(f"damaged file {entry['file']} of the reference index: build it again")
