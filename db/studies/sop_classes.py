"""SOP classes of images that can be reported."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

_IMAGE_CLASSES = frozenset(
    _STORAGE + suffix
    for suffix in (
        "1",  # Computed Radiography
        "1.1",  # Digital X-Ray, for presentation
        "1.1.1",  # Digital X-Ray, for processing
        "1.2",  # Digital Mammography, for presentation
        "1.2.1",  # Digital Mammography, for processing
        "1.3",  # Digital Intra-Oral X-Ray, for presentation
        "1.3.1",  # Digital Intra-Oral X-Ray, for processing
        "2",  # CT
        "2.1",  # Enhanced CT
        "2.2",  # Legacy Converted Enhanced CT
        "3",  # Ultrasound Multi-frame (retired)
        "3.1",  # Ultrasound Multi-frame
        "4",  # MR
        "4.1",  # Enhanced MR
        "4.3",  # Enhanced MR Color
        "4.4",  # Legacy Converted Enhanced MR
        "5",  # Nuclear Medicine (retired)
        "6",  # Ultrasound (retired)
        "6.1",  # Ultrasound
        "6.2",  # Enhanced US Volume
        "6.3",  # Photoacoustic
        "7",  # Secondary Capture
        "7.1",  # Multi-frame Single Bit Secondary Capture
        "7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "7.3",  # Multi-frame Grayscale Word Secondary Capture
        "7.4",  # Multi-frame True Color Secondary Capture
        "12.1",  # X-Ray Angiographic
        "12.1.1",  # Enhanced XA
        "12.2",  # X-Ray Radiofluoroscopic
        "12.2.1",  # Enhanced XRF
        "12.3",  # X-Ray Angiographic Bi-Plane (retired)
        "13.1.1",  # X-Ray 3D Angiographic
        "13.1.2",  # X-Ray 3D Craniofacial
        "13.1.3",  # Breast Tomosynthesis
        "13.1.4",  # Breast Projection X-Ray, for presentation
        "13.1.5",  # Breast Projection X-Ray, for processing
        "14.1",  # Intravascular OCT, for presentation
        "14.2",  # Intravascular OCT, for processing
        "20",  # Nuclear Medicine
        "77.1",  # VL Image (trial, retired)
        "77.2",  # VL Multi-frame Image (trial, retired)
        "77.1.1",  # VL Endoscopic
        "77.1.1.1",  # Video Endoscopic: not reportable, with the reason `video`
        "77.1.2",  # VL Microscopic
        "77.1.2.1",  # Video Microscopic
        "77.1.3",  # VL Slide-Coordinates Microscopic
        "77.1.4",  # VL Photographic
        "77.1.4.1",  # Video Photographic
        "77.1.5.1",  # Ophthalmic Photography 8 Bit
        "77.1.5.2",  # Ophthalmic Photography 16 Bit
        "77.1.5.4",  # Ophthalmic Tomography
        "77.1.5.5",  # Wide Field Ophthalmic Photography Stereographic Projection
        "77.1.5.6",  # Wide Field Ophthalmic Photography 3D Coordinates
        "77.1.5.7",  # Ophthalmic OCT En Face
        "77.1.6",  # VL Whole Slide Microscopy
        "77.1.7",  # Dermoscopic Photography
        "77.1.8",  # Confocal Microscopy
        "77.1.9",  # Confocal Microscopy Tiled Pyramidal
        "128",  # Positron Emission Tomography
        "128.1",  # Legacy Converted Enhanced PET
        "130",  # Enhanced PET
    )
)


def is_reportable(sop_class_uid: str) -> bool:
    """Return whether *sop_class_uid* is an image a radiologist would read; other objects are only stored.

    An allow list: SEG, RT images and doses, maps and private classes also carry pixels, and an unknown class must not
    start a report. UIDs: DICOM PS3.4 B.5 and PS3.6 A.
    """
    return sop_class_uid in _IMAGE_CLASSES
