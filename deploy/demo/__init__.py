"""Made-up studies whose truth is known: phantoms, their reports and DICOM files, the checkpoint trained on them."""
