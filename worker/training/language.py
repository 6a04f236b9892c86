"""Train the language model on examples; the vision tower is frozen and its tokens are computed once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from worker.model.inputs import apply_chat_template
from worker.training.architecture import IMAGE_TOKENS
from worker.training.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerFast

    #: Returns the given number of new groups of examples with the same images.
    DrawExamples = Callable[[int], list[Sequence["Example"]]]

#: Target of positions without a loss.
IGNORED = -100
#: Batches whose examples are sorted by length together.
SORTED_BATCHES = 8
#: Longest generated answer: the longest report of the grammar has about 100 tokens.
MAX_NEW_TOKENS = 110


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its answer; *images* are rows of the cached tokens; *given* begins the answer, without a loss."""

    images: Sequence[int]
    question: str
    answer: str
    given: str = ""


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """Examples with the same images: ids of the shared beginning of their prompts, and of each rest and answer."""

    images: Sequence[int]
    shared: list[int]
    branches: list[tuple[list[int], list[int]]]

    def __len__(self) -> int:
        return len(self.shared) + sum(len(rest) + len(answer) for rest, answer in self.branches)


class Encoder:
    """Encode prompts and answers as token ids, with the chat template that the worker uses."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._image = str(tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")))
        self.image_id = int(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
        self.stop_id = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))

    def prompt(self, question: str, images: int) -> list[int]:
        """Return the ids of a prompt, each image expanded to its tokens."""
        text = apply_chat_template(self._tokenizer, question, images)
        return self._ids(text.replace(self._image, "<img>" + self._image * IMAGE_TOKENS + "</img>"))

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer and the stop token."""
        return [*self._ids(text), self.stop_id]

    def group(self, examples: Sequence[Example]) -> EncodedGroup:
        """Return the ids of examples with the same images."""
        images = examples[0].images
        prompts = [[*self.prompt(one.question, len(images)), *self._ids(one.given)] for one in examples]
        # At least one id of each prompt is in its branch: the first id of the answer is predicted there.
        shared = min(_shared(prompts[0], prompt) for prompt in prompts)
        branches = [(prompt[shared:], self.answer(one.answer)) for prompt, one in zip(prompts, examples, strict=True)]
        return EncodedGroup(images, prompts[0][:shared], branches)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning, shorter than both."""
    length = min(len(one), len(other)) - 1
    return next((n for n in range(length) if one[n] != other[n]), length)


def train_language(
    model: Any,
    cached: torch.Tensor,
    draw: DrawExamples,
    encoder: Encoder,
    *,
    steps: int,
    batch: int,
    rate: float,
    on_step: Callable[[int, float], None],
) -> None:
    """Train projector and language model on the examples of *draw*; *rate* is a factor of the learning rates.

    *cached* are the tower's tokens [images, tokens, width]; *on_step* is called with each step and its loss.
    """
    hidden = [model.model.multi_modal_projector, model.model.language_model]
    schedule = Schedule(hidden, [model.lm_head], steps=steps, rate=rate)
    for step, examples in enumerate(islice(_batches(draw, encoder, batch), steps)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, cached, examples, encoder.image_id)
        schedule.step(loss)
        on_step(step, loss.item())


def _batches(draw: DrawExamples, encoder: Encoder, size: int) -> Iterator[list[EncodedGroup]]:
    """Yield batches of examples of similar length, which need a quarter less padding than the drawn order."""
    order = random.Random(0)  # noqa: S311 - not for security
    while True:
        examples = [encoder.group(group) for _ in range(SORTED_BATCHES) for group in draw(size)]
        examples.sort(key=len)
        batches = [examples[start : start + size] for start in range(0, len(examples), size)]
        order.shuffle(batches)
        yield from batches


def _loss(model: Any, cached: torch.Tensor, groups: list[EncodedGroup], image_id: int) -> torch.Tensor:
    batch = padded(groups)
    embeddings = model.get_input_embeddings()(batch.ids)
    rows = torch.tensor([row for group in groups for row in group.images])
    features = model.model.multi_modal_projector(cached[rows].float()).reshape(-1, embeddings.shape[-1])
    embeddings = embeddings.masked_scatter((batch.ids == image_id)[..., None], features.to(embeddings.dtype))
    states = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    wanted = batch.targets != IGNORED
    losses = functional.cross_entropy(model.lm_head(states[wanted]).float(), batch.targets[wanted], reduction="none")
    weights = batch.weights[wanted]
    return (losses * weights).sum() / weights.sum()


class Batch(NamedTuple):
    """Ids, positions, targets and weights [n, longest] of groups, and the mask [n, 1, longest, longest] of attention.

    The target of a position is the answer's next token, or IGNORED. A branch attends to the shared beginning and to
    itself, as if it were alone; padding attends to padding. The weight of a target is the inverse square root of its
    answer's length: with equal weights, a report has forty times the loss of an answer of two words beside it.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor


def padded(groups: Sequence[EncodedGroup]) -> Batch:
    """Return the batch of *groups*."""
    ids, positions, targets, branches = (
        torch.full((len(groups), max(map(len, groups))), fill) for fill in (0, 0, IGNORED, -1)
    )
    weights = torch.zeros(ids.shape)
    for row, group in enumerate(groups):
        end = len(group.shared)
        ids[row, :end], positions[row, :end] = torch.tensor(group.shared), torch.arange(end)
        branches[row, :end] = 0
        for number, (rest, answer) in enumerate(group.branches, start=1):
            start, end = end, end + len(rest) + len(answer)
            ids[row, start:end] = torch.tensor([*rest, *answer])
            positions[row, start:end] = len(group.shared) + torch.arange(end - start)
            targets[row, start + len(rest) - 1 : end - 1] = torch.tensor(answer)
            weights[row, start:end] = len(answer) ** -0.5
            branches[row, start:end] = number
    own, other = branches[:, :, None], branches[:, None, :]
    seen = ((own == other) | (other == 0)).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return Batch(ids, positions, targets, weights, mask[:, None])


@torch.inference_mode()
def generate(
    model: Any, cached: torch.Tensor, examples: Sequence[Example], encoder: Encoder, tokenizer: Any, *, batch: int = 32
) -> list[str]:
    """Generate answers to *examples* greedily; their own answers are not used."""
    order = sorted(
        range(len(examples)), key=lambda n: len(encoder.prompt(examples[n].question, len(examples[n].images)))
    )
    texts = [""] * len(examples)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        for row, text in zip(
            rows, _generate(model, cached, [examples[row] for row in rows], encoder, tokenizer), strict=True
        ):
            texts[row] = text
    return texts


def _generate(model: Any, cached: torch.Tensor, examples: list[Example], encoder: Encoder, tokenizer: Any) -> list[str]:
    prompts = [encoder.prompt(example.question, len(example.images)) for example in examples]
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    rows = torch.tensor([row for example in examples for row in example.images])
    features = model.model.multi_modal_projector(cached[rows].to(model.dtype)).reshape(-1, model.lm_head.in_features)
    embeddings = model.get_input_embeddings()(ids)
    embeddings = embeddings.masked_scatter((ids == encoder.image_id)[..., None], features.to(embeddings.dtype))
    made = model.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
