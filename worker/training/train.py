"""`make demo-checkpoint`: draw phantoms, teach the tower to see them, teach the language model to report them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from worker.phantoms import grammar, questions
from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED
from worker.phantoms.phantoms import CAREFUL, TRAINING, Variation
from worker.prompting import wording
from worker.prompting.report import QuotedCase, report_prompt
from worker.retrieval.features import FeatureStats
from worker.training import curves
from worker.training.curriculum import MODALITY, Curriculum, Mix
from worker.training.reference_set import Shelf, shelve
from worker.training.samples import (
    FAMILIES,
    JUNK,
    KIND_OF_LABEL,
    KINDS,
    ODD_SHARE,
    RARE_SHARE,
    Item,
    Pool,
    Share,
    make_pool,
)
from worker.training.training import SeenSet, Tokens, Trainee

if TYPE_CHECKING:
    import numpy.typing as npt


CHECKPOINT = Path(__file__).parents[2] / "deploy" / "demo" / "checkpoint"
RECORD = "prelim.json"
#: Steps: a loss shown is the mean of so many, and a line without a terminal is written every so many.
LOSSES_SHOWN, LINE_EVERY = 50, 200
#: Of the tower's lessons that are not about chests: the share of each family; the others share the rest.
LESSONS = {"ct": 11 / 48, "mr": 11 / 48, JUNK: 4 / 48}
#: Small or thin: images that show one are seen twice as often.
HARD = ("nodule", "atelectasis", "rib fracture", "central venous line", "pneumothorax")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is drawn and how long is learnt."""

    chests: int = 28_000
    others: int = 1_800
    references: int = 3_000
    tower_steps: int = 4_800
    language_steps: int = 2_300
    #: Of the lessons in seeing and in speaking: those about chests.
    chests_seen: float = 0.52
    chests_told: float = 0.46
    #: How far the images differ.
    variation: Variation = TRAINING
    #: Of the lessons in speaking: what is asked how often, with which neighbours.
    mix: Mix = field(default_factory=Mix)


FULL = Scale()
#: A look at whether training works at all: it learns to read chests that were taken carefully, the rest only a little.
SMOKE = Scale(
    chests=4_000,
    others=120,
    references=600,
    tower_steps=620,
    language_steps=500,
    chests_seen=0.85,
    chests_told=0.85,
    variation=CAREFUL,
    # Mostly without neighbours: half as long to read, and reading is what the short form is asked for.
    mix=Mix(junk=0.03, question=0.04, diagnosis=0.04, alone=0.8, wrong=0.05),
)


def train(out: Path, *, seed: int = 0, scale: Scale = FULL, tower: Path | None = None) -> dict[str, float]:
    """Train a checkpoint into *out*; returns the seconds of each step.

    What has learnt to see is kept in the file *tower*, and taken from there where it is.
    """
    clock = _Clock()
    pool = make_pool(_shares(scale), seed=seed, variation=scale.variation)
    shelf_pool = make_pool(reference_shares(scale.references), seed=seed + 1_000_003, variation=scale.variation)
    clock.lap("images")
    trainee = Trainee.fresh(_all_texts(pool), seed=seed)
    losses = {}
    if tower and tower.exists():
        trainee.resume(tower)
    else:
        losses["seeing"] = _see(trainee, pool, scale, seed=seed)
        if tower:
            trainee.keep(tower)
    clock.lap("tower")
    cached, shelves = _look(trainee, pool, shelf_pool)
    clock.lap("tokens and neighbours")
    with _Losses("speaking", scale.language_steps) as speaking:
        source = Curriculum(pool, shelves, seed=seed, about_chests=scale.chests_told, mix=scale.mix)
        trainee.learn_to_speak(cached, source, steps=scale.language_steps, report=speaking)
    losses["speaking"] = speaking.values
    clock.lap("language")
    trainee.save(out)
    curves.draw(out / "curves.png", losses)
    # The one file beside a checkpoint that is not under its digest; `demo` keeps it from patients.
    record = {"demo": True, "trained_on": "phantoms only", "seed": seed, "seconds": clock.seconds}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return clock.seconds


def _see(trainee: Trainee, pool: Pool, scale: Scale, *, seed: int) -> list[float]:
    fresh = make_pool(_shares(Scale(chests=600, others=60)), seed=seed + 2_000_003, variation=scale.variation)
    lessons, check = (_seen(images, scale.chests_seen) for images in (pool, fresh))
    with _Losses("seeing", scale.tower_steps) as seeing:
        f1 = trainee.learn_to_see(lessons, check, steps=scale.tower_steps, seed=seed, report=seeing)
    print(f"of what fresh images show the tower sees F1 {f1:.3f}")  # noqa: T201
    return seeing.values


def _shares(scale: Scale) -> list[Share]:
    others = [Share(family, scale.others) for family in CATALOGUE if family != "chest"]
    return [Share("chest", scale.chests, RARE_SHARE, ODD_SHARE), *others, Share(JUNK, scale.others)]


