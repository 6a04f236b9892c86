"""Make a snapshot from the previous one: cases added, or removed."""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from db.studies.modalities import family_of
from worker.retrieval.families import Family, Partition, case_vector, fit_family
from worker.retrieval.snapshot import SET_ASIDE, appearing, archive_beside, read_family, read_manifest, write_families

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
    and reason of cases that are named in the figures instead.
    """
    manifest, archive = read_manifest(previous, model_digest), archive_beside(directory, model_digest)
    of_family: dict[str, list[ArchivedCase]] = defaultdict(list)
    for case in cases:
        of_family[family_of(case.case.modality)].append(case)
        archive.write(case)
    changed = {}
    for name, added in of_family.items():
        entry = manifest["modalities"].get(name)
        family = read_family(previous, entry, changed=True) if entry else Family(None)
        changed[name] = _with_cases(family, added, archive)
    known = manifest["figures"].get(SET_ASIDE, {})
    left = {case_id: reason for case_id, reason in known.items() if case_id not in {c.case.case_id for c in cases}}
    manifest["figures"] = manifest["figures"] | {SET_ASIDE: left | dict(set_aside)}
    _write(previous, directory, manifest, changed)


def _with_cases(family: Family, cases: Sequence[ArchivedCase], archive: CaseArchive) -> Family:
    added = {case.case.case_id: case for case in cases}
    if family.stats is None:
        return fit_family(archive, [*(known for known in family.unindexed if known not in added), *added])
    parts = {name: part.without(added) for name, part in family.partitions.items()}
    of_part: dict[str, list[ArchivedCase]] = defaultdict(list)
    for case in cases:
        of_part[case.case.body_part].append(case)
    for name, members in of_part.items():
        vectors = np.stack([case_vector(case.tokens, family.stats) for case in members])
        parts[name] = parts[name].with_cases(members, vectors) if name in parts else Partition.of(members, vectors)
    return Family(family.stats, family.min_similarity, _with_rows(parts))


def remove_cases(previous: Path, directory: Path, case_ids: Collection[str], *, model_digest: str) -> list[str]:
    """Write the snapshot *directory*: *previous* without cases, under its statistics.

    Returns the families that held one; without any, no snapshot is written.
    """
    manifest, archive = read_manifest(previous, model_digest), archive_beside(directory, model_digest)
    changed, gone = {}, set(case_ids)
    for name, entry in manifest["modalities"].items():
        family = read_family(previous, entry, changed=True)
        if gone.isdisjoint(family.case_ids()):
            continue
        if family.stats is None:
            changed[name] = fit_family(archive, [known for known in family.unindexed if known not in gone])
        else:
            parts = {part: cases.without(gone) for part, cases in family.partitions.items()}
            changed[name] = Family(family.stats, family.min_similarity, _with_rows(parts))
    if changed:
        _write(previous, directory, manifest, changed)
    return sorted(changed)


def refit(previous: Path, directory: Path, families: Sequence[str], *, model_digest: str) -> None:
    """Write the snapshot *directory*: *previous* with the statistics of *families* fitted again to their cases."""
    manifest, archive = read_manifest(previous, model_digest), archive_beside(directory, model_digest)
    entries = manifest["modalities"]
    cases = {name: read_family(previous, entries[name]).case_ids() for name in families if name in entries}
    _write(previous, directory, manifest, {name: fit_family(archive, known) for name, known in cases.items()})


def _with_rows(parts: dict[str, Partition]) -> dict[str, Partition]:
    return {name: part for name, part in parts.items() if len(part.rows)}


def _write(previous: Path, directory: Path, manifest: dict[str, object], changed: dict[str, Family]) -> None:
    entries: dict[str, object] = manifest["modalities"]  # type: ignore[assignment]
    with appearing(directory) as partial:
        write_families(
            partial,
            {name: family for name, family in changed.items() if family.case_ids()},
            model_digest=str(manifest["model_digest"]),
            figures=manifest["figures"],  # type: ignore[arg-type]
            unchanged={name: entry for name, entry in entries.items() if name not in changed},
            previous=previous,
        )
