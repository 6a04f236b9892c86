"""Decode DICOM files: headers, encapsulated frames, samples."""
