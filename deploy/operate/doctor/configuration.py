"""The settings, the files they name, and the secrets of an installation."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from db.answers import rules
from db.environment import OLD_NAMES, old_names, variable
from db.errors import ConfigurationError
from db.settings import server_urls
from deploy.operate.doctor.finding import Check, Finding, fault, ok, warning
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings
    from deploy.operate.doctor.finding import Installation
    from dicom_listener.receive.peers import Rules

#: Characters of a password below which it can be guessed.
MIN_PASSWORD = 12
#: Bits of a mode that let other users of the machine read a file.
OTHERS, GROUP = stat.S_IROTH, stat.S_IRGRP


def examine_names(_: Installation) -> Finding:
    """Find settings given under a name of an earlier release; unknown ones are refused before."""
    old = old_names()
    if not old:
        return ok("every variable is a setting of this release")
    pairs = ", ".join(f"{variable(name)} is now {variable(OLD_NAMES[name])}" for name in old)
    return warning(f"names of an earlier release: {pairs}", "rename the variables: the next release refuses them")


def examine_rules(installation: Installation) -> Finding:
    """Read the rules of tasks."""
    path = installation.settings.study.rules
    try:
        rules.load(path)
    except ConfigurationError as error:
        return fault(str(error), "correct the file; `prelim rules check` shows what it means")
    return ok("every study gets a report (no PRELIM_RULES)" if path is None else f"{path} is valid")


def examine_peers(installation: Installation) -> Finding:
    """Read the peers file, which must admit canaries; without one, any program that reaches the port may send."""
    path = installation.settings.dicom.peers_file
    if path is None and installation.is_remote:
        return warning(
            "PRELIM_PEERS_FILE is not set: every AE title at every address may send",
            "list the modalities with their addresses in a peers file (docs/dicom.md)",
        )
    if path is None:
        return ok("no peers file; the listener is on the loopback address")
    from dicom_listener.receive.peers import read_rules  # noqa: PLC0415 - imports pynetdicom, half a second

    try:
        found = read_rules(path)
    except ConfigurationError as error:
        return fault(str(error), "correct the file; the listener keeps the last valid one, or does not start")
    if (cause := _refusal_of_canaries(installation.settings, found)) is not None:
        return warning(
            f"{path} refuses canaries: {cause}",
            "add PRELIM_CANARY as a peer and the AE title that it calls to `called`, or set PRELIM_DEMO_AE_TITLES to"
            " nothing: canaries then call PRELIM_AE_TITLE",
        )
    return ok(f"{path} lists {len(found.peers or ())} peers")


def _refusal_of_canaries(settings: Settings, rules: Rules) -> str | None:
    """Return why the listener would reject a canary, by its AE titles: from which address it comes is not known."""
    if not settings.operations.canary_seconds:
        return None
    from deploy.operate.canary import canary  # noqa: PLC0415 - imports pynetdicom, as the rules do

    called = canary.called_ae_title(settings)
    if rules.called and called not in rules.called:
        return f"they call {called}, which is not among the accepted AE titles"
    return None if rules.peers is None or canary.AE_TITLE in rules.peers else f"{canary.AE_TITLE} is not a peer"


def examine_secret_files(installation: Installation) -> Finding:
    """Find files with a password, a key or a private key that other users can read."""
    readable = {path: path.stat().st_mode for path in _secret_files(installation.settings) if path.is_file()}
    open_to_all = [path for path, mode in readable.items() if mode & OTHERS]
    if open_to_all:
        return fault(f"every user can read {open_to_all[0]}{_more(open_to_all)}", f"chmod 600 {_names(open_to_all)}")
    open_to_group = [path for path, mode in readable.items() if mode & GROUP]
    if open_to_group:
        return warning(
            f"a group can read {open_to_group[0]}{_more(open_to_group)}", f"chmod 600 {_names(open_to_group)}"
        )
    return ok(f"{len(readable)} files with secrets are readable by their owner only")


def _secret_files(settings: Settings) -> list[Path]:
    """Return the files that may hold secrets; those of /run/secrets have the modes of the container engine."""
    data, dicom, audit = settings.operations.data_dir, settings.dicom, settings.audit
    named = [*(data / "secrets").glob("*"), data / "postgres" / "password", data / "redis" / "password"]
    keys = [dicom.tls_key, dicom.tls_certificate, audit.audit_syslog_key, audit.audit_syslog_certificate]
    return [*named, settings.embedded_services, *(path for path in keys if path is not None and _has_key(path))]


def _has_key(path: Path) -> bool:
    """Return whether a file of TLS, which may be a certificate alone, has a private key."""
    return path.is_file() and b"PRIVATE KEY" in path.read_bytes()


def _more(paths: list[Path]) -> str:
    return f" and {len(paths) - 1} more files with secrets" if len(paths) > 1 else ""


def _names(paths: list[Path]) -> str:
    return " ".join(str(path) for path in paths)


def examine_access(installation: Installation) -> Finding:
    """Find a spool that other users of the machine can enter: Prelim makes it for its owner only."""
    # The folders above the target of a symbolic link decide, not those above the link.
    spool = installation.settings.spool.resolve()
    if not spool.exists():
        return ok("no spool yet: the first start creates it for its owner only")
    closed = [folder for folder in (spool, *spool.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    if closed:
        return ok(f"other users cannot enter {closed[0]}")
    return fault(f"every user can enter {spool}", f"chmod -R go-rwx {installation.settings.operations.data_dir}")


def examine_passwords(installation: Installation) -> Finding:
    """Find configured passwords that are missing or short; the generated ones are long."""
    operations = installation.settings.operations
    given = {}
    for name in ("database_url", "broker_url"):
        url = getattr(operations, name)
        if url is not None:
            given[variable(name)] = _password(url.get_secret_value())
    if operations.flower_password is not None:
        given[variable("flower_password")] = operations.flower_password.get_secret_value()
    weak = [
        f"{name} has {'a short' if password else 'no'} password"
        for name, password in given.items()
        if len(password) < MIN_PASSWORD
    ]
    if weak:
        return warning("; ".join(weak), f"use random passwords of {MIN_PASSWORD} characters or more")
    return ok(f"{len(given)} configured passwords are long; others are generated")


def _password(url: str) -> str:
    """Return the password in a URL of PostgreSQL, Redis or Sentinel; empty without one."""
    found = server_urls.sentinel(url)
    if found is not None:
        return found.password or ""
    parsed = make_url(url)
    return str(parsed.password or parsed.query.get("password", ""))


def examine_user(installation: Installation) -> Finding:
    """Report processes run by root although the data, or folders of the spool, belong to another user."""
    data = installation.settings.operations.data_dir
    if not data.exists():
        return ok(f"{data} does not exist yet: it is created by the first start, for user {os.geteuid()}")
    if not data.is_dir():
        return fault(f"{data} is not a directory", "set PRELIM_DATA_DIR to a directory")
    folder = next(filter(_is_foreign, _folders(data, Spool(installation.settings.spool))), None)
    if folder is None:
        return ok(f"user {os.geteuid()}, who runs this command, may write {data} and its spool")
    owner = folder.stat().st_uid
    return fault(
        f"{folder} belongs to user {owner}, and this command runs as user {os.geteuid()}",
        f"run Prelim as user {owner}, or `chown -R {os.geteuid()} {folder}` while it is stopped;"
        " an NFS export must not map root to nobody (no_root_squash)",
    )


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder is that of another user, and its group does not let this one write.

    Kubernetes gives a volume to root and to the group of the pod (fsGroup). Files that root writes are root's own.
    """
    found, user = folder.stat(), os.geteuid()
    of_group = (
        found.st_gid in {os.getegid(), *os.getgroups()} and stat.S_IMODE(found.st_mode) & stat.S_IRWXG == stat.S_IRWXG
    )
    return found.st_uid != user and (user == 0 or not of_group)


def _folders(data: Path, spool: Spool) -> Iterator[Path]:
    """Yield the folders that the processes write to, those above first: another user's cannot be entered."""
    yield data
    yield from (folder for folder in (spool.root, spool.store, spool.quarantine) if folder.exists())
    for slot in spool.slots():
        yield from (folder for folder in (slot.root, *slot.folders) if folder.exists())


CHECKS = (
    Check("settings", "a misspelt setting has no effect", examine_names),
    Check("rules", "the rules decide which studies get a report", examine_rules),
    Check("peers", "an AE title proves nothing: only the address limits who may send", examine_peers),
    Check("secret_files", "who reads a password or key can read every patient's data", examine_secret_files),
    Check("data_access", "the files of the spool are those of patients", examine_access),
    Check("passwords", "a short password can be guessed by any program in the network", examine_passwords),
    Check("data_owner", "a process cannot write the files of another user", examine_user),
)
