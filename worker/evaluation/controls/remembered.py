"""An object that is asked the same again for each control of a study, and answers once."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Remembered:
    """A *wrapped* object whose methods *names*, of arrays and options, compute each answer once."""

    def __init__(self, wrapped: Any, names: Collection[str]) -> None:
        self._wrapped = wrapped
        self._names = names
        self._answers: dict[tuple[str, str, str], Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._wrapped, name)
        return partial(self._answer, name, method) if name in self._names else method

    def _answer(self, name: str, method: Callable[..., Any], arrays: Any, **options: Any) -> Any:
        key = name, _digest(arrays), repr(sorted(options.items()))
        if key not in self._answers:
            self._answers[key] = method(arrays, **options)
        return self._answers[key]


def _digest(arrays: Any) -> str:
    """Return a digest of an array, or of several: of their sizes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
