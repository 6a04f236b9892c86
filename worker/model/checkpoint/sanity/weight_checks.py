"""Checks of single weights and of weights beside each other: values that no training leaves behind.

Each check has a name, and finds a problem in the figures of one tensor. The bounds are wide: a trained or a random
matrix is far inside, a wrong dtype, a zeroed block or an untrained adapter far outside.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from worker.model.checkpoint.sanity.weight_figures import measure
from worker.model.checkpoint.sanity.weight_scales import LAYER_SCALE, NORM, scale_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from worker.model.checkpoint.sanity.weight_figures import Figures

#: Matrices with fewer values can be equal, constant or zero by chance.
MIN_VALUES = 64
#: Share of a matrix that may be exactly zero, and of its rows that may be zero or equal to an earlier one. Rows of an
#: embedding that were added together are equal, and its padding is zero.
MAX_ZERO, MAX_EQUAL_ROWS = 0.05, 0.05
#: Largest absolute value of a weight: outliers of large vision towers have some hundreds.
MAX_VALUE = 1e4
#: Least root mean square of a matrix; no step of a training could have changed it.
MIN_RMS = 1e-7
#: Least ratio of the median to the root mean square of absolute values: .67 for a normal distribution. Numbers read in
#: a format with another exponent are spread over many powers of ten.
MIN_MEDIAN = 0.01
#: Least share of values below an eighth of the root mean square: .10 for a normal distribution, .07 for a uniform one.
#: bfloat16 read as float16 has hardly any value near zero.
MIN_NEAR_ZERO = 0.01
#: Largest ratio of a matrix's root mean square to the median of the same matrices in other layers; of a norm, which
#: grows with the depth of a trained model.
MAX_RATIO, MAX_NORM_RATIO = 32.0, 1000.0
#: Largest share of an adapter's update that its weight contains, as the median of at least some layers; 1 if it was
#: merged before. A training adds directions that the weight hardly has: Hu et al. 2021 (LoRA, section 7.3) found .05
#: for a weight of GPT-3 at rank 4. The parity fixture has .00; MedDr_0401 was not measured.
MAX_OVERLAP, MIN_ADAPTERS = 0.75, 4
#: Names whose rows are tokens.
_TOKENS = re.compile(r"(embed_tokens|lm_head)\.weight$")
_LORA = re.compile(r"\.lora_[AB](\.default)?\.weight$")
_LAYER = re.compile(r"\.(layers?)\.\d+\.")


@dataclass(frozen=True, slots=True)
class Check:
    """A named check; *problem* completes "NAME ..." for a tensor that *applies* selects."""

    name: str
    applies: Callable[[Figures], bool]
    found: Callable[[Figures], bool]
    problem: str


def _is_matrix(tensor: Figures) -> bool:
    return tensor.matrix and tensor.values >= MIN_VALUES


def _is_full(tensor: Figures) -> bool:
    """Return whether a matrix passes the checks for zeros; the others need not be repeated."""
    return _is_matrix(tensor) and tensor.zero <= MAX_ZERO and not tensor.constant


def _is_scale(tensor: Figures) -> bool:
    return not tensor.matrix and not tensor.name.endswith("bias")


def _is_norm(tensor: Figures) -> bool:
    return not tensor.matrix and bool(NORM.search(tensor.name))


def _is_layer_scale(tensor: Figures) -> bool:
    return bool(LAYER_SCALE.search(tensor.name))


CHECKS = (
    Check(
        "adapter", lambda t: bool(_LORA.search(t.name)), lambda t: t.zero == 1, "is zero: its adapter was never trained"
    ),
    Check("zero", _is_matrix, lambda t: t.zero == 1, "is zero"),
    Check("zero", _is_scale, lambda t: t.zero > MAX_ZERO, "is zero in part, and would suppress what it scales"),
    Check("sign", _is_norm, lambda t: t.mean < 0, "is negative on average, and would invert what it scales"),
    # A channel of a layer scale may change its sign in training, most of them cannot.
    Check(
        "sign",
        _is_layer_scale,
        lambda t: t.mean < -t.rms / 2,
        "is negative on average, and would invert what it scales",
    ),
    Check("constant", _is_matrix, lambda t: t.constant and t.zero < 1, "has the same value everywhere"),
    Check("zeros", _is_matrix, lambda t: MAX_ZERO < t.zero < 1, "is zero in part, as after a truncated download"),
    Check(
        "rows",
        _is_full,
        lambda t: t.zero_rows > (MAX_ZERO if _TOKENS.search(t.name) else 0.0),
        "has rows of zeros, as after a truncated download",
    ),
    Check(
        "columns",
        _is_full,
        lambda t: t.zero_columns > 0 or (t.zero_block and not _TOKENS.search(t.name)),
        "has columns or blocks of zeros, as after a truncated download",
    ),
    Check("rows", _is_full, lambda t: t.equal_rows > MAX_EQUAL_ROWS, "repeats rows"),
    Check("size", _is_full, lambda t: t.rms < MIN_RMS, f"has values below {MIN_RMS:g} only"),
    Check("size", lambda t: True, lambda t: t.largest > MAX_VALUE, f"has values above {MAX_VALUE:g}"),  # noqa: ARG005 - the protocol's argument
    # A norm may be untrained, of ones; a bias is then zero.
    Check(
        "constant",
        lambda t: t.values >= MIN_VALUES and t.name.endswith("bias"),
        lambda t: t.constant and t.zero < 1,
        "has the same value everywhere",
    ),
    Check(
        "dtype",
        _is_full,
        lambda t: t.median < MIN_MEDIAN * t.rms,
        "has values of very different size, as if another number format was read",
    ),
    Check("coarse", _is_full, lambda t: t.coarse, "has values of few digits, as after quantization to eight bits"),
    Check(
        "dtype",
        _is_full,
        lambda t: t.near_zero < MIN_NEAR_ZERO,
        "has no values near zero, as if another number format was read",
    ),
)


@dataclass(slots=True)
class WeightChecks:
    """Collects the problems of tensors as they are read; `problems` are sentences, the first of each check only."""

    figures: dict[str, Figures] = field(default_factory=dict)
    overlaps: list[float] = field(default_factory=list)

    def look(self, name: str, tensor: torch.Tensor) -> None:
        """Take the figures of one tensor, once."""
        if name not in self.figures and tensor.numel():
            self.figures[name] = measure(name, tensor)

    def look_adapted(self, tensor: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        """Take the share of an adapter's update, *scale* x *up* x *down*, that a weight already contains."""
        size = scale * float(((up.T @ up) * (down @ down.T)).sum())
        if size > 0:
            self.overlaps.append(float(((up.T @ tensor.float()) * down).sum()) / size)

    def problems(self) -> list[tuple[str, str]]:
        """Return name of the check and sentence for each kind of problem."""
        found: dict[str, str] = {}
        for check, sentence in [
            *self._single(),
            *self._equal(),
            *self._shared_rows(),
            *self._outliers(),
            *self._scales(),
            *self._merged(),
        ]:
            found.setdefault(check, sentence)
        return list(found.items())

    def _single(self) -> Iterator[tuple[str, str]]:
        for tensor in self.figures.values():
            for check in CHECKS:
                if check.applies(tensor) and check.found(tensor):
                    yield check.name, f"{tensor.name} {check.problem}"
                    break

    def _equal(self) -> Iterator[tuple[str, str]]:
        """Yield pairs of equal matrices: a copied layer, or an output layer that was replaced by the embeddings."""
        seen: dict[str, str] = {}
        for tensor in filter(_is_full, self.figures.values()):
            other = seen.setdefault(tensor.fingerprint, tensor.name)
            if other != tensor.name:
                yield "equal", f"{tensor.name} and {other} are equal"

    def _shared_rows(self) -> Iterator[tuple[str, str]]:
        """Yield matrices with many rows of another one, such as a layer that was copied in part or negated."""
        matrices = [tensor for tensor in self.figures.values() if _is_full(tensor) and len(tensor.keys)]
        owners = np.repeat(np.arange(len(matrices)), [len(tensor.keys) for tensor in matrices])
        keys = np.concatenate([tensor.keys for tensor in matrices]) if matrices else owners
        order = np.argsort(keys, kind="stable")
        shared = np.flatnonzero((np.diff(keys[order]) == 0) & (np.diff(owners[order]) > 0))
        pairs = np.stack([owners[order][shared + 1], owners[order][shared]], axis=1)
        for (one, other), count in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
            if count > MAX_EQUAL_ROWS * matrices[one].rows:
                yield "rows", f"{matrices[one].name} repeats rows of {matrices[other].name}"

    def _merged(self) -> Iterator[tuple[str, str]]:
        """Yield a sentence if the weights already contain their adapters, or had them subtracted."""
        share = median(self.overlaps) if len(self.overlaps) >= MIN_ADAPTERS else 0.0
        if abs(share) > MAX_OVERLAP:
            yield "merged", f"the weights contain {share:.1f} times their adapters before these are merged"

    def _scales(self) -> Iterator[tuple[str, str]]:
        for tensor in self.figures.values():
            if (not tensor.matrix or _is_full(tensor)) and (problem := scale_problem(tensor)):
                yield "scale", f"{tensor.name} {problem}"

    def _outliers(self) -> Iterator[tuple[str, str]]:
        layers: dict[str, list[Figures]] = defaultdict(list)
        for tensor in self.figures.values():
            if (_is_full(tensor) or _is_norm(tensor)) and _LAYER.search(tensor.name):
                layers[_LAYER.sub(r".\1.*.", tensor.name)].append(tensor)
        for same in layers.values():
            usual = median(tensor.rms for tensor in same)
            for tensor in same:
                limit = MAX_RATIO if tensor.matrix else MAX_NORM_RATIO
                if not usual / limit <= tensor.rms <= usual * limit:
                    yield "scale", f"{tensor.name} is {tensor.rms / usual:.2g} times as large as in the other layers"
