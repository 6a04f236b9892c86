"""Turn DICOM objects into the images that the model receives; numpy and Pillow only, no torch."""

import logging
import warnings

# pydicom writes values of the data set into its log and its warnings; a value may be a patient's. What matters of a
# damaged object is raised here as Unreadable.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
