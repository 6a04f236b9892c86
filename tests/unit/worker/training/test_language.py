"""Groups of examples: trained together, each has the loss that it has alone."""

from __future__ import annotations

import torch

from worker.training.architecture import IMAGE_TOKENS, WIDTH, build_model, build_tokenizer
from worker.training.language import Encoder, Example, _loss, padded

TEXTS = ["user\nassistant\nIs there a nodule or an effusion? Left. Findings: None. Impression: None."]


def test_examples_of_a_group_do_not_see_each_other() -> None:
    tokenizer = build_tokenizer(TEXTS)
    torch.manual_seed(3)
    model, encoder = build_model(tokenizer), Encoder(tokenizer)
    cached = torch.randn(2, IMAGE_TOKENS, 4 * WIDTH)
    examples = [
        Example((0,), "Is there a nodule?", "Left."),
        Example((0,), "Is there an effusion?", "None."),
        Example((0,), "Is there a nodule?", " Impression: None.", given="Findings: None."),
    ]

    def loss(*groups: list[Example]) -> float:
        encoded = [encoder.group(group) for group in groups]
        batch = padded(encoded)
        wanted = batch.weights[batch.targets >= 0].sum()
        return float(_loss(model, cached, encoded, encoder.image_id).detach() * wanted)

    together = loss(examples, [Example((1,), "Is there a nodule or an effusion?", "Left.")])
    alone = sum(loss([one]) for one in [*examples, Example((1,), "Is there a nodule or an effusion?", "Left.")])
    assert abs(together - alone) <= 1e-3 * alone


def test_beginning_of_an_answer_that_is_given_has_no_loss() -> None:
    encoder = Encoder(build_tokenizer(TEXTS))
    group = encoder.group([Example((0,), "Is there a nodule?", " Impression: None.", given="Findings: None.")])

    targets = padded([group]).targets
    assert targets[targets >= 0].tolist() == encoder.answer(" Impression: None.")


def test_a_short_answer_is_not_outweighed_by_a_report_beside_it() -> None:
    encoder = Encoder(build_tokenizer(TEXTS))
    answers = ["Left.", "Findings: None. Impression: None. " * 20]
    batch = padded([encoder.group([Example((0,), "Is there a nodule?", answer)]) for answer in answers])

    answered = batch.targets >= 0
    (short, report), (few, many) = (batch.weights * answered).sum(dim=1), answered.sum(dim=1)
    assert many > 20 * few
    assert abs(report / short - (many / few) ** 0.5) < 1e-3
