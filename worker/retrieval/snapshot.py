"""Write a snapshot of the reference index: for each modality its vectors, and what is usual in its images.

The tokens of an image pass through a file: what is usual must be known before the first vector can be made, and all
tokens of a large reference set do not fit into memory.
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
from worker.retrieval import features

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import numpy.typing as npt

    #: float32 [images, layers, patches, channels]
    Tokens = npt.NDArray[np.float32]
    #: float32 [rows, dimension]
    Vectors = npt.NDArray[np.float32]

MANIFEST = "snapshot.json"
#: Images from which it is learnt what is usual in a modality: that many show it, and their tokens lie in memory.
FITTED = features.FITTED
#: A spread needs two images.
FEWEST = 2


@dataclass(frozen=True, slots=True)
class IndexedCase:
    """A reference case as the index knows it: where it may be shown, and for whom it must be left out."""

    case_id: str
    modality: str
    patient_hash: str = ""
    study_hash: str = ""
    body_part: str = ""

    @property
    def owner(self) -> str:
        """Whose it is: the patient, else the study, else nobody else's."""
        return self.patient_hash or self.study_hash or self.case_id


@dataclass(slots=True)
class _Kind:
    """What has come in of one kind of image."""

    tokens: BinaryIO
    shape: tuple[int, ...]
    cases: list[IndexedCase] = field(default_factory=list)
    #: Of each case: its first row among the tokens, and the row after its last.
    rows: list[tuple[int, int]] = field(default_factory=list)
    #: Of each image.
    labels: list[Collection[str]] = field(default_factory=list)

    def add(self, case: IndexedCase, tokens: Tokens, labels: Collection[str]) -> None:
        start = len(self.labels)
        self.tokens.write(np.ascontiguousarray(tokens, np.float32).tobytes())
        self.cases.append(case)
        self.rows.append((start, start + len(tokens)))
        self.labels += [labels] * len(tokens)

    def read(self) -> Tokens:
        self.tokens.flush()
        return np.memmap(self.tokens.name, np.float32, "r", shape=(len(self.labels), *self.shape))


class SnapshotWriter:
    """Takes reference cases one by one; see `writing`."""

    def __init__(self, partial: Path, model_digest: str, scratch: Path, files: ExitStack) -> None:
        self._partial = partial
        self._model_digest = model_digest
        self._scratch = scratch
        self._files = files
        self._kinds: dict[str, _Kind] = {}

    def add(self, case: IndexedCase, tokens: Tokens, labels: Collection[str] = ()) -> None:
        """Take a case, the tokens of its images [images, layers, patches, channels] and its labels.

        Raises ConfigurationError where the tokens of two cases cannot be compared.
        """
        name = family_of(case.modality)
        if name not in self._kinds:
            file = self._files.enter_context((self._scratch / str(len(self._kinds))).open("wb"))
            self._kinds[name] = _Kind(file, tokens.shape[1:])
        if self._kinds[name].shape != tokens.shape[1:]:
            raise ConfigurationError("this model looks at every image at other places: it cannot have an index")
        self._kinds[name].add(case, tokens, labels)

    def write(self) -> list[str]:
        """Write the files; returns what must be said about modalities that cannot be searched."""
        modalities = {name: self._write(name, kind) for name, kind in self._kinds.items()}
        manifest = {"model_digest": self._model_digest, "modalities": modalities}
        (self._partial / MANIFEST).write_text(json.dumps(manifest))
        return [
            f"{name}: a single image says nothing about what is usual; nothing is retrieved for it"
            for name, entry in modalities.items()
            if entry["index"] is None
        ]

    def _write(self, name: str, kind: _Kind) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "cases": [asdict(case) for case in kind.cases],
            "body_parts": sorted({case.body_part for case in kind.cases}),
            "index": None,
            "usual": None,
            "least_similarity": None,
        }
        if len(kind.labels) < FEWEST:
            return entry
        tokens, number = kind.read(), list(self._kinds).index(name)
        chosen = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), FITTED)).astype(int))
        usual = features.fit((tokens[row : row + 1] for row in chosen), [kind.labels[row] for row in chosen])
        vectors = np.stack([case_vector(tokens[start:end], usual) for start, end in kind.rows])
        owners = np.unique([case.owner for case in kind.cases], return_inverse=True)[1]
        usual.save(self._partial / f"{number}.npz")
        faiss.write_index(_flat_index(vectors), str(self._partial / f"{number}.faiss"))
        return entry | {
            "index": self._file(f"{number}.faiss"),
            "usual": self._file(f"{number}.npz"),
            "least_similarity": round(features.least_similarity(vectors, owners), 3),
        }

    def _file(self, name: str) -> dict[str, str]:
        with (self._partial / name).open("rb") as file:
            return {"file": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def writing(directory: Path, *, model_digest: str) -> Iterator[SnapshotWriter]:
    """Collect cases and call `write`; *directory* appears whole after the block, or not at all."""
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ExitStack() as files:
        # Beside the snapshot, not in /tmp: it can be larger than memory.
        scratch = files.enter_context(tempfile.TemporaryDirectory(prefix="tokens-", dir=directory.parent))
        # After the rename there is nothing left to remove.
        files.callback(shutil.rmtree, partial, ignore_errors=True)
        yield SnapshotWriter(partial, model_digest, Path(scratch), files)
        partial.rename(directory)


def case_vector(tokens: Tokens, usual: features.Usual) -> Vectors:
    """One vector of length 1 for the images of a case: the mean of theirs."""
    # Image by image: a large tower's whitened tokens are copies of some megabytes each.
    vectors = np.stack([features.embed(tokens[row : row + 1], usual)[0] for row in range(len(tokens))])
    vector: Vectors = normalised(vectors.mean(axis=0)[None])[0]
    return vector


def normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays, it is similar to nothing."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    unit: Vectors = rows / np.maximum(lengths, np.float32(1e-30))
    return unit


def _flat_index(vectors: Vectors) -> faiss.Index:
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    return index
