"""Commands for the model: checkpoints, the reference index, phantoms, evaluation."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from db.states import JobKind
from deploy.cli.help_text import Command, Group
from deploy.cli.startup import console, load_settings, process_settings

if TYPE_CHECKING:
    from db.settings import Settings
    from worker.evaluation.answers.answer_figures import AnswerFigures
    from worker.evaluation.scoring import Result

PANEL = "Model"


class Source(StrEnum):
    """Cases with known reports."""

    PHANTOMS = "phantoms"
    FINALS = "finals"
    #: The same as finals, in earlier releases.
    CASES = "cases"


class PairForm(StrEnum):
    """Form of the pairs of `prelim bootstrap`: that of MedDr's fine-tuning, or one object with all fields."""

    INTERNVL = "internvl"
    JSONL = "jsonl"


app = typer.Typer()
checkpoint_app = typer.Typer(cls=Group, no_args_is_help=True, help="Create, convert and inspect model checkpoints.")
TRUST_UNKNOWN = typer.Option("--trust-unknown", help="Skip checks that fail, and list them.")
command = partial(app.command, cls=Command, rich_help_panel=PANEL)


@command()
def phantoms(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    count: Annotated[int, typer.Option(min=1, help="Number of studies.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed writes the same studies.")] = 0,
) -> None:
    """Write phantom studies as DICOM files, with their reference reports."""
    from worker.phantoms.datasets import write_phantoms

    console.print(f"{write_phantoms(out, count=count, seed=seed)} files in {out}", highlight=False)


@command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint directory.")],
    cases: Annotated[
        Path | None, typer.Option(help="Folder with cases.jsonl and its DICOM files, or a test file of MedDr.")
    ] = None,
    task: Annotated[JobKind, typer.Option(help="What is measured.")] = JobKind.REPORT,
    modality: Annotated[str, typer.Option(help="Of plain images in a test file.")] = "OT",
    body_part: Annotated[str, typer.Option(help="Of plain images in a test file.")] = "",
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantom studies, instead of a folder.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of reference cases to retrieve from.")] = None,
    retrieval: Annotated[bool, typer.Option(help="Give similar reference cases to the model.")] = True,
    controls: Annotated[
        bool,
        typer.Option("--controls", help="Report each study again: other cases, no images, texts known to be wrong."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the phantom studies.")] = 3_100_000,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures and their plot.")] = None,
) -> None:
    """Evaluate a checkpoint on cases with known reports, offline."""
    if (cases is None) == (phantoms is None):
        raise typer.BadParameter("expected either --cases or --phantoms")
    if controls and task is not JobKind.REPORT:
        raise typer.BadParameter("--controls measures reports only")
    if reference and phantoms:
        raise typer.BadParameter("--phantoms has reference cases of its own: leave --reference out")
    if cases is None:
        result = _evaluate_phantoms(
            phantoms or 0, checkpoint, task, seed=seed, retrieval=retrieval, controls=controls, out=out
        )
    else:
        earlier, kind = reference if retrieval else None, (modality, body_part)
        result = _evaluate_cases(cases, checkpoint, task, kind, reference=earlier, controls=controls, out=out)
    for table in result.tables():
        console.print(table)
    for line in result.failed:
        console.print(f"not reported: {line}", highlight=False)


def _evaluate_phantoms(
    count: int, checkpoint: Path, task: JobKind, *, seed: int, retrieval: bool, controls: bool, out: Path | None
) -> AnswerFigures | Result:
    from worker.evaluation.answers.evaluate_answers import evaluate_phantom_answers
    from worker.evaluation.phantom_cases import evaluate_phantoms

    settings = process_settings()
    if task is JobKind.REPORT:
        return evaluate_phantoms(
            count, checkpoint, settings, seed=seed, retrieval=retrieval, controls=controls, out=out
        )
    return evaluate_phantom_answers(count, checkpoint, settings, task, seed=seed, retrieval=retrieval, out=out)


def _evaluate_cases(
    cases: Path,
    checkpoint: Path,
    task: JobKind,
    kind: tuple[str, str],
    *,
    reference: Path | None,
    controls: bool,
    out: Path | None,
) -> AnswerFigures | Result:
    """Return the figures of a folder of cases, or of a test file whose plain images have the modality and body part."""
    from worker.evaluation.answers import meta_files
    from worker.evaluation.answers.evaluate_answers import evaluate_answers
    from worker.evaluation.evaluate import evaluate

    settings = process_settings()
    with tempfile.TemporaryDirectory() as scratch:
        if cases.is_file():
            meta_files.write_folder(cases, Path(scratch), modality=kind[0], body_part=kind[1])
            cases = Path(scratch)
        if task is JobKind.REPORT:
            return evaluate(cases, checkpoint, settings, reference=reference, controls=controls, out=out)
        return evaluate_answers(cases, checkpoint, settings, task, reference=reference, out=out)


