"""Windows, and those of a header (PS3.3 C.11.2.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset

if TYPE_CHECKING:
    from worker.images.decode.header import Header

#: Magnitude of a slope, intercept or window above which it is an error, and arithmetic on it overflows.
MAX_MAGNITUDE = 1e30
_FUNCTIONS = frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"})


@dataclass(frozen=True, slots=True)
class Window:
    """Window in the units of the modality LUT's output: Hounsfield units for CT."""

    center: float
    width: float
    function: str = "LINEAR"
    name: str = ""
    #: Origin for the recorded transform.
    source: str = "window"

    @classmethod
    def between(cls, low: float, high: float) -> Window:
        """Return the window that maps *low* to black and *high* to white."""
        return cls((low + high + 1) / 2, high - low + 1)

    def level_of(self, value: float) -> float:
        """Return the level, from 0 to 255, of a value in a linear window."""
        return 255 * min(1.0, max(0.0, (value - self.center) / self.width + 0.5))

    def as_voi(self) -> Dataset:
        """Return a VOI LUT module of this window alone, for which pydicom returns levels from 0 to 255."""
        voi = Dataset()
        voi.PhotometricInterpretation = "MONOCHROME2"
        voi.BitsStored = 8
        voi.PixelRepresentation = 0
        voi.WindowCenter = self.center
        voi.WindowWidth = self.width
        voi.VOILUTFunction = self.function
        return voi

    def recorded(self) -> dict[str, Any]:
        """Return the window for the recorded transform."""
        named = {"window": self.name} if self.name else {}
        return {"center": self.center, "width": self.width, "function": self.function, **named}


def header_windows(header: Header) -> list[Window]:
    """Return the windows of an object, without those that cannot be applied."""
    function = header.text("VOILUTFunction").upper()
    function = function if function in _FUNCTIONS else "LINEAR"
    min_width = 1.0 if function == "LINEAR" else 1e-6
    pairs = zip_longest(header.numbers("WindowCenter"), header.numbers("WindowWidth"))
    known = ((center, width) for center, width in pairs if center is not None and width is not None)
    return [Window(c, w, function) for c, w in known if abs(c) <= MAX_MAGNITUDE and min_width <= w <= MAX_MAGNITUDE]
