"""Send a phantom study through the real DICOM port at intervals, and expect its report."""