@command()
def calibrate(
    source: Annotated[
        Source | None, typer.Option("--from", help="phantoms, or finals: a folder of studies with final reports.")
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="Folder with cases.jsonl and its DICOM files.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of phantom studies.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the phantom studies.")] = 5_900_000,
    alpha: Annotated[float, typer.Option(min=0.001, max=0.5, help="Highest error of the findings shown.")] = 0.05,
    delta: Annotated[float, typer.Option(min=0.001, max=0.5, help="Probability of a higher error.")] = 0.10,
    suspend: Annotated[str, typer.Option(help="Suspend all calibrations of the task for this reason instead.")] = "",
    task: Annotated[JobKind, typer.Option(help="What is calibrated.")] = JobKind.REPORT,
) -> None:
    """Certify the error of the findings that are shown as fact, or of answers, for the configured checkpoint."""
    from worker.evaluation import calibrate as calibration

    if (source is None) != bool(suspend) or (source in (Source.FINALS, Source.CASES)) != (cases is not None):
        raise typer.BadParameter("expected --from phantoms, --from finals with --cases, or --suspend")
    settings = process_settings()
    if suspend:
        console.print(f"suspended calibrations of {task}: {calibration.suspend(settings, task, suspend)}")
        return
    if task is not JobKind.REPORT:
        _calibrate_answers(settings, task, cases, count=count, seed=seed, alpha=alpha, delta=delta)
        return
    if cases is None:
        done = calibration.calibrate_on_phantoms(settings, count=count, seed=seed, alpha=alpha, delta=delta)
    else:
        done = calibration.calibrate_on_cases(settings, cases, alpha=alpha, delta=delta)
    console.print(calibration.table(done.certificate))
    console.print(done.halvings.line(), highlight=False, markup=False)
    for line in [*calibration.refusals(done.certificate), *(f"not reported: {case}" for case in done.failed)]:
        console.print(line, highlight=False, markup=False)


def _calibrate_answers(
    settings: Settings, task: JobKind, cases: Path | None, *, count: int, seed: int, alpha: float, delta: float
) -> None:
    from worker.evaluation.answers import calibrate_answers as calibration

    if cases is None:
        found = calibration.calibrate_answers_on_phantoms(
            settings, task, count=count, seed=seed, alpha=alpha, delta=delta
        )
    else:
        found = calibration.calibrate_answers_on_cases(settings, task, cases, alpha=alpha, delta=delta)
    for line in calibration.lines(found):
        console.print(line, highlight=False, markup=False)


@command()
def bootstrap(
    cases: Annotated[Path, typer.Option(help="File of studies with confirmed findings, beside their DICOM files.")],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    form: Annotated[PairForm, typer.Option("--format", help="Form of the pairs.")] = PairForm.JSONL,
) -> None:
    """Write image-text pairs for fine-tuning from studies with confirmed findings, with the configured checkpoint."""
    from worker.evaluation.bootstrap import bootstrap as bootstrapping

    done = bootstrapping.bootstrap(cases, process_settings(), out, form.value)
    console.print(
        f"{len(done.pairs)} pairs of {done.cases} studies in {out}; {len(done.hard)} for a person in hard.jsonl",
        highlight=False,
        markup=False,
    )
    for reason, count in done.reasons.most_common():
        console.print(f"{reason}: {count}", highlight=False, markup=False)


@command("gpu-removed")
def gpu_removed(
    gpu: Annotated[str, typer.Argument(metavar="GPU", help="Name of the GPU, as the alarm has it in parentheses.")],
) -> None:
    """End the alarm gpu_lost for a GPU that no worker will use again: it was removed, replaced or given away."""
    from db.errors import ConfigurationError
    from db.jobs import lost_gpus
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        if not lost_gpus.remove(session, gpu):
            known = ", ".join(each.gpu for each in lost_gpus.lost(session)) or "none"
            raise ConfigurationError(f"no worker has lost a GPU {gpu}; lost GPUs: {known}")
    console.print(f"{gpu}: removed", highlight=False)


@checkpoint_app.command("random", cls=Command)
def random_checkpoint(directory: Path, seed: int = 0) -> None:
    """Create a tiny random-weight model for smoke tests."""
    from worker.model.checkpoint import commands

    commands.random(directory, seed)


@checkpoint_app.command("convert", cls=Command)
def convert_checkpoint(
    source: Annotated[Path, typer.Argument(help="Directory in the published MedDr_0401 layout.")],
    destination: Annotated[Path, typer.Argument(help="Directory to create.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    trust_unknown: Annotated[bool, TRUST_UNKNOWN] = False,
) -> None:
    """Convert the published MedDr layout to the layout that the worker loads; an interrupted run leaves nothing."""
    from worker.model.checkpoint import commands

    commands.convert(source, destination, dtype, trust_unknown=trust_unknown)


@checkpoint_app.command("info", cls=Command)
def show_checkpoint(directory: Path) -> None:
    """Print the size of a checkpoint and the memory that it needs."""
    from worker.model.checkpoint import commands

    commands.info(directory)


@checkpoint_app.command("record", cls=Command)
def record_checkpoint(directory: Path, trust_unknown: Annotated[bool, TRUST_UNKNOWN] = False) -> None:
    """Write the manifest of a checkpoint from elsewhere or from an earlier release."""
    from worker.model.checkpoint import commands

    commands.record(directory, trust_unknown=trust_unknown)


@checkpoint_app.command("verify", cls=Command)
def verify_checkpoint(directory: Path) -> None:
    """Compare a checkpoint with its manifest, load it, score test sentences and generate a few tokens."""
    from worker.model.checkpoint import commands

    commands.verify(directory)
