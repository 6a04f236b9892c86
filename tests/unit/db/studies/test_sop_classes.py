from __future__ import annotations

import pytest
from pydicom._uid_dict import UID_dictionary

from db.studies.sop_classes import _IMAGE_CLASSES, is_reportable

STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize("suffix", ["1", "1.1", "2", "2.1", "4", "6.1", "7", "20", "77.1.6", "128"])
def test_image_class_is_reportable(suffix: str) -> None:
    assert is_reportable(STORAGE + suffix)


@pytest.mark.parametrize(
    "suffix", ["66.4", "66.7", "481.1", "481.2", "88.11", "88.59", "11.1", "9.1.1", "104.1", "91.1", "30"]
)
def test_other_class_is_not_reportable(suffix: str) -> None:
    assert not is_reportable(STORAGE + suffix)


@pytest.mark.parametrize("uid", ["", "1.3.46.670589.2.3.1.1", "1.2.840.10008.5.1.4.1.1.9999"])
def test_unknown_or_private_class_is_not_reportable(uid: str) -> None:
    assert not is_reportable(uid)


def test_every_listed_class_is_an_image_class_of_the_standard() -> None:
    names = {uid: UID_dictionary[uid][0] for uid in _IMAGE_CLASSES}

    assert all("Image" in name or "Volume" in name or "Tomography" in name for name in names.values()), names
