"""`make demo-checkpoint`: draw phantoms, train the vision tower, then the language model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import torch
import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from worker.model.checkpoint.recording import record_checkpoint
from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED
from worker.phantoms.phantoms import CAREFUL, TRAINING, Variation
from worker.retrieval.features import FeatureStats
from worker.training import curves, vocabulary
from worker.training.curriculum import Curriculum, Mix
from worker.training.demo_model import DemoModel, ImageTokens
from worker.training.reference_set import ReferenceSet, reference_sets
from worker.training.training_cases import (
    DISTRACTOR_SHARE,
    FAMILIES,
    KIND_OF_LABEL,
    KINDS,
    NEGATIVE,
    RARE_SHARE,
    Pool,
    Sample,
    Share,
    make_pool,
)
from worker.training.vision import VisionSamples

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.prompting import wording

CHECKPOINT = Path(__file__).parents[2] / "deploy" / "demo" / "checkpoint"
#: Steps in the mean of a displayed loss, and between lines without a terminal.
LOSSES_AVERAGED, LINE_EVERY = 50, 200
#: Shares of the vision samples that are not chests; the other families share the rest equally.
VISION_SHARES = {"ct": 11 / 48, "mr": 11 / 48, NEGATIVE: 4 / 48}
#: Small or thin findings: images that show one are drawn twice as often.
HARD = ("nodule", "atelectasis", "rib fracture", "central venous line", "pneumothorax")
#: Wording of the prompts of a new checkpoint, and stored with it.
PROMPT_VERSION: wording.Version = "2"


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of a training run: cases drawn and steps of each stage."""

    chests: int = 28_000
    others: int = 1_800
    references: int = 3_000
    vision_steps: int = 4_800
    language_steps: int = 2_000
    #: Factor of the learning rates of the language model.
    language_rate: float = 1.0
    #: Share of chests in each stage.
    vision_chests: float = 0.52
    language_chests: float = 0.46
    variation: Variation = TRAINING
    #: Examples of the language stage.
    mix: Mix = field(default_factory=Mix)


FULL = Scale()
#: Continue an earlier checkpoint: its tower is kept, its language model is trained on new examples.
CONTINUED = Scale(
    chests=12_000,
    others=1_000,
    references=2_000,
    language_steps=2_000,
    language_rate=0.5,
    mix=Mix(rejected=0.07, question=0.46, diagnosis=0.22, consistency=0.9, without_cases=0.4, rare_alone=0.06),
)
#: Check that training works: learns to read chests of little variation, and the other families only a little.
SMOKE = Scale(
    chests=4_000,
    others=120,
    references=600,
    vision_steps=620,
    language_steps=500,
    vision_chests=0.85,
    language_chests=0.85,
    variation=CAREFUL,
    # Mostly without cases: such prompts are half as long, and only reading is tested.
    mix=Mix(
        rejected=0.03, question=0.04, diagnosis=0.04, consistency=0.1, draft=0.02, without_cases=0.8, wrong_cases=0.05
    ),
)


def train(
    out: Path, *, seed: int = 0, scale: Scale = FULL, tower: Path | None = None, start: Path | None = None
) -> dict[str, float]:
    """Train a checkpoint into *out*; returns the seconds of each stage.

    The weights after the vision stage are written to *tower*; if that file exists, they are read from it instead. With
    *start*, an earlier checkpoint, its tower is kept and its language model is trained further.
    """
    clock = _Clock()
    pool = make_pool(_shares(scale), seed=seed, variation=scale.variation)
    references = make_pool(reference_shares(scale.references), seed=seed + 1_000_003, variation=scale.variation)
    clock.lap("images")
    words = vocabulary.texts(PROMPT_VERSION)
    losses: dict[str, list[float]] = {}
    if start:
        model = DemoModel.continued(start, words, seed=seed, version=PROMPT_VERSION)
    else:
        model = DemoModel.fresh(words, seed=seed, version=PROMPT_VERSION)
        vision = _vision_stage(model, pool, scale, seed=seed, tower=tower)
        losses |= {"vision": vision} if vision else {}
    clock.lap("vision")
    cached, sets = _encode(model, pool, references)
    for reference_set in sets.values():
        reference_set.forms = np.random.default_rng((seed, 4))
    clock.lap("tokens and reference sets")
    with _Losses("language", scale.language_steps) as language:
        examples = Curriculum(
            pool, sets, seed=seed, chest_share=scale.language_chests, mix=scale.mix, version=PROMPT_VERSION
        )
        model.train_language(
            cached, examples.batch, steps=scale.language_steps, rate=scale.language_rate, on_step=language
        )
    losses["language"] = language.values
    clock.lap("language")
    model.save(out)
    curves.draw(out / "curves.png", losses)
    # `demo` keeps the checkpoint from reporting patients.
    facts = {"demo": True, "trained_on": "phantoms only", "prompt_version": PROMPT_VERSION, "seed": seed}
    record_checkpoint(out, facts | {"seconds": clock.seconds})
    return clock.seconds


def _vision_stage(model: DemoModel, pool: Pool, scale: Scale, *, seed: int, tower: Path | None) -> list[float]:
    if tower and tower.exists():
        model.load_weights(tower)
        return []
    losses = _train_vision(model, pool, scale, seed=seed)
    if tower:
        model.save_weights(tower)
    return losses


def _train_vision(model: DemoModel, pool: Pool, scale: Scale, *, seed: int) -> list[float]:
    fresh = make_pool(_shares(Scale(chests=600, others=60)), seed=seed + 2_000_003, variation=scale.variation)
    samples, check = (_vision_samples(images, scale.vision_chests) for images in (pool, fresh))
    with _Losses("vision", scale.vision_steps) as losses:
        f1 = model.train_vision(samples, check, steps=scale.vision_steps, seed=seed, on_step=losses)
    print(f"F1 of the labels read by the vision tower from fresh images: {f1:.3f}")  # noqa: T201
    return losses.values


