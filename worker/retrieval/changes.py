"""Make a snapshot from the previous one: cases added, or removed."""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from db.studies.modalities import family_of
from worker.retrieval.families import Family, Partition, case_vector, fit_family
from worker.retrieval.snapshot import (
    SET_ASIDE,
    TO_REFIT,
    appearing,
    archive_beside,
    read_family,
    read_manifest,
    write_families,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from worker.retrieval.archive import ArchivedCase, CaseArchive


def add_cases(
    previous: Path,
    directory: Path,
    cases: Sequence[ArchivedCase],
    *,
    model_digest: str,
    set_aside: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the snapshot *directory*: *previous* and *cases*, under its statistics.

    A family that could not be searched before is fitted. A case that is there already is replaced. *set_aside* has id
    and reason of cases that are named in the figures instead of being indexed.
    """
    manifest, archive = read_manifest(previous, model_digest), archive_beside(directory, model_digest)
    of_family: dict[str, list[ArchivedCase]] = defaultdict(list)
    for case in cases:
        name = family_of(case.case.modality)
        # Each case that was there has a view, or enough others have.
        archive.write(case.beside(_cases_of(manifest, name) + len(of_family[name])))
        of_family[name].append(case)
    gone = {*set_aside, *(case.case.case_id for case in cases)}
    # In every family: a case may come again with another modality.
    changed = _without(previous, manifest, gone, archive)
    for name, added in of_family.items():
        entry = manifest["modalities"].get(name)
        family = changed.get(name) or (read_family(previous, entry, changed=True) if entry else Family(None))
        changed[name] = _with_cases(family, added, archive)
    manifest["figures"] |= {SET_ASIDE: _not_named(manifest, gone) | dict(set_aside)}
    _write(previous, directory, manifest, changed)


def _cases_of(manifest: dict[str, Any], name: str) -> int:
    return sum(part["cases"] for part in manifest["modalities"].get(name, {"parts": ()})["parts"])


def _with_cases(family: Family, cases: Sequence[ArchivedCase], archive: CaseArchive) -> Family:
    if family.stats is None:
        return fit_family(archive, [*family.unindexed, *(case.case.case_id for case in cases)])
    parts = dict(family.partitions)
    of_part: dict[str, list[ArchivedCase]] = defaultdict(list)
    for case in cases:
        of_part[case.case.body_part].append(case)
    for name, members in of_part.items():
        vectors = np.stack([case_vector(case.tokens, family.stats) for case in members])
        parts[name] = parts[name].with_cases(members, vectors) if name in parts else Partition.of(members, vectors)
    return Family(family.stats, family.min_similarity, _with_rows(parts))


def remove_cases(previous: Path, directory: Path, case_ids: Collection[str], *, model_digest: str) -> bool:
    """Write the snapshot *directory*: *previous* without cases, under its statistics, which are then `to_refit`.

    Returns False, and writes nothing, if *previous* does not name any of the cases.
    """
    manifest, gone = read_manifest(previous, model_digest), set(case_ids)
    changed = _without(previous, manifest, gone, archive_beside(directory, model_digest))
    set_aside = _not_named(manifest, gone)
    if not changed and set_aside == manifest["figures"].get(SET_ASIDE, {}):
        return False
    manifest["figures"] |= {SET_ASIDE: set_aside}
    manifest[TO_REFIT] = {*manifest.get(TO_REFIT, ()), *changed}
    _write(previous, directory, manifest, changed)
    return True


def to_refit(directory: Path, *, model_digest: str) -> list[str]:
    """Return the families of a snapshot whose statistics have a share of erased cases."""
    manifest = read_manifest(directory, model_digest)
    return [name for name in manifest.get(TO_REFIT, ()) if name in manifest["modalities"]]


def _without(previous: Path, manifest: dict[str, Any], gone: set[str], archive: CaseArchive) -> dict[str, Family]:
    """Return the families that held one of the cases *gone*, without them."""
    changed = {}
    for name, entry in manifest["modalities"].items():
        family = read_family(previous, entry, changed=True)
        if gone.isdisjoint(family.case_ids()):
            continue
        if family.stats is None:
            changed[name] = fit_family(archive, [known for known in family.unindexed if known not in gone])
        else:
            parts = {part: cases.without(gone) for part, cases in family.partitions.items()}
            changed[name] = Family(family.stats, family.min_similarity, _with_rows(parts))
    return changed


def _not_named(manifest: dict[str, Any], gone: set[str]) -> dict[str, str]:
    """Return id and reason of the cases that were set aside, without those *gone*."""
    known = manifest["figures"].get(SET_ASIDE, {})
    return {case_id: reason for case_id, reason in known.items() if case_id not in gone}


def refit(previous: Path, directory: Path, families: Sequence[str], *, model_digest: str) -> None:
    """Write the snapshot *directory*: *previous* with the statistics of *families* fitted again to their cases."""
    manifest, archive = read_manifest(previous, model_digest), archive_beside(directory, model_digest)
    entries = manifest["modalities"]
    cases = {name: read_family(previous, entries[name]).case_ids() for name in families if name in entries}
    manifest[TO_REFIT] = {*manifest.get(TO_REFIT, ())} - {*families}
    _write(previous, directory, manifest, {name: fit_family(archive, known) for name, known in cases.items()})


def _with_rows(parts: dict[str, Partition]) -> dict[str, Partition]:
    return {name: part for name, part in parts.items() if len(part.rows)}


def _write(previous: Path, directory: Path, manifest: dict[str, Any], changed: dict[str, Family]) -> None:
    entries = manifest["modalities"]
    with appearing(directory) as partial:
        write_families(
            partial,
            {name: family for name, family in changed.items() if family.case_ids()},
            model_digest=manifest["model_digest"],
            figures=manifest["figures"],
            unchanged={name: entry for name, entry in entries.items() if name not in changed},
            previous=previous,
            to_refit=manifest.get(TO_REFIT, ()),
        )
