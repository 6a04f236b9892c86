"""Send DICOM requests to other nodes: C-STORE, C-ECHO, storage commitment."""
