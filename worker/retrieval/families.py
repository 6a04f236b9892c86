"""The cases of a modality family: fitted statistics, and for each body part an index of vectors."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import faiss
import numpy as np

from worker.retrieval.features import MAX_FITTED_IMAGES, FeatureStats, Origin, deep_layers, min_similarity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy.typing as npt

    from worker.retrieval.archive import ArchivedCase, CaseArchive

    #: float [images, layers, patches, channels]
    Tokens = npt.NDArray[Any]
    #: float32 [rows, dimension]
    Vectors = npt.NDArray[np.float32]

#: A standard deviation needs two.
MIN_IMAGES = 2
#: Perturbed views kept of a modality family: about as many as images that a detector is fitted to.
MAX_VIEWS = 1000
#: A row of a partition: ids and fingerprints as hexadecimal text.
ROW = np.dtype([("case_id", "S36"), ("patient", "S64"), ("study", "S64"), ("modality", "S16")])
#: Digest of an image and the row of its case.
DIGEST = np.dtype([("digest", "S32"), ("row", "u4")])


class Keys:
    """Ids or fingerprints, of which a few are looked up.

    Whole keys are compared only if their last eight bytes are equal: comparing all bytes of 100,000 took longer than
    the search.
    """

    def __init__(self, keys: npt.NDArray[np.bytes_]) -> None:
        self._keys, self._tails = keys, _tails(keys)

    def places(self, wanted: Collection[str]) -> npt.NDArray[np.int64]:
        """Return the places of the keys that equal one of *wanted*."""
        texts = np.array([key.encode() for key in wanted], "S")
        near = np.flatnonzero(np.isin(self._tails, _tails(texts.astype(self._keys.dtype))))
        return near[np.isin(self._keys[near], texts)]


def _tails(keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Return the last eight bytes of each key as a number."""
    octets = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), keys.itemsize)
    return np.ascontiguousarray(octets[:, -8:]).view(np.uint64).ravel()


@dataclass(frozen=True)
class Partition:
    """The cases of one body part: a FAISS index, a row for each vector, and the digests of their images."""

    index: faiss.Index
    rows: npt.NDArray[Any]
    digests: npt.NDArray[Any]

    @cached_property
    def keys(self) -> dict[str, Keys]:
        """Return the columns of ids and fingerprints."""
        of_rows = {name: Keys(self.rows[name]) for name in ("case_id", "patient", "study")}
        return of_rows | {"digest": Keys(self.digests["digest"])}

    @classmethod
    def of(cls, cases: Sequence[ArchivedCase], vectors: Vectors) -> Self:
        """Index *cases* under their *vectors*."""
        index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        return cls(index, np.zeros(0, ROW), np.zeros(0, DIGEST)).with_cases(cases, vectors)

    def with_cases(self, cases: Sequence[ArchivedCase], vectors: Vectors) -> Self:
        """Return the partition with *cases* appended."""
        index = faiss.clone_index(self.index)
        index.add(vectors)
        rows = [(c.case.case_id, c.case.patient_hash, c.case.study_hash, c.case.modality) for c in cases]
        start = len(self.rows)
        digests = [(digest, start + number) for number, c in enumerate(cases) for digest in c.digests]
        return type(self)(
            index,
            np.concatenate([self.rows, np.array(rows, ROW)]),
            np.concatenate([self.digests, np.array(digests, DIGEST)]),
        )

    def without(self, case_ids: Collection[str]) -> Self:
        """Return the partition without the cases *case_ids*."""
        gone = np.isin(self.rows["case_id"], np.array(sorted(case_ids), "S36"))
        index = faiss.clone_index(self.index)
        index.remove_ids(faiss.IDSelectorBatch(np.flatnonzero(gone).astype(np.int64)))
        # Rows after a removed one move up, in the index and here.
        moved = np.cumsum(~gone) - 1
        digests = self.digests[~gone[self.digests["row"]]]
        digests["row"] = moved[digests["row"]]
        return type(self)(index, self.rows[~gone], digests)


def patients_in(rows: npt.NDArray[Any]) -> int:
    """Return the number of patients; a case without Patient ID counts by its study, else by itself."""
    owners = np.where(rows["patient"] != b"", rows["patient"], rows["study"])
    return len(np.unique(np.where(owners != b"", owners, rows["case_id"])))


@dataclass(slots=True)
class Family:
    """A modality family: statistics, its partitions by body part, and the lowest similarity of a similar case.

    `stats` is None, and nothing can be searched, with a single image; `unindexed` then names its cases.
    """

    stats: FeatureStats | None
    min_similarity: float = -1.0
    partitions: dict[str, Partition] = field(default_factory=dict)
    unindexed: list[str] = field(default_factory=list)

    def case_ids(self) -> list[str]:
        """Return the ids of its cases."""
        indexed = [case_id.decode() for part in self.partitions.values() for case_id in part.rows["case_id"]]
        return [*indexed, *self.unindexed]


def fit_family(archive: CaseArchive, case_ids: Sequence[str]) -> Family:
    """Fit the statistics of a family to its archived cases and compute their vectors."""
    cases = [archive.read(case_id, tokens=False) for case_id in case_ids]
    of_image = [case for case in cases for _ in range(len(case.tokens))]
    if len(of_image) < MIN_IMAGES:
        return Family(None, unindexed=list(case_ids))
    # Read one by one: the tokens of a large archive do not fit into memory.
    chosen = np.unique(np.linspace(0, len(of_image) - 1, min(len(of_image), MAX_FITTED_IMAGES)).astype(int))
    stats = FeatureStats.fit(
        _chosen_images(archive, case_ids, chosen),
        [of_image[number].labels for number in chosen],
        [_origin(of_image[number]) for number in chosen],
        list(islice(_views(archive, case_ids, "views"), MAX_VIEWS)),
        list(islice(_views(archive, case_ids, "turned"), MAX_VIEWS)),
    )
    vectors = np.stack([case_vector(archive.read(case_id).tokens, stats) for case_id in case_ids])
    owners = np.unique([case.case.owner for case in cases], return_inverse=True)[1]
    of_part: dict[str, list[int]] = defaultdict(list)
    for number, case in enumerate(cases):
        of_part[case.case.body_part].append(number)
    partitions = {
        part: Partition.of([cases[number] for number in numbers], vectors[numbers])
        for part, numbers in sorted(of_part.items())
    }
    return Family(stats, round(min_similarity(vectors, owners), 3), partitions)


def _chosen_images(archive: CaseArchive, case_ids: Sequence[str], chosen: npt.NDArray[np.int64]) -> Iterator[Tokens]:
    start = 0
    for case_id in case_ids:
        tokens = archive.read(case_id).tokens
        yield tokens[chosen[(chosen >= start) & (chosen < start + len(tokens))] - start]
        start += len(tokens)


def _views(archive: CaseArchive, case_ids: Sequence[str], name: str) -> Iterator[tuple[Tokens, Origin]]:
    """Yield the deep layers of views, upright or turned; files of earlier releases have the others, too."""
    for case_id in case_ids:
        case = archive.read(case_id)
        views, deep = getattr(case, name), deep_layers(case.tokens).shape[1]
        if views is not None:
            yield from ((view[-deep:], _origin(case)) for view in views)


def _origin(case: ArchivedCase) -> Origin:
    return Origin(case.case.owner, case.case.body_part)


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
