"""Verify the audit log of the API, and export it as DICOM audit messages or FHIR AuditEvents."""
