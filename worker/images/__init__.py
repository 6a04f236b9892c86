"""From DICOM objects to the pictures the model sees; numpy and PIL only, no torch."""
