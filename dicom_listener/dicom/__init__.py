"""Define the shared parts of DICOM: UIDs, statuses, the reader of encoded data sets."""
