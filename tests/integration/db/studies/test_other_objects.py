from __future__ import annotations

from typing import TYPE_CHECKING

from db.session import transaction
from db.studies import lifecycle, other_objects

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals


def test_objects_that_are_no_images_are_counted_by_modality(arrivals: Arrivals) -> None:
    def named() -> list[str]:
        with transaction(arrivals.url) as session:
            return other_objects.not_images(session, lifecycle.find(session, arrivals.uid).id)

    arrivals.image()
    assert named() == []
    for modality in ("SR", "PR", "PR", "<Doe^Jane>"):
        arrivals.image(modality=modality, reportable=False)

    assert named() == ["Not read: 1 other object, 2 PR objects, 1 SR object (not images)."]