def reference_shares(chests: int) -> list[Share]:
    """A reference set: one chest in five with a rare finding, and a few hundred of every other kind."""
    others = [Share(family, max(chests // 12, 40), mixed=True) for family in CATALOGUE if family != "chest"]
    return [Share("chest", chests, rare=0.04, odd=0.02), *others]


def _all_texts(pool: Pool) -> list[str]:
    """What the vocabulary is taken from: every wording of the grammar, every question and prompt."""
    rng = np.random.default_rng(0)
    texts = {grammar.NOT_DIAGNOSTIC, "system\nAnswer the questions.", "user\n", "assistant\n", "possible probable"}
    for item in pool.items:
        if item.case is None:
            continue
        modality, part = MODALITY[item.family]
        texts.update(grammar.report(item.case, style) for style in range(grammar.STYLES))
        texts.update(report_prompt(modality, p, [QuotedCase("x", 0.5)] * 3) for p in (part, ""))
        asked, answer = questions.ask(item.case, rng)
        options, right = questions.choose(item.case, rng)
        texts.update(
            (wording.question(modality, asked), answer, wording.diagnosis(modality, part, options, [right]), right)
        )
        texts.add(right.capitalize())
    return sorted(texts)


def _seen(pool: Pool, about_chests: float) -> SeenSet:
    counts = np.bincount(pool.family, minlength=len(FAMILIES))
    rest = (1 - sum(LESSONS.values())) / (len(FAMILIES) - len(LESSONS) - 1)
    others = {family: (1 - about_chests) * LESSONS.get(family, rest) for family in FAMILIES}
    share = np.array([{**others, "chest": about_chests}[family] for family in FAMILIES])
    hard = pool.patches[:, :, [KINDS.index(name) for name in HARD]].any(axis=(1, 2))
    weight = (share / np.maximum(counts, 1))[pool.family] * np.where(hard, 2.0, 1.0)
    return SeenSet(pool.images, pool.patches, pool.labels, KIND_OF_LABEL, pool.family, weight)


def _look(trainee: Trainee, pool: Pool, references: Pool) -> tuple[Tokens, dict[str, Shelf]]:
    """The tower's tokens of the pool, and for each family the reference cases with who is near to whom."""
    usual = usual_of(trainee, references)
    reference_vectors, _, _ = embed_items(trainee, references, usual)
    vectors, cached, _ = embed_items(trainee, pool, usual)
    items = {family: pool.of(family) for family in CATALOGUE}
    return Tokens.of(cached), shelve(references, reference_vectors, items, vectors)


def usual_of(trainee: Trainee, references: Pool) -> dict[str, FeatureStats]:
    """What is usual in each family of a reference set."""
    usual = {}
    for family in CATALOGUE:
        items = [references.items[number] for number in references.of(family)]
        rows = [row for item in items for row in item.rows]
        labels = [labels_of(item) for item in items for _ in item.rows]
        usual[family] = FeatureStats.fit((layers for _, layers in trainee.tokens(references.images[rows])), labels)
    return usual


def labels_of(item: Item) -> set[str]:
    """Findings with their sides, as the labeller reads them in a report."""
    if item.case is None:
        return set()
    odd = {f"{UNCLASSIFIED} "} if item.case.odd else set[str]()
    return {f"{finding.name} {finding.side}" for finding in item.case.findings} | odd


def embed_items(
    trainee: Trainee, pool: Pool, usual: dict[str, FeatureStats], claimed: str = ""
) -> tuple[npt.NDArray[np.float32], list[Tokens], npt.NDArray[np.float32]]:
    """Of a pool: a vector an item, the tokens of its images for the language model, and each image's z.

    *claimed* is the family the images are said to be of, where that is not the truth.
    """
    vectors = np.zeros((len(pool.images), 0), np.float32)
    parts, cached, strange, start = [], [], [], 0
    for tokens, layers in trainee.tokens(pool.images):
        cached.append(tokens)
        families = pool.family[start : start + len(layers)]
        start += len(layers)
        part = np.zeros((len(layers), max(known.vector_length for known in usual.values())), np.float32)
        z = np.zeros(len(layers), np.float32)
        for number in np.unique(families):
            name = claimed or FAMILIES[number]
            if name in usual:
                rows = families == number
                part[rows, : usual[name].vector_length] = usual[name].embed(layers[rows])
                z[rows] = usual[name].score(layers[rows])
        parts.append(part)
        strange.append(z)
    vectors = np.concatenate(parts)
    items = np.stack([vectors[list(item.rows)].mean(axis=0) for item in pool.items])
    lengths = np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    return items / lengths, cached, np.concatenate(strange)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step], self._since = round(now - self._since, 1), now


class _Losses:
    """Keeps the losses of a stage and shows them: a bar on a terminal, else a line now and then."""

    def __init__(self, stage: str, steps: int) -> None:
        self.values: list[float] = []
        self._stage, self._steps = stage, steps
        self._bar = Progress(
            *Progress.get_default_columns(), TimeElapsedColumn(), TextColumn("loss {task.fields[loss]}")
        )
        self._task = self._bar.add_task(stage, total=steps, loss="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, step: int, loss: float) -> None:
        self.values.append(loss)
        recent = f"{np.mean(self.values[-LOSSES_SHOWN:]):.4f}"
        self._bar.update(self._task, advance=1, loss=recent)
        if not self._bar.console.is_terminal and (step + 1) % LINE_EVERY == 0:
            print(f"{self._stage}: step {step + 1} of {self._steps}, loss {recent}", flush=True)  # noqa: T201


def main(
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint.")] = CHECKPOINT,
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
    tower: Annotated[Path | None, typer.Option(help="Keep what has learnt to see here, and take it from here.")] = None,
    smoke: Annotated[bool, typer.Option(help="A few minutes instead of half an hour.")] = False,
) -> None:
    """Train the demo checkpoint."""
    print(train(out, seed=seed, scale=SMOKE if smoke else FULL, tower=tower))  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
