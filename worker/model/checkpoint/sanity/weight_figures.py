"""Figures of single tensors, by which weights are checked; most are of a sample: some tensors have 10^8 values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

#: Values looked at for a distribution, and bytes for the comparison of two matrices; more would not change a verdict.
SAMPLE, FINGERPRINT_BYTES = 2**16, 2**16
#: Zeros in a row that are no chance, aligned: any run of twice as many holds one.
RUN = 32
#: Values counted at a time: a few MB.
BLOCK = 2**21
#: Values of a row by which it is compared with all others, and the fewest: quantized weights have few different ones.
KEY_VALUES, MIN_KEY_VALUES = 32, 8
#: Odd factors of the hash of these values.
_FACTORS = np.random.default_rng(0).integers(2**63, size=KEY_VALUES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
#: Rows of which the different values are counted, values of a row that is long enough, and different ones of a row that
#: was rounded to eight bits; some schemes keep a few columns as they were. In bfloat16, 2048 values of a normal
#: distribution have some 1000, of a uniform one 830.
COARSE_ROWS, COARSE_VALUES, MAX_LEVELS = 8, 2048, 320
#: Lowest mantissa bits of bfloat16 that the eight-bit floating-point formats lack, and the share of values without them
#: from which no chance remains: 1/8 is usual.
COARSE_BITS, MAX_COARSE = 0b111, 0.9


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one tensor; `matrix` is False for norms, biases and scales, whose `inputs` are 1."""

    name: str
    matrix: bool
    values: int
    rows: int
    inputs: int
    zero: float
    zero_rows: float
    zero_columns: float
    zero_block: bool
    constant: bool
    largest: float
    mean: float
    rms: float
    median: float
    near_zero: float
    #: True if the values were rounded to eight bits or fewer.
    coarse: bool
    fingerprint: str
    #: Hash of each row that is not zero; a row and its negative have the same.
    keys: npt.NDArray[np.uint64] = field(repr=False)

    @property
    def equal_rows(self) -> float:
        """Share of the rows that are equal to an earlier one, by their first values."""
        return (len(self.keys) - len(np.unique(self.keys))) / self.rows


def measure(name: str, tensor: torch.Tensor) -> Figures:
    """Return the figures of one tensor that is not empty."""
    # A class token or a scale may have leading sides of 1, and is no matrix.
    squeezed = tensor.squeeze()
    rows = squeezed.reshape(len(squeezed), -1) if squeezed.ndim > 1 else squeezed.reshape(-1, 1)
    flat = tensor.reshape(-1)
    # In NumPy: each operation of torch on so few values waits for its threads.
    values = flat[:: max(1, flat.numel() // SAMPLE)].double().numpy()
    sample = np.abs(values)
    rms = float(np.sqrt(np.square(sample).mean()))
    counted = _count(rows, constant=bool((values == values[0]).all()))
    return Figures(
        name=name,
        matrix=squeezed.ndim > 1,
        values=flat.numel(),
        rows=len(rows),
        inputs=rows.shape[1],
        zero=counted.zero / flat.numel(),
        zero_rows=counted.zero_rows / len(rows),
        zero_columns=counted.zero_columns / rows.shape[1],
        zero_block=counted.zero_block,
        constant=counted.constant,
        largest=counted.largest,
        mean=float(values.mean()),
        rms=rms,
        median=float(np.median(sample)),
        near_zero=float((sample < rms / 8).mean()),
        coarse=_is_coarse(rows, flat),
        fingerprint=_fingerprint(flat, tuple(tensor.shape)),
        keys=_keys(rows),
    )


@dataclass(slots=True)
class _Counts:
    """Numbers of zeros, of rows and columns of zeros; runs of zeros; one value; the largest absolute value."""

    zero: int = 0
    zero_rows: int = 0
    zero_columns: int = 0
    zero_block: bool = False
    constant: bool = True
    largest: float = 0.0


def _count(rows: torch.Tensor, *, constant: bool) -> _Counts:
    """Count in blocks: a mask of the largest tensor would take as much memory as half of it.

    *constant* is True if all values of a sample are equal, so that the others must be compared.
    """
    counts, first = _Counts(constant=constant), rows[0, 0]
    used = torch.zeros(rows.shape[1], dtype=torch.bool)
    for block in torch.split(rows, max(1, BLOCK // rows.shape[1])):
        _count_zeros(block, counts, used)
        counts.constant = counts.constant and bool((block == first).all())
        counts.largest = max(counts.largest, *(abs(float(end)) for end in block.aminmax()))
    counts.zero_columns = int((~used).sum())
    return counts


def _count_zeros(block: torch.Tensor, counts: _Counts, used: torch.Tensor) -> None:
    zeros = block.numel() - int(block.count_nonzero())
    counts.zero += zeros
    if zeros < min(*block.shape, RUN):
        # Too few for a row, a column or a run: a block of a trained matrix ends here.
        used.fill_(value=True)
        return
    empty = block == 0
    counts.zero_rows += int(empty.all(dim=1).sum())
    used |= ~empty.all(dim=0)
    runs = empty.reshape(-1)[: empty.numel() // RUN * RUN].reshape(-1, RUN)
    counts.zero_block = counts.zero_block or bool(runs.all(dim=1).any())


def _keys(rows: torch.Tensor) -> npt.NDArray[np.uint64]:
    """Return a hash of the first values of each row that is not zero, equal for its negative; none of short rows."""
    if rows.shape[1] < MIN_KEY_VALUES:
        return np.empty(0, np.uint64)
    values = rows[:, :KEY_VALUES].float().contiguous().numpy()
    values = values[values.any(axis=1)]
    # -0.0 and 0.0 are equal, but not their bits.
    bits = (values * np.sign(values[np.arange(len(values)), (values != 0).argmax(axis=1)])[:, None] + 0.0).view(
        np.uint32
    )
    mixed = (bits.astype(np.uint64) * _FACTORS[: bits.shape[1]]).sum(axis=1, dtype=np.uint64)
    hashed: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(32))
    return hashed


def _is_coarse(rows: torch.Tensor, flat: torch.Tensor) -> bool:
    """Return whether the values of a matrix have fewer digits than bfloat16, as after quantization."""
    values = flat[:: max(1, flat.numel() // SAMPLE)].bfloat16()
    bits = values[values != 0].view(torch.int16).numpy() & COARSE_BITS
    if len(bits) and float((bits == 0).mean()) > MAX_COARSE:
        return True
    if rows.shape[1] < COARSE_VALUES:
        return False
    looked = rows[:: max(1, len(rows) // COARSE_ROWS)][:COARSE_ROWS].float().numpy()
    return all(len(np.unique(row)) <= MAX_LEVELS for row in looked)


def _fingerprint(flat: torch.Tensor, shape: tuple[int, ...]) -> str:
    part = flat[:: max(1, flat.numel() * flat.element_size() // FINGERPRINT_BYTES)].contiguous()
    digest = hashlib.blake2b(part.view(torch.uint8).numpy().tobytes(), digest_size=16)
    return f"{shape} {digest.hexdigest()}"
