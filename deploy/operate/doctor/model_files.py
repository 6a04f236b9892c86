"""The files of the checkpoint: present, unchanged, for patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import ConfigurationError
from deploy.operate.doctor.finding import Check, Finding, fault, not_checked, ok, warning
from worker.model.checkpoint import file_digests
from worker.model.checkpoint.manifest import FILE_NAME, check_files, check_sizes, read_manifest

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

#: Bytes that are read to compare digests; a larger checkpoint is read by `prelim checkpoint verify`.
MAX_READ_BYTES = 64 << 20


def examine_checkpoint(installation: Installation) -> Finding:
    """Require a model in the directory of the settings."""
    directory = installation.settings.checkpoint_directory
    if (directory / "config.json").is_file():
        return ok(f"a checkpoint is in {directory}")
    return fault(
        f"no checkpoint in {directory}",
        f"convert the published model with `prelim checkpoint convert SOURCE {directory}`,"
        " set PRELIM_CHECKPOINT to another directory,"
        f" or create a random-weight model for smoke tests with `prelim checkpoint random {directory}`",
    )


def examine_digest(installation: Installation) -> Finding:
    """Compare the files with the manifest, without reading large ones again."""
    directory = installation.settings.checkpoint_directory
    if not directory.is_dir():
        return not_checked("there is no checkpoint")
    try:
        manifest = read_manifest(directory)
        check_sizes(directory, manifest)
        names = file_digests.content_files(directory, manifest=FILE_NAME)
        unread = [name for name in names if name not in file_digests.remembered(directory)]
        if sum((directory / name).stat().st_size for name in unread) > MAX_READ_BYTES:
            return not_checked(
                f"{len(unread)} large files were not read since they were written:"
                f" `prelim checkpoint verify {directory}` reads them"
            )
        check_files(directory, manifest)
    except ConfigurationError as error:
        return fault("the checkpoint is damaged or incomplete", str(error))
    return ok(f"the files have the digest {manifest.digest[:12]}")


def examine_use(installation: Installation) -> Finding:
    """Report a checkpoint that must not be used for patients."""
    try:
        manifest = read_manifest(installation.settings.checkpoint_directory)
    except ConfigurationError:
        return not_checked("there is no valid manifest")
    if manifest.demo:
        return warning(
            "the checkpoint is for phantoms only",
            "convert the published model; studies not sent to PRELIM_DEMO_AE_TITLES get no report",
        )
    if manifest.skipped:
        return warning(
            f"checks of the checkpoint were skipped: {', '.join(manifest.skipped)}",
            "convert it without `--trust-unknown`; every report names them",
        )
    return ok("the checkpoint is for patients, and no check was skipped")


CHECKS = (
    Check("checkpoint", "a worker without a model does not start", examine_checkpoint),
    Check("checkpoint_digest", "changed weights write other reports than those that were validated", examine_digest),
    Check("checkpoint_use", "a demo model knows phantoms, not patients", examine_use),
)
