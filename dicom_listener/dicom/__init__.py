"""Define what the rooms share of DICOM: UIDs, statuses, the reader of encoded data sets."""
