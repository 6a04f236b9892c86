"""Families of modalities: values of Modality (0008,0060) for one kind of image (PS3.3 C.7.3.1.1.1)."""

#: Projection radiographs of three generations of detectors: storage phosphor, flat panel, film. They are selected
#: together, compared with the same reference cases and described in the same words. MG, IO and PX are families of their
#: own: another body part, other views.
_FAMILIES = {"CR": "DX", "RG": "DX"}

#: Families whose images are selected by view (frontal, lateral, MLO).
PROJECTION_RADIOGRAPHS = frozenset({"DX", "IO", "PX", "MG"})


def family_of(modality: str) -> str:
    """Return the modality that stands for the family of *modality*, in upper case: DX for CR, DX and RG."""
    upper = modality.upper()
    return _FAMILIES.get(upper, upper)
