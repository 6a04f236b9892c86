"""Limits on the structure of a DICOM object, shared by the listener and the worker.

The listener refuses what exceeds them, so that an acknowledged object is never unreadable for the worker. What an image
may cost to decode (bytes of a frame, number of frames) is limited in worker/images: such an object is stored like any
other, and the report names the image that was left out.
"""

from __future__ import annotations

#: Bytes a deflated data set may grow to. Deflate reaches 1:1000, so 1 MB could become 1 GB; what is sent deflated in
#: practice is text and small images.
MAX_INFLATED_BYTES = 256 << 20

#: Sequences and items of undefined length open at once. Structured reports reach about 20; pydicom, which reads storage
#: commitment and procedure step requests, runs out of stack near 200.
MAX_NESTING = 100

#: Elements, items and fragments of one data set; delimiters are not counted, a value of defined length counts once.
#: An enhanced object of 5000 frames has about 250 000, a million tiny ones take a second to walk.
MAX_ELEMENTS = 1_000_000
