"""Answers that are computed once for equal arrays and options."""

from __future__ import annotations

import numpy as np

from worker.evaluation.controls.remembered import Remembered


class Counting:
    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def total(self, arrays: list[np.ndarray], *, factor: int = 1) -> float:
        self.calls += 1
        return float(sum(array.sum() for array in arrays)) * factor


def test_equal_arrays_and_options_are_answered_once_and_others_again() -> None:
    counting = Counting()
    remembered = Remembered(counting, {"total"})

    assert remembered.total([np.ones(3)]) == remembered.total([np.ones(3)]) == 3
    assert counting.calls == 1
    assert remembered.total([np.ones(3)], factor=2) == 6
    assert remembered.total([np.ones((3, 1))]) == 3
    assert counting.calls == 3
    assert remembered.name == "counting"
