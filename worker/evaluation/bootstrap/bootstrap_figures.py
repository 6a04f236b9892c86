"""Measure the pairs of `prelim bootstrap` on phantoms, of which the findings are known.

python -m worker.evaluation.bootstrap.bootstrap_figures --checkpoint DIR --studies 200 --wrong 0.1
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from db.settings import Settings
from worker.evaluation.bootstrap.bootstrap import write_pairs
from worker.evaluation.bootstrap.labelled_cases import read_labelled
from worker.evaluation.evaluate import loaded_pipeline
from worker.findings.labeller import present
from worker.phantoms.cases import CATALOGUE, Finding, draw_finding
from worker.phantoms.datasets import write_demo_studies, write_reference_cases
from worker.phantoms.phantoms import TRAINING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.evaluation.bootstrap.export import Form, Pair
    from worker.phantoms.datasets import DemoStudy
    from worker.pipeline.pipeline import Pipeline

SEED = 7_300_000


@dataclass(frozen=True, slots=True)
class BootstrapFigures:
    """Counts of a run. A finding is right with its side and zone."""

    studies: int
    pairs: int
    #: Pairs that affirm exactly the findings of the image.
    exact: int
    #: Findings that the pairs affirm, and those among them that the images show.
    affirmed: int
    right: int
    #: Studies with a planted wrong label, and pairs made of them.
    planted: int
    carried: int
    reasons: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the counts with the shares of the acceptance."""
        shares = {
            "yield": self.pairs / self.studies,
            "exact_share": self.exact / max(self.pairs, 1),
            "strict_precision": self.right / max(self.affirmed, 1),
            "carried_share": self.carried / max(self.pairs, 1),
        }
        return asdict(self) | {name: round(share, 4) for name, share in shares.items()}


def measure(pipeline: Pipeline, scratch: Path, *, studies: int, seed: int, wrong: float, form: Form) -> dict[str, Any]:
    """Make pairs of *studies* phantoms in the folder *scratch*, a share *wrong* of them with a wrong label."""
    written = write_demo_studies(scratch / "cases", count=studies, seed=seed, variation=TRAINING)
    rng = np.random.default_rng((seed, 2))
    labels = {one.case_id: _findings(one) for one in written}
    planted = {one.case_id for one in written if rng.random() < wrong}
    labels |= {name: with_error(labels[name], _catalogue_of(written, name), rng) for name in planted}
    lines = [json.dumps(_line(one, labels[one.case_id])) for one in written]
    path = scratch / "cases" / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = write_pairs(read_labelled(path), path.parent, pipeline, scratch / "pairs", form, demo=True)
    truth = {one.case_id: {(f.name, f.side, f.zone) for f in _findings(one)} for one in written}
    return _figures(studies, result.pairs, truth, planted, dict(result.reasons)).as_json()


def with_error(findings: Sequence[Finding], catalogue: str, rng: np.random.Generator) -> list[Finding]:
    """Return the findings with one error: another side, one too few or too many, or one in place of another."""
    changed, sided = list(findings), [n for n, finding in enumerate(findings) if finding.side]
    kinds = [kind for kind in CATALOGUE[catalogue] if kind.name not in {finding.name for finding in findings}]
    other = draw_finding(rng, kinds[int(rng.integers(len(kinds)))])
    possible = ["add", *(["drop", "replace"] if changed else []), *(["side"] if sided else [])]
    error, n = str(rng.choice(possible)), int(rng.integers(max(len(changed), 1)))
    if error == "add":
        return [*changed, other]
    if error == "side":
        n = sided[int(rng.integers(len(sided)))]
        other = replace(changed[n], side="right" if changed[n].side == "left" else "left")
    changed[n : n + 1] = [] if error == "drop" else [other]
    return changed


def _figures(
    studies: int,
    pairs: Sequence[Pair],
    truth: dict[str, set[tuple[str, str, str]]],
    planted: set[str],
    reasons: dict[str, int],
) -> BootstrapFigures:
    told = [({label.strict for label in present(pair.report)}, truth[pair.case_id]) for pair in pairs]
    return BootstrapFigures(
        studies,
        len(pairs),
        exact=sum(mine == true for mine, true in told),
        affirmed=sum(len(mine) for mine, _ in told),
        right=sum(len(mine & true) for mine, true in told),
        planted=len(planted),
        carried=sum(pair.case_id in planted for pair in pairs),
        reasons=reasons,
    )


def _findings(study: DemoStudy) -> list[Finding]:
    return [Finding(**finding) for finding in study.findings]


def _catalogue_of(written: Sequence[DemoStudy], case_id: str) -> str:
    """Return the image type of a study: they are written in turn."""
    images = list(CATALOGUE)
    return images[[one.case_id for one in written].index(case_id) % len(images)]


def _line(study: DemoStudy, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "case_id": study.case_id,
        "files": study.files,
        "labels": [_label(finding) for finding in findings],
        "confirmed_by": "phantom",
        "modality": study.modality,
        "body_part": study.body_part,
        "patient": study.patient,
    }


def _label(finding: Finding) -> str:
    return " ".join(filter(None, (finding.side, f"{finding.zone} zone" if finding.zone else "", finding.name)))


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint directory.")],
    studies: Annotated[int, typer.Option(min=1, help="Number of phantom studies.")] = 200,
    wrong: Annotated[float, typer.Option(min=0, max=1, help="Share of studies with a planted wrong label.")] = 0.0,
    references: Annotated[int, typer.Option(min=0, help="Reference cases to retrieve from.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the phantoms.")] = SEED,
) -> None:
    """Measure the pairs of a checkpoint on phantoms and print the figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference" if references else None
        if reference:
            write_reference_cases(reference, count=references, seed=seed, variation=TRAINING)
        with loaded_pipeline(checkpoint, Settings(), reference) as pipeline:
            figures = measure(pipeline, Path(folder), studies=studies, seed=seed, wrong=wrong, form="internvl")
    print(json.dumps(figures, indent=1))  # noqa: T201 - the command's output


if __name__ == "__main__":
    typer.run(main)
