"""`make demo-checkpoint`: draw phantoms, teach the tower to see them, teach the language model to report them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from deploy.demo import curves, grammar, questions
from deploy.demo.cases import CATALOGUE
from deploy.demo.curriculum import MODALITY, Curriculum
from deploy.demo.neighbours import shelve
from deploy.demo.pool import FAMILIES, JUNK, ODD_SHARE, RARE_SHARE, Item, Pool, Share, make_pool
from worker import prompts
from worker.model import pooling
from worker.model.training import SeenSet, Tokens, Trainee

if TYPE_CHECKING:
    import numpy.typing as npt

    from deploy.demo.neighbours import Shelf
    from worker.model.pooling import Usual
CHECKPOINT = Path(__file__).parent / "checkpoint"
RECORD = "prelim.json"
#: Share of the tower's lessons that each family gets.
LESSONS = {"chest": 0.50, JUNK: 0.04}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is drawn and how long is learnt."""

    chests: int = 18_000
    others: int = 1_800
    references: int = 3_000
    tower_steps: int = 2_700
    language_steps: int = 1_600


FULL = Scale()
#: Keeps the code alive in continuous integration.
SMOKE = Scale(chests=4_000, others=600, references=600, tower_steps=900, language_steps=700)


def train(out: Path, *, seed: int = 0, scale: Scale = FULL) -> dict[str, float]:
    """Train a checkpoint into *out*; returns the seconds of each step."""
    clock = _Clock()
    pool = make_pool(_shares(scale), seed=seed)
    shelf_pool = make_pool(reference_shares(scale.references), seed=seed + 1_000_003)
    clock.lap("pictures")
    rng = np.random.default_rng((seed, 4))
    trainee = Trainee.fresh(_all_texts(pool), seed=seed)
    with _bar() as bar:
        task = bar.add_task("seeing", total=scale.tower_steps, loss="")
        seeing = _Losses(bar, task)
        trainee.learn_to_see(_seen(pool), steps=scale.tower_steps, seed=seed, report=seeing)
    clock.lap("tower")
    cached, shelves = _look(trainee, pool, shelf_pool, rng)
    clock.lap("tokens and neighbours")
    with _bar() as bar:
        speaking = _Losses(bar, bar.add_task("speaking", total=scale.language_steps, loss=""))
        source = Curriculum(pool, shelves, seed=seed)
        trainee.learn_to_speak(cached, source, steps=scale.language_steps, report=speaking)
    clock.lap("language")
    trainee.save(out)
    curves.draw(out / "curves.png", {"seeing": seeing.values, "speaking": speaking.values})
    # The one file beside a checkpoint that is not under its digest; `demo` keeps it from patients.
    record = {"demo": True, "trained_on": "phantoms only", "seed": seed, "seconds": clock.seconds}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return clock.seconds


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
        texts.update(prompts.report(modality, p, [prompts.Case("x", 0.5)] * 3) for p in (part, ""))
        asked, answer = questions.ask(item.case, rng)
        options, right = questions.choose(item.case, rng)
        texts.update(
            (prompts.question(modality, asked), answer, prompts.diagnosis(modality, part, options, [right]), right)
        )
        texts.add(right.capitalize())
    return sorted(texts)


def _seen(pool: Pool) -> SeenSet:
    counts = np.bincount(pool.family, minlength=len(FAMILIES))
    rest = (1 - sum(LESSONS.values())) / (len(FAMILIES) - len(LESSONS))
    share = np.array([LESSONS.get(family, rest) for family in FAMILIES])
    return SeenSet(pool.pictures, pool.patches, pool.family, (share / np.maximum(counts, 1))[pool.family])


def _look(trainee: Trainee, pool: Pool, references: Pool, rng: np.random.Generator) -> tuple[Tokens, dict[str, Shelf]]:
    """The tower's tokens of the pool, and for each family the reference cases with who is near to whom."""
    usual = usual_of(trainee, references)
    reference_vectors, _, _ = embed_items(trainee, references, usual)
    vectors, cached, _ = embed_items(trainee, pool, usual)
    shelves = {}
    for family in CATALOGUE:
        there, here = references.of(family), pool.of(family)
        cases = [case for number in there if (case := references.items[number].case) is not None]
        shelves[family] = shelve(cases, reference_vectors[there], here, vectors[here], rng)
    return Tokens.of(cached), shelves


def usual_of(trainee: Trainee, references: Pool) -> dict[str, Usual]:
    """What is usual in each family of a reference set."""
    usual = {}
    for family in CATALOGUE:
        items = [references.items[number] for number in references.of(family)]
        rows = [row for item in items for row in item.rows]
        labels = [labels_of(item) for item in items for _ in item.rows]
        usual[family] = pooling.fit((layers for _, layers in trainee.tokens(references.pictures[rows])), labels)
    return usual


def labels_of(item: Item) -> set[str]:
    """Findings with their sides, as the labeller reads them in a report."""
    return {f"{finding.name} {finding.side}" for finding in item.case.findings} if item.case else set()


def embed_items(
    trainee: Trainee, pool: Pool, usual: dict[str, Usual], claimed: str = ""
) -> tuple[npt.NDArray[np.float32], list[Tokens], npt.NDArray[np.float32]]:
    """Of a pool: a vector an item, the tokens of its pictures for the language model, and each picture's z.

    *claimed* is the family the pictures are said to be of, where that is not the truth.
    """
    vectors = np.zeros((len(pool.pictures), 0), np.float32)
    parts, cached, strange, start = [], [], [], 0
    for tokens, layers in trainee.tokens(pool.pictures):
        cached.append(tokens)
        families = pool.family[start : start + len(layers)]
        start += len(layers)
        part = np.zeros((len(layers), max(pooling.length(known) for known in usual.values())), np.float32)
        z = np.zeros(len(layers), np.float32)
        for number in np.unique(families):
            name = claimed or FAMILIES[number]
            if name in usual:
                rows = families == number
                part[rows, : pooling.length(usual[name])] = pooling.embed(layers[rows], usual[name])
                z[rows] = pooling.z(layers[rows], usual[name])
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
    """Keeps the losses of a stage and moves its bar."""

    def __init__(self, bar: Progress, task: object) -> None:
        self.values: list[float] = []
        self._bar, self._task = bar, task

    def __call__(self, step: int, loss: float) -> None:
        del step
        self.values.append(loss)
        recent = float(np.mean(self.values[-50:]))
        self._bar.update(self._task, advance=1, loss=f"{recent:.4f}")  # type: ignore[arg-type]


def _bar() -> Progress:
    return Progress(*Progress.get_default_columns(), TimeElapsedColumn(), TextColumn("loss {task.fields[loss]}"))


def main(
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint.")] = CHECKPOINT,
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
    smoke: Annotated[bool, typer.Option(help="A few minutes instead of half an hour.")] = False,
) -> None:
    """Train the demo checkpoint."""
    print(train(out, seed=seed, scale=SMOKE if smoke else FULL))  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
