"""Generate synthetic studies: cases, reports and DICOM files."""
