"""The manifest of a checkpoint: its files, its origin and its use under one digest. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.errors import ConfigurationError
from worker.model.checkpoint import file_digests
from worker.model.checkpoint.json_files import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE_NAME = "prelim.json"
#: Version of the manifest's form.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it is stored; `digest` is the hexadecimal SHA-256 over all other values."""

    values: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Digest that identifies the checkpoint."""
        return str(self.values["digest"])

    @property
    def demo(self) -> bool:
        """True if the checkpoint is for phantoms only, never for patients."""
        return bool(self.values["demo"])

    @property
    def prompt_version(self) -> str:
        """Version of the wording that the checkpoint was trained for; 2 for one that was trained for neither."""
        return str(self.values.get("prompt_version", "2"))

    @property
    def skipped(self) -> Sequence[str]:
        """Names of the checks that were skipped when it was recorded."""
        found: Sequence[str] = self.values.get("skipped") or ()
        return found

    @property
    def files(self) -> Mapping[str, file_digests.Digest]:
        """Size and SHA-256 of each file, by relative name."""
        found: Mapping[str, file_digests.Digest] = self.values["files"]
        return found


def write_manifest(directory: Path, facts: Mapping[str, Any], known: Mapping[str, str] | None = None) -> Manifest:
    """Write the manifest over the files of *directory*, replacing an existing one atomically; return it.

    *facts* must hold `demo`; *known* are SHA-256 of files that need no reading.
    """
    names = file_digests.content_files(directory, manifest=FILE_NAME)
    values = {"format": FORMAT, "demo": bool(facts["demo"]), **facts}
    values["files"] = file_digests.digests(directory, names, known or {})
    # As it will be read again: JSON has no tuples and no integer keys.
    values = json.loads(json.dumps(values))
    manifest = Manifest({**values, "digest": digest_of(values)})
    partial = directory / f".{FILE_NAME}.new"
    partial.write_text(json.dumps(manifest.values, indent=1) + "\n", encoding="utf-8")
    partial.replace(directory / FILE_NAME)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest; raises ConfigurationError if it is missing, damaged or edited."""
    values = read_json_object(directory / FILE_NAME, missing={})
    if "digest" not in values:
        raise ConfigurationError(
            f"{directory} has no manifest ({FILE_NAME} with a digest): convert the publication again, or run"
            f" `prelim checkpoint record {directory}` once"
        )
    if values.get("format") != FORMAT:
        raise ConfigurationError(
            f"{directory / FILE_NAME} has the format {values.get('format')!r}, this release reads {FORMAT}: use the"
            " release that wrote it"
        )
    if values["digest"] != digest_of(values) or not _is_complete(values):
        raise ConfigurationError(
            f"{directory / FILE_NAME} was changed: its digest does not match its values; restore it from a backup or"
            " convert the checkpoint again"
        )
    return Manifest(values)


def earlier_facts(directory: Path) -> dict[str, Any]:
    """Return the values of a prelim.json that earlier releases wrote, without a digest; empty if there is none."""
    values = read_json_object(directory / FILE_NAME, missing={})
    return {} if "digest" in values else values


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all values except `digest`, in hexadecimal, independent of their order and layout."""
    content = {name: value for name, value in values.items() if name != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_files(directory: Path, manifest: Manifest, *, everything: bool = False) -> dict[str, dict[str, int]]:
    """Compare the files with the manifest; return the identities under which they were compared.

    Files that are unchanged since they were last read are not read again, unless *everything* is set. Raises
    ConfigurationError for the first file that is missing, added or different.
    """
    present = check_sizes(directory, manifest)
    # Before the files are read: a later change of one must be noticed.
    read = file_digests.identities(directory, present)
    known = {} if everything else file_digests.remembered(directory)
    for name, expected in manifest.files.items():
        if (known.get(name) or file_digests.file_digest(directory / name)) != expected["sha256"]:
            raise changed(directory / name)
    if len(known) < len(present):
        file_digests.remember(directory, {name: entry["sha256"] for name, entry in manifest.files.items()}, read)
    return read


def check_sizes(directory: Path, manifest: Manifest) -> list[str]:
    """Compare names and sizes of the files with the manifest, without reading them; return the names.

    Raises ConfigurationError for the first file that is missing, added or of another size.
    """
    present = file_digests.content_files(directory, manifest=FILE_NAME)
    if missing := manifest.files.keys() - set(present):
        raise ConfigurationError(f"{directory / min(missing)} is missing: restore it or convert the checkpoint again")
    if added := set(present) - manifest.files.keys():
        raise ConfigurationError(
            f"{directory / min(added)} was added after the manifest was written: remove it, a loader may read it"
        )
    for name, found in file_digests.identities(directory, present).items():
        expected = manifest.files[name].get("bytes", found["bytes"])
        if found["bytes"] != expected:
            raise ConfigurationError(
                f"{directory / name} has changed since the manifest was written ({found['bytes']} of {expected} bytes):"
                " copy it again, restore it or convert the checkpoint again"
            )
    return present


def check_unchanged(directory: Path, read: Mapping[str, Mapping[str, int]]) -> None:
    """Raise ConfigurationError if a file was written or replaced since *read*, the result of `check_files`."""
    now = file_digests.identities(directory, read)
    for name, before in read.items():
        if now.get(name) != before:
            raise ConfigurationError(f"{directory / name} was changed while it was loaded: start again")


def changed(path: Path) -> ConfigurationError:
    """Return the error for a file that differs from the manifest."""
    return ConfigurationError(
        f"{path} has changed since the manifest was written: restore it or convert the checkpoint again"
    )


def _is_complete(values: Mapping[str, Any]) -> bool:
    entries = values.get("files")
    return (
        isinstance(values.get("demo"), bool)
        and isinstance(entries, dict)
        and bool(entries)
        and all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in entries.values())
    )
