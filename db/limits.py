"""Limits on the structure of a DICOM object, shared by the listener and the worker.

The listener refuses an object that exceeds them, so that the worker can read every acknowledged object. Limits on
decoding (bytes of a frame, number of frames) are in worker/images: an image beyond them is stored, and the report says
that it was left out.
"""

#: Bytes of a data set after inflation. Deflate reaches 1:1000, so 1 MB could become 1 GB; in practice only text and
#: small images are sent deflated.
MAX_INFLATED_BYTES = 256 << 20

#: Sequences and items of undefined length open at once. Structured reports reach about 20; pydicom, which reads storage
#: commitment and procedure step requests, runs out of stack near 200.
MAX_NESTING = 100

#: Elements, items and fragments of one data set; delimiters are not counted, a value of defined length counts once.
#: An enhanced object of 5000 frames has about 250 000, a million tiny ones take a second to walk.
MAX_ELEMENTS = 1_000_000
