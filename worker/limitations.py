"""What a reader must know beside the words of a report: what it rests on, and how it came to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.pipeline import References, Written
    from worker.retrieval.out_of_distribution import OodResult


def basis_of(written: Written) -> str:
    """Which of the study's images the report rests on, and whether they were refused."""
    ood = written.grounding.ood
    if ood is None or not written.grounding.refused:
        return written.seen.basis
    return f"{written.seen.basis}, refused beside {ood.reference_images} reference images"


def remarks_on(written: Written, references: References) -> list[str]:
    """Sentences about the images, the text and the earlier cases, where they are not as they should be."""
    seen, answer = written.seen, written.answer
    said = seen.limitations()
    said += [f"Image {n}: {w}" for n, image in enumerate(seen.images, start=1) for w in image.warnings]
    if answer.finish_reason != "stop":
        said.append(f"The text was cut short ({answer.finish_reason}).")
    return said + _of_grounding(written, references)


def _of_grounding(written: Written, references: References) -> list[str]:
    """What a reader must know of the comparison with earlier cases."""
    ood, modality = written.grounding.ood, written.seen.modality
    if references.index is None:
        return ["Written without similar earlier cases: no reference index for this model."]
    if ood is None:
        few = f"Written without similar earlier cases: too few of {modality} in the reference index."
        return [few] if written.seen.informative else []
    limit = f"limit {ood.threshold:g}"
    if written.grounding.refused:
        strangest = f"z {min(ood.scores):.1f} to {max(ood.scores):.1f}, {limit}"
        return [
            f"Refused, not read by the model: unlike every reference image of {modality} ({strangest}).",
            "If the images are what they should be, they need a reader; PRELIM_OOD_REJECT=false ends refusing.",
        ]
    if not ood.in_distribution:
        return [
            f"Unlike the reference images of {modality} (z {min(ood.scores):.1f} or more, {limit}).",
            "Written without similar earlier cases, to be read with care.",
        ]
    return _of_the_nearest(written, ood) + [
        f"Image {number}: unlike the reference images of {modality} (z {score:.1f}, {limit});"
        " not used to find similar cases."
        for number, score in enumerate(ood.scores, start=1)
        if number - 1 not in ood.in_distribution
    ]


def _of_the_nearest(written: Written, ood: OodResult) -> list[str]:
    nearest = written.grounding.too_little
    if nearest is None:
        return []
    compared = f"{nearest:.3f}, least {ood.min_similarity:.3f}"
    return [f"Written without similar earlier cases: none of {written.seen.modality} is similar enough ({compared})."]
