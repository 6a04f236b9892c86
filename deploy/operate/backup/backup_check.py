"""Checks of the doctor: backups are made and verified, no restore is unfinished, no scratch folder is left."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from db import restore_mark
from db.operations import progress
from db.operations.progress import BACKUP_SECONDS
from db.session import driver_connection
from deploy.operate.backup import scratch_folder
from deploy.operate.doctor.finding import Check, Finding, fault, not_checked, ok, warning

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

DAY = 86_400
#: Folders in which verifications are usually made, beside the data directory.
PLACES = Path(tempfile.gettempdir()), Path("/var/tmp")  # noqa: S108 - only listed


def examine_backup(installation: Installation) -> Finding:
    """Compare the ages of the last complete backup and of the last verification with their limit."""
    with installation.session() as session:
        found = progress.read(session, installation.settings.operations.alarm_seconds)
    if found.backed_up is None or found.backup_verified is None:
        if found.in_use_for is None:
            return not_checked("there is no study yet")
        return warning("no complete backup was ever made", "run `prelim backup` daily; docs/backup.md has the commands")
    made = f"the last complete backup ended {found.backed_up / DAY:.0f} days ago"
    if found.backed_up > BACKUP_SECONDS:
        return warning(made, "see the log of `prelim backup`: exit status 1 is a backup that lacks files")
    if not found.is_backup_verified or found.backup_verified > BACKUP_SECONDS:
        verified = f"the last verification was {found.backup_verified / DAY:.0f} days ago"
        return warning(
            f"{made}, and {verified if found.is_backup_verified else 'none was ever verified'}",
            "run `prelim restore FOLDER --key-file FILE --verify` weekly",
        )
    return ok(f"{made}, and one was verified {found.backup_verified / DAY:.0f} days ago")


def examine_restore(installation: Installation) -> Finding:
    """Find a restore that was interrupted."""
    with installation.session() as session:
        found = restore_mark.read(driver_connection(session))
    if found is None:
        return ok("no restore of a backup is unfinished")
    return fault(found.found, found.remedy)


def examine_scratch(installation: Installation) -> Finding:
    """Find scratch folders of verifications that were killed: they have patients' files in the clear."""
    data_dir = installation.settings.operations.data_dir.absolute()
    places = {*PLACES, data_dir, data_dir.parent}
    folders = [str(folder) for place in sorted(places) for folder in scratch_folder.abandoned(place)]
    if not folders:
        return ok("no scratch folder of a verification is left")
    return warning(f"a killed verification has left {folders[0]}", f"delete it: `rm -r {' '.join(folders)}`")


CHECKS = (
    Check("backup", "without a recent backup that was verified, a lost disk loses studies and reports", examine_backup),
    Check("restore", "a database that is half restored lacks files, or has erased patients", examine_restore),
    Check("restore_scratch", "a scratch folder has the files of patients in the clear", examine_scratch),
)
