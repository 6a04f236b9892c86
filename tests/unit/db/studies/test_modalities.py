"""Families of modalities are the same for selection, retrieval and prompts."""

from __future__ import annotations

import pytest

from db.studies.modalities import PROJECTION_RADIOGRAPHS, family_of


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "rg"])
def test_radiographs_of_every_detector_are_one_family(modality: str) -> None:
    assert family_of(modality) == "DX"


@pytest.mark.parametrize("modality", ["MG", "IO", "PX", "XA", "RF", "CT", "OT", ""])
def test_every_other_modality_is_its_own_family(modality: str) -> None:
    assert family_of(modality) == modality


def test_views_are_selected_for_families_only() -> None:
    assert {family_of(modality) for modality in PROJECTION_RADIOGRAPHS} == PROJECTION_RADIOGRAPHS
