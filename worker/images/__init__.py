"""Turn DICOM objects into the images that the model receives; numpy and Pillow only, no torch."""

import logging
import warnings

# pydicom writes values of the data set, which may be patient data, to its log and warnings. Damage that matters is
# raised as Unreadable.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
