"""Write a snapshot of the reference index: the vectors and the feature statistics of each modality family.

Tokens are buffered in a file: the statistics must be fitted before any vector can be computed, and the tokens of a
large reference set do not fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import faiss
import numpy as np

from db.errors import ConfigurationError
from db.studies.modalities import family_of
from worker.retrieval.features import MAX_FITTED_IMAGES, FeatureStats, Origin, min_similarity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import numpy.typing as npt

    #: float32 [images, layers, patches, channels]
    Tokens = npt.NDArray[np.float32]
    #: float32 [rows, dimension]
    Vectors = npt.NDArray[np.float32]

MANIFEST = "snapshot.json"
#: A standard deviation needs two.
MIN_IMAGES = 2
#: Perturbed views kept of a modality family: about as many as images that a detector is fitted to.
MAX_VIEWS = 1000


@dataclass(frozen=True, slots=True)
class IndexedCase:
    """A reference case in the index: its id, modality and body part, and the patient it must not be shown for."""

    case_id: str
    modality: str
    patient_hash: str = ""
    study_hash: str = ""
    body_part: str = ""

    @property
    def owner(self) -> str:
        """Key of the patient; if unknown, of the study; if that is unknown too, of the case."""
        return self.patient_hash or self.study_hash or self.case_id


@dataclass(slots=True)
class _Family:
    """Cases added so far of one modality family."""

    tokens: BinaryIO
    shape: tuple[int, ...]
    cases: list[IndexedCase] = field(default_factory=list)
    #: First row of each case among the tokens, and the row after its last.
    rows: list[tuple[int, int]] = field(default_factory=list)
    #: Labels of each image.
    labels: list[Collection[str]] = field(default_factory=list)
    #: Tokens of perturbed views.
    views: list[tuple[npt.NDArray[np.float16], Origin]] = field(default_factory=list)

    def add(self, case: IndexedCase, tokens: Tokens, labels: Collection[str], views: Tokens | None) -> None:
        start = len(self.labels)
        self.tokens.write(np.ascontiguousarray(tokens, np.float32).tobytes())
        self.cases.append(case)
        self.rows.append((start, start + len(tokens)))
        self.labels += [labels] * len(tokens)
        if views is not None and len(self.views) < MAX_VIEWS:
            self.views += [(view.astype(np.float16), Origin(case.owner, case.body_part)) for view in views]

    def read(self) -> Tokens:
        self.tokens.flush()
        return np.memmap(self.tokens.name, np.float32, "r", shape=(len(self.labels), *self.shape))


class SnapshotWriter:
    """Collects reference cases, then writes the snapshot; made by `writing`."""

    def __init__(self, partial: Path, model_digest: str, scratch: Path, files: ExitStack) -> None:
        self._partial = partial
        self._model_digest = model_digest
        self._scratch = scratch
        self._files = files
        self._families: dict[str, _Family] = {}

    def add(self, case: IndexedCase, tokens: Tokens, labels: Collection[str] = (), views: Tokens | None = None) -> None:
        """Add a case, the tokens of its images [images, layers, patches, channels], its labels and perturbed views.

        Raises ConfigurationError if the tokens differ in shape from those of an earlier case.
        """
        name = family_of(case.modality)
        if name not in self._families:
            file = self._files.enter_context((self._scratch / str(len(self._families))).open("wb"))
            self._families[name] = _Family(file, tokens.shape[1:])
        if self._families[name].shape != tokens.shape[1:]:
            raise ConfigurationError(
                "unsupported checkpoint: its patch grid varies from image to image, so it cannot have a reference index"
            )
        self._families[name].add(case, tokens, labels, views)

    def write(self) -> list[str]:
        """Write the files; returns a message for each modality family that cannot be searched."""
        modalities = {name: self._write(name, family) for name, family in self._families.items()}
        manifest = {"model_digest": self._model_digest, "modalities": modalities}
        (self._partial / MANIFEST).write_text(json.dumps(manifest))
        return [
            f"{name}: not searchable with a single image; add reference cases of this modality"
            for name, entry in modalities.items()
            if entry["index"] is None
        ]

    def _write(self, name: str, family: _Family) -> dict[str, Any]:
        # Keys of the file format are older than the names in the code; snapshots on disk have them.
        entry: dict[str, Any] = {
            "cases": [asdict(case) for case in family.cases],
            "body_parts": sorted({case.body_part for case in family.cases}),
            "index": None,
            "usual": None,
            "least_similarity": None,
        }
        if len(family.labels) < MIN_IMAGES:
            return entry
        tokens, number = family.read(), list(self._families).index(name)
        fitted = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), MAX_FITTED_IMAGES)).astype(int))
        origins = [
            Origin(case.owner, case.body_part)
            for case, (start, end) in zip(family.cases, family.rows, strict=True)
            for _ in range(start, end)
        ]
        stats = FeatureStats.fit(
            (tokens[row : row + 1] for row in fitted),
            [family.labels[row] for row in fitted],
            [origins[row] for row in fitted],
            family.views,
        )
        vectors = np.stack([case_vector(tokens[start:end], stats) for start, end in family.rows])
        owners = np.unique([case.owner for case in family.cases], return_inverse=True)[1]
        stats.save(self._partial / f"{number}.npz")
        faiss.write_index(_flat_index(vectors), str(self._partial / f"{number}.faiss"))
        return entry | {
            "index": self._file(f"{number}.faiss"),
            "usual": self._file(f"{number}.npz"),
            "least_similarity": round(min_similarity(vectors, owners), 3),
        }

    def _file(self, name: str) -> dict[str, str]:
        with (self._partial / name).open("rb") as file:
            return {"file": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def writing(directory: Path, *, model_digest: str) -> Iterator[SnapshotWriter]:
    """Collect cases and call `write`; *directory* appears complete after the block, or not at all."""
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ExitStack() as files:
        # Beside the snapshot, not in /tmp: it can be larger than memory.
        scratch = files.enter_context(tempfile.TemporaryDirectory(prefix="tokens-", dir=directory.parent))
        # No effect after the rename.
        files.callback(shutil.rmtree, partial, ignore_errors=True)
        yield SnapshotWriter(partial, model_digest, Path(scratch), files)
        partial.rename(directory)


def case_vector(tokens: Tokens, stats: FeatureStats) -> Vectors:
    """Return one vector of length 1 for the images of a case: the mean of theirs."""
    # Image by image: each standardised copy of a large tower's tokens takes several megabytes.
    vectors = np.stack([stats.embed(tokens[row : row + 1])[0] for row in range(len(tokens))])
    vector: Vectors = normalised(vectors.mean(axis=0)[None])[0]
    return vector


def normalised(vectors: Vectors) -> Vectors:
    """Scale rows to length 1; a row of zeros stays and is similar to nothing."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    unit: Vectors = rows / np.maximum(lengths, np.float32(1e-30))
    return unit


def _flat_index(vectors: Vectors) -> faiss.Index:
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    return index
