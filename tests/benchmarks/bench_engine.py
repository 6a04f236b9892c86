"""The engine against `generate`, one request after another and in static batches, on this machine's CPU.

A random InternVL of about 50 M parameters; each request has one image, a question of its own length and an answer of
20 to 200 tokens. The vision tower gains nothing from batching on a CPU, so the three are compared with the images'
features computed ahead; "with vision" is end to end, beside the time of its parts alone.

Times are CPU seconds of one thread: equal to wall time on an idle machine, and still comparable on a busy one. The
three take turns within a round, and ratios are medians over rounds.

    python -m tests.benchmarks.bench_engine [--requests 48] [--rounds 1] [--slots 16]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache, InternVLConfig, InternVLForConditionalGeneration

from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.scheduler import VISION_TILES
from worker.model.engine.transformers_runner import BatchedRunner
from worker.model.inputs import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE_TOKEN = 7999
IMAGE_TOKENS = 256
STATIC_BATCH = 8
#: Steps measured for the overhead of one engine step.
STEPS = 40


@dataclass(slots=True)
class Work:
    """One request: its prompt's tokens, its image and the number of tokens to generate."""

    ids: torch.Tensor
    pixels: torch.Tensor
    length: int
    features: torch.Tensor | None = None
    embeddings: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def prompt(self, *, ahead: bool) -> Prompt:
        """Return the engine's prompt; *ahead* includes the image's features."""
        prompt = Prompt(self.ids, self.pixels)
        if ahead and self.features is not None:
            prompt.features.append(self.features)
        return prompt

    def request(self) -> Request:
        """Return the engine's request."""
        return Request("", max_new_tokens=self.length)


def build_model() -> Any:
    """Build about 50 M parameters: language model 12 x 512, GQA 8/2, tower 4 x 192 over 448 x 448 pixels."""
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "norm_type": "rms_norm",
            "use_qk_norm": True,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 8000,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
        },
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def draw(model: Any, count: int) -> list[Work]:
    """Draw requests with prompts of 300 to 380 tokens."""
    generator = torch.Generator().manual_seed(1)
    work = []
    for _ in range(count):
        text = int(torch.randint(300 - IMAGE_TOKENS, 380 - IMAGE_TOKENS, (1,), generator=generator))
        words = torch.randint(1, IMAGE_TOKEN, (text,), generator=generator)
        ids = torch.cat([words[:10], torch.full((IMAGE_TOKENS,), IMAGE_TOKEN), words[10:]])
        length = int(torch.randint(20, 201, (1,), generator=generator))
        work.append(Work(ids, torch.randn(1, 3, 448, 448, generator=generator), length))
    encode_ahead(model, work)
    return work


@torch.inference_mode()
def encode_ahead(model: Any, work: list[Work]) -> None:
    """Compute every image's features and every prompt's embeddings."""
    for item in work:
        item.features = model.get_image_features(item.pixels).pooler_output[0]
        embeddings = model.get_input_embeddings()(item.ids)
        item.embeddings = embeddings.masked_scatter((item.ids == IMAGE_TOKEN)[:, None], item.features)


def run_engine(model: Any, work: list[Work], slots: int, *, ahead: bool) -> float:
    """Return the seconds for all of *work* through the engine."""
    runner = BatchedRunner(model, max_sequences=slots, max_tokens=640)
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str).start()
    started = time.process_time()
    futures = [engine.submit(item.request(), item.prompt(ahead=ahead)) for item in work]
    for future, item in zip(futures, work, strict=True):
        assert len(future.result().token_ids) == item.length
    seconds = time.process_time() - started
    engine.close()
    return seconds


@torch.inference_mode()
def run_sequential(model: Any, work: list[Work]) -> float:
    """Return the seconds for one `generate` after another."""
    started = time.process_time()
    for item in work:
        model.generate(inputs_embeds=item.embeddings[None], max_new_tokens=item.length, do_sample=False)
    return time.process_time() - started


@torch.inference_mode()
def run_static(model: Any, work: list[Work]) -> float:
    """Return the seconds for left-padded batches of eight, each running until its longest answer is done."""
    started = time.process_time()
    for start in range(0, len(work), STATIC_BATCH):
        batch = work[start : start + STATIC_BATCH]
        longest = max(len(item.ids) for item in batch)
        embeddings = torch.zeros(len(batch), longest, batch[0].embeddings.shape[-1])
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, item in enumerate(batch):
            embeddings[row, longest - len(item.ids) :] = item.embeddings
            mask[row, longest - len(item.ids) :] = 1
        tokens = max(item.length for item in batch)
        model.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
    return time.process_time() - started


