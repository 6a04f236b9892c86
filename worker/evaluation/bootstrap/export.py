"""Write the pairs of a run: images, one file a split, the cases for a person, a datasheet and a manifest.

The folder appears when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

#: That of InternVL's and MedDr's fine-tuning, or one object with all fields.
Form = Literal["internvl", "jsonl"]
#: Patients of ten for each other split; the rest, and studies without a patient, are for training.
_SPLITS = {0: "validation", 1: "test"}
_TRAINING = "train"
#: Ending of the files with conversations about several images. MedDr's `finetune.py` joins `image` to a path and stops
#: at a list (sunanhe/MedDr); that of InternVL reads lists, with one `<image>` for each (OpenGVLab/InternVL, b9b1bb8).
_SEVERAL = "_multi_image"


@dataclass(frozen=True, slots=True)
class Pair:
    """An accepted pair. *images* are relative to the folder; *fields* are stored with it: origin, model."""

    case_id: str
    patient_hash: str
    prompt: str
    report: str
    labels: Sequence[str]
    images: Sequence[str]
    fields: dict[str, Any]

    @property
    def split(self) -> str:
        """Split of the patient, the same in every run."""
        if not self.patient_hash:
            return _TRAINING
        return _SPLITS.get(int(hashlib.sha256(self.patient_hash.encode()).hexdigest(), 16) % 10, _TRAINING)


def check_free(out: Path) -> None:
    """Raise ConfigurationError if the output folder is not empty."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigurationError(f"{out} is not empty: choose another folder")


def new_part(out: Path) -> Path:
    """Create the folder in which a run collects its files: that of an interrupted run is replaced."""
    check_free(out)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    return part


def save_images(part: Path, number: int, images: Sequence[bytes]) -> list[str]:
    """Write the images of pair *number*; returns their names, relative to the folder."""
    names = [f"images/{number:06}-{n}.png" for n in range(1, len(images) + 1)]
    for name, content in zip(names, images, strict=True):
        (part / name).write_bytes(content)
    return names


def write(part: Path, out: Path, form: Form, pairs: Sequence[Pair], hard: Sequence[Any], sheet: dict[str, Any]) -> None:
    """Complete the folder *part* and rename it to *out*."""
    lines = _files(pairs, form)
    for name, objects in lines.items():
        _write_lines(part / f"{name}.jsonl", objects)
    _write_lines(part / "hard.jsonl", hard)
    counts = {name: len(objects) for name, objects in lines.items()}
    (part / "datasheet.json").write_text(json.dumps(sheet | {"splits": counts}, indent=1) + "\n", encoding="utf-8")
    files = sorted(path for path in part.rglob("*") if path.is_file())
    digests = {str(path.relative_to(part)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (part / "manifest.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    part.rename(out)


def label_counts(before: Iterable[Sequence[str]], after: Iterable[Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return the number of studies with each label, and of pairs; rare labels lost by the filters are visible here."""
    studies, kept = (
        Counter(label for labels in cases for label in labels or ["no finding"]) for cases in (before, after)
    )
    return {label: {"studies": count, "pairs": kept[label]} for label, count in sorted(studies.items())}


def _files(pairs: Sequence[Pair], form: Form) -> dict[str, list[dict[str, Any]]]:
    """Return the objects of each file of pairs, by its name without the ending."""
    endings = ("", _SEVERAL) if form == "internvl" else ("",)
    lines: dict[str, list[dict[str, Any]]] = {
        f"{split}{ending}": [] for split in (_TRAINING, *_SPLITS.values()) for ending in endings
    }
    for pair in pairs:
        ending = _SEVERAL if form == "internvl" and len(pair.images) > 1 else ""
        lines[f"{pair.split}{ending}"].append(_line(pair, form))
    return lines


def _line(pair: Pair, form: Form) -> dict[str, Any]:
    origin = {"synthetic": True, "labels": list(pair.labels), **pair.fields}
    images = list(pair.images)
    if form == "jsonl":
        return {"case_id": pair.case_id, "images": images, "prompt": pair.prompt, "report": pair.report} | origin
    # The images before the question, as in the prompts of a worker.
    asked = "<image>\n" * len(images) + pair.prompt
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": pair.report}]
    return {"id": pair.case_id, "image": images if len(images) > 1 else images[0], "conversations": turns} | origin


def _write_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