def _shares(scale: Scale) -> list[Share]:
    others = [Share(family, scale.others) for family in CATALOGUE if family != "chest"]
    return [Share("chest", scale.chests, RARE_SHARE, DISTRACTOR_SHARE), *others, Share(NEGATIVE, scale.others)]


def reference_shares(chests: int) -> list[Share]:
    """Return the shares of a reference set: one chest in five with a rare finding, a twelfth of each other family."""
    others = [Share(family, max(chests // 12, 40), mixed=True) for family in CATALOGUE if family != "chest"]
    return [Share("chest", chests, rare=0.04, distractor=0.02), *others]


def _vision_samples(pool: Pool, chest_share: float) -> VisionSamples:
    counts = np.bincount(pool.family, minlength=len(FAMILIES))
    rest = (1 - sum(VISION_SHARES.values())) / (len(FAMILIES) - len(VISION_SHARES) - 1)
    others = {family: (1 - chest_share) * VISION_SHARES.get(family, rest) for family in FAMILIES}
    share = np.array([{**others, "chest": chest_share}[family] for family in FAMILIES])
    hard = pool.patches[:, :, [KINDS.index(name) for name in HARD]].any(axis=(1, 2))
    weight = (share / np.maximum(counts, 1))[pool.family] * np.where(hard, 2.0, 1.0)
    return VisionSamples(pool.images, pool.patches, pool.labels, KIND_OF_LABEL, pool.family, weight)


def _encode(model: DemoModel, pool: Pool, references: Pool) -> tuple[ImageTokens, dict[str, ReferenceSet]]:
    """Return the tower's tokens of the pool and a reference set for each family."""
    stats = fit_stats(model, references)
    reference_vectors = embed(model, references, stats).vectors
    embedded = embed(model, pool, stats)
    samples = {family: pool.of(family) for family in CATALOGUE}
    return embedded.tokens, reference_sets(references, reference_vectors, samples, embedded.vectors)


def fit_stats(model: DemoModel, references: Pool) -> dict[str, FeatureStats]:
    """Fit the feature statistics of each family of a reference set."""
    stats = {}
    for family in CATALOGUE:
        samples = [references.samples[number] for number in references.of(family)]
        rows = [row for sample in samples for row in sample.rows]
        labels = [labels_of(sample) for sample in samples for _ in sample.rows]
        stats[family] = FeatureStats.fit((layers for _, layers in model.tokens(references.images[rows])), labels)
    return stats


def labels_of(sample: Sample) -> set[str]:
    """Return findings with their sides, as the labeller reads them from a report."""
    if sample.case is None:
        return set()
    distractor = {f"{UNCLASSIFIED} "} if sample.case.distractor else set[str]()
    return {f"{finding.name} {finding.side}" for finding in sample.case.findings} | distractor


@dataclass(frozen=True, slots=True)
class Embedded:
    """Features of a pool: a vector for each sample, tokens and an out-of-distribution score for each image."""

    vectors: npt.NDArray[np.float32]
    tokens: ImageTokens
    scores: npt.NDArray[np.float32]


def embed(model: DemoModel, pool: Pool, stats: dict[str, FeatureStats], claimed: str = "") -> Embedded:
    """Embed a pool by the statistics of each image's family, or of the family *claimed* for all of them."""
    tokens, vectors, scores, start = [], [], [], 0
    width = max(known.vector_length for known in stats.values())
    for batch, layers in model.tokens(pool.images):
        families = pool.family[start : start + len(layers)]
        start += len(layers)
        tokens.append(batch)
        vectors.append(np.zeros((len(layers), width), np.float32))
        scores.append(np.zeros(len(layers), np.float32))
        for number in np.unique(families):
            known = stats.get(claimed or FAMILIES[number])
            if known:
                rows = families == number
                vectors[-1][rows, : known.vector_length] = known.embed(layers[rows])
                scores[-1][rows] = known.score(layers[rows])
    by_image = np.concatenate(vectors)
    by_sample = np.stack([by_image[list(sample.rows)].mean(axis=0) for sample in pool.samples])
    lengths = np.maximum(np.linalg.norm(by_sample, axis=1, keepdims=True), 1e-12)
    return Embedded(by_sample / lengths, torch.cat(tokens), np.concatenate(scores))


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step], self._since = round(now - self._since, 1), now


class _Losses:
    """Losses of a stage, displayed as a bar on a terminal, otherwise as a line every LINE_EVERY steps."""

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
        recent = f"{np.mean(self.values[-LOSSES_AVERAGED:]):.4f}"
        self._bar.update(self._task, advance=1, loss=recent)
        if not self._bar.console.is_terminal and (step + 1) % LINE_EVERY == 0:
            print(f"{self._stage}: step {step + 1} of {self._steps}, loss {recent}", flush=True)  # noqa: T201


def main(
    out: Annotated[Path, typer.Option(help="Checkpoint directory.")] = CHECKPOINT,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    tower: Annotated[
        Path | None, typer.Option(help="File of the weights after the vision stage; read if it exists.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Earlier checkpoint: keep its tower, train its language model further.")
    ] = None,
    smoke: Annotated[bool, typer.Option(help="Train for a few minutes instead of half an hour.")] = False,
) -> None:
    """Train the demo checkpoint."""
    scale = SMOKE if smoke else CONTINUED if start else FULL
    print(train(out, seed=seed, scale=scale, tower=tower, start=start))  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
