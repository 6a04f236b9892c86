"""Reports in the forms of an archive: a prompt quotes the same findings of each."""

from __future__ import annotations

import numpy as np
import pytest

from worker.findings.labeller import present
from worker.phantoms import grammar
from worker.phantoms.archive_reports import FORMS, archived
from worker.phantoms.cases import CATALOGUE, draw_case
from worker.prompting.quoting import quotation


@pytest.mark.parametrize("form", range(FORMS))
def test_each_form_states_the_findings_of_the_report(form: int) -> None:
    rng = np.random.default_rng(6)
    for image in CATALOGUE:
        report = grammar.write(draw_case(rng, image), rng)

        quoted = quotation(archived(report, form, rng)).text
        strict = {label.strict for label in present(quoted)}
        assert strict == {label.strict for label in present(quotation(report).text)}, quoted


def test_orders_between_the_sentences_are_not_quoted() -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        quoted = quotation(archived("Findings: Clear lungs. Impression: Left effusion.", 4, rng))
        assert quoted.suspicious
        assert quoted.text == "Left effusion."
