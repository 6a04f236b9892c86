"""Store what an index was computed from, one file a reference case: the statistics can be fitted again without images.

Erasing a case deletes its file; the statistics fitted to the others have no share of it left.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import structlog

from db.errors import ConfigurationError
from worker.retrieval.features import reduced_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    import numpy.typing as npt

    HalfArray = npt.NDArray[np.float16]

log = structlog.get_logger()

#: Views of a family that are archived: twice as many as are fitted (worker.retrieval.families.MAX_VIEWS), so that the
#: detector stays the same after many erasures. Of 5,000 studies of two images they would be two fifths of the archive.
ARCHIVED_VIEWS = 2000


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


@dataclass(frozen=True, slots=True)
class ArchivedCase:
    """A case, the labels of its report, and what the tower saw.

    `tokens` [images, layers, positions, channels] are reduced tokens of its images; `views` and `turned` those of
    perturbed views and of the same upside down, the deep layers only; `prints` [images, side, side] uint8 and
    `digests` identify its images (worker.retrieval.duplicates).
    """

    case: IndexedCase
    tokens: HalfArray
    labels: Sequence[str] = ()
    views: HalfArray | None = None
    prints: npt.NDArray[np.uint8] | None = None
    digests: Sequence[str] = field(default=())
    turned: HalfArray | None = None

    def beside(self, views: int) -> ArchivedCase:
        """Return the case as it is archived beside *views* views of its family: without its own if these are enough."""
        return replace(self, views=None, turned=None) if views >= ARCHIVED_VIEWS else self


class CaseArchive:
    """The files of the cases of one model, in a folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, archived: ArchivedCase) -> None:
        """Write the file of a case; an earlier one is replaced."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(archived.case.case_id)
        partial = path.with_suffix(".part")
        header = {
            "case": asdict(archived.case),
            "images": len(archived.tokens),
            "labels": list(archived.labels),
            "digests": list(archived.digests),
        }
        arrays: dict[str, Any] = {"tokens": _half(archived.tokens), "header": np.array(json.dumps(header))}
        arrays |= {
            name: _half(views)
            for name, views in (("views", archived.views), ("turned", archived.turned))
            if views is not None
        }
        if archived.prints is not None:
            arrays["prints"] = archived.prints
        with partial.open("wb") as file:
            # A quarter smaller, for 13 ms a case.
            np.savez_compressed(file, **arrays)
        partial.rename(path)

    def read(self, case_id: str, *, tokens: bool = True) -> ArchivedCase:
        """Read the file of a case; raises ConfigurationError if it is missing or damaged.

        Without *tokens* its arrays stay on disk, and those of the result are empty [images, 0].
        """
        try:
            with np.load(self._path(case_id), allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                names = [name for name in ("views", "turned", "prints") if name in stored]
                arrays = {name: stored[name] if tokens else None for name in names}
                known = stored["tokens"] if tokens else np.zeros((header["images"], 0), np.float16)
                case = IndexedCase(**header["case"])
                return ArchivedCase(case, known, header["labels"], digests=header["digests"], **arrays)
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ConfigurationError(
                f"missing or damaged file of reference case {case_id}: build the reference index again"
            ) from error

    def prints(self, case_id: str) -> npt.NDArray[np.uint8] | None:
        """Return the prints of a case's images; None if it has none or its file cannot be read, which is logged."""
        try:
            with np.load(self._path(case_id), allow_pickle=False) as stored:
                prints: npt.NDArray[np.uint8] | None = stored.get("prints")
                return prints
        except FileNotFoundError:
            # Erased since the snapshot was loaded: its row is gone, too, and nothing of it is quoted.
            return None
        except (OSError, ValueError, BadZipFile):
            log.exception("reference_case.unreadable", case=case_id, meaning="not compared as a near-duplicate")
            return None

    def has(self, case_id: str) -> bool:
        """Return whether a case has a file."""
        return self._path(case_id).exists()

    def delete(self, case_ids: Collection[str]) -> None:
        """Delete the files of cases, and the folder if none is left."""
        for case_id in case_ids:
            self._path(case_id).unlink(missing_ok=True)
        if self._directory.exists() and not any(self._directory.iterdir()):
            self._directory.rmdir()

    def _path(self, case_id: str) -> Path:
        return self._directory / f"{case_id}.npz"


def _half(tokens: npt.NDArray[Any]) -> HalfArray:
    return reduced_tokens(tokens).astype(np.float16)