def engine_step(model: Any, work: list[Work]) -> Callable[[], None]:
    """Return one step of an engine whose full batch is decoding."""
    runner = BatchedRunner(model, max_sequences=len(work), max_tokens=640)
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str, prefill_tokens=10**6)
    for item in work:
        engine.submit(Request("", max_new_tokens=200), item.prompt(ahead=True))
    engine.step()
    return engine.step


@torch.inference_mode()
def forward_step(model: Any, work: list[Work]) -> Callable[[], None]:
    """Return a bare `model.forward` of the same batch at the same lengths, over transformers' own cache."""
    longest = max(len(item.ids) for item in work)
    cache = DynamicCache(config=model.config.get_text_config())
    embeddings = torch.stack([torch.nn.functional.pad(i.embeddings, (0, 0, longest - len(i.ids), 0)) for i in work])
    mask = torch.stack([torch.arange(longest) >= longest - len(item.ids) for item in work]).long()
    model(inputs_embeds=embeddings, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    token = torch.ones(len(work), 1, dtype=torch.long)

    @torch.inference_mode()
    def step() -> None:
        nonlocal mask
        mask = torch.cat([mask, token], dim=1)
        position = mask.sum(dim=1, keepdim=True) - 1
        model(input_ids=token, attention_mask=mask, position_ids=position, past_key_values=cache, logits_to_keep=1)

    return step


def median_seconds(*steps: Callable[[], None]) -> list[float]:
    """Return the median seconds of each of *steps*, which take turns."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(STEPS):
        for step, taken in zip(steps, times, strict=True):
            started = time.process_time()
            step()
            taken.append(time.process_time() - started)
    return [median(taken) for taken in times]


@torch.inference_mode()
def parts(model: Any, work: list[Work], slots: int) -> float:
    """Return the seconds that vision, prefill and full decode batches alone take for all of *work*."""
    runner = BatchedRunner(model, max_sequences=slots, max_tokens=640)
    prompts = [item.prompt(ahead=False) for item in work]
    started = time.process_time()
    for start in range(0, len(work), VISION_TILES):
        runner.encode_images(prompts[start : start + VISION_TILES], VISION_TILES)
    for row, prompt in enumerate(prompts):
        runner.prefill(row % slots, prompt, 0, len(prompt))
    seconds = time.process_time() - started
    batch = (work * slots)[:slots]
    (step,) = median_seconds(forward_step(model, batch))
    return seconds + step * sum(item.length for item in work) / slots


def main() -> None:
    """Run, print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slots", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build_model()
    work = draw(model, options.requests)
    rounds: dict[str, list[float]] = {name: [] for name in ("engine", "sequential", "static", "all", "parts")}
    steps: dict[str, list[float]] = {"engine": [], "forward": []}
    for _ in range(options.rounds):
        rounds["engine"].append(run_engine(model, work, options.slots, ahead=True))
        rounds["sequential"].append(run_sequential(model, work))
        rounds["static"].append(run_static(model, work))
        rounds["all"].append(run_engine(model, work, options.slots, ahead=False))
        rounds["parts"].append(parts(model, work, options.slots))
        eight = work[:STATIC_BATCH]
        for name, seconds in zip(
            steps, median_seconds(engine_step(model, eight), forward_step(model, eight)), strict=True
        ):
            steps[name].append(seconds)
    show(model, options, rounds, steps)


def show(model: Any, options: Any, rounds: dict[str, list[float]], steps: dict[str, list[float]]) -> None:
    """Print medians, and the ratios of measurements of the same round."""
    size = sum(parameter.numel() for parameter in model.parameters())
    table = Table(title=f"{options.requests} requests, {size / 1e6:.1f} M parameters, CPU time of one thread")
    for column in ("", "requests/min", "seconds"):
        table.add_column(column, justify="right")
    names = {
        "engine": f"engine, {options.slots} slots",
        "sequential": "generate, one by one",
        "static": f"generate, batches of {STATIC_BATCH}",
        "all": "engine with vision",
        "parts": "vision + prefill + decode alone",
    }
    for key, name in names.items():
        seconds = median(rounds[key])
        table.add_row(name, f"{60 * options.requests / seconds:.1f}", f"{seconds:.2f}")
    for key, name in (("engine", "engine step"), ("forward", "bare forward step")):
        table.add_row(f"{name}, batch of {STATIC_BATCH}", "", f"{median(steps[key]):.4f}")
    Console(width=100).print(table)
    figures = {
        "vs_sequential": _ratio(rounds["sequential"], rounds["engine"]),
        "vs_static_batch": _ratio(rounds["static"], rounds["engine"]),
        "overhead_vs_forward": _ratio(steps["engine"], steps["forward"]) - 1,
        "end_to_end": _ratio(rounds["parts"], rounds["all"]),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))  # noqa: T201 - the machine's line


def _ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


if __name__ == "__main__":
    main()
