"""Made-up studies whose truth is known: phantoms, their reports, their DICOM files, and the checkpoint trained on them."""
