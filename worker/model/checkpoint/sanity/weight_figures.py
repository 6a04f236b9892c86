"""Figures of single tensors, by which weights are checked; the largest has a billion values, so most are of a sample."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

#: Values looked at for a distribution, and bytes for the comparison of two matrices; more would not change a verdict.
SAMPLE, FINGERPRINT_BYTES = 2**16, 2**16
#: Zeros in a row that are no chance, aligned: any run of twice as many holds one.
RUN = 32
#: Values counted at a time: a few MB.
BLOCK = 2**21
#: Values of a row by which it is compared with all others, and the fewest: quantized weights have few different ones.
KEY_VALUES, MIN_KEY_VALUES = 32, 8


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one tensor; `matrix` is False for norms, biases and scales, whose `inputs` are 1."""

    name: str
    matrix: bool
    values: int
    inputs: int
    zero: float
    zero_rows: float
    zero_columns: float
    zero_block: bool
    equal_rows: float
    constant: bool
    largest: float
    mean: float
    rms: float
    median: float
    near_zero: float
    fingerprint: str


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
        inputs=rows.shape[1],
        zero=counted.zero / flat.numel(),
        zero_rows=counted.zero_rows / len(rows),
        zero_columns=counted.zero_columns / rows.shape[1],
        zero_block=counted.zero_block,
        equal_rows=counted.equal_rows / len(rows),
        constant=counted.constant,
        largest=float(sample.max()),
        mean=float(values.mean()),
        rms=rms,
        median=float(np.median(sample)),
        near_zero=float((sample < rms / 8).mean()),
        fingerprint=_fingerprint(flat, tuple(tensor.shape)),
    )


@dataclass(slots=True)
class _Counts:
    """Numbers of zeros, of rows and columns of zeros, and of rows equal to an earlier one; runs of zeros; one value."""

    zero: int = 0
    zero_rows: int = 0
    zero_columns: int = 0
    equal_rows: int = 0
    zero_block: bool = False
    constant: bool = True


def _count(rows: torch.Tensor, *, constant: bool) -> _Counts:
    """Count in blocks: a mask of the largest tensor would take as much memory as half of it.

    *constant* is True if all values of a sample are equal, so that the others must be compared.
    """
    counts, first = _Counts(constant=constant), rows[0, 0]
    used = torch.zeros(rows.shape[1], dtype=torch.bool)
    for block in torch.split(rows, max(1, BLOCK // rows.shape[1])):
        _count_zeros(block, counts, used)
        counts.constant = counts.constant and bool((block == first).all())
    counts.equal_rows = _equal_rows(rows)
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


def _equal_rows(rows: torch.Tensor) -> int:
    """Return the number of rows equal to an earlier one, by their first values; 0 for rows of fewer."""
    if rows.shape[1] < MIN_KEY_VALUES:
        return 0
    keys = rows[:, :KEY_VALUES].contiguous().view(torch.uint8).numpy()
    # Rows of zeros are counted as such.
    used = [key.tobytes() for key in keys if key.any()]
    return len(used) - len(set(used))


def _fingerprint(flat: torch.Tensor, shape: tuple[int, ...]) -> str:
    part = flat[:: max(1, flat.numel() * flat.element_size() // FINGERPRINT_BYTES)].contiguous()
    digest = hashlib.blake2b(part.view(torch.uint8).numpy().tobytes(), digest_size=16)
    return f"{shape} {digest.hexdigest()}"
