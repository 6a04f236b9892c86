"""The engine on a GPU with MedDr's dimensions (40 B parameters, bf16, random weights made on the device).

Each figure is compared with the roofline of the device, computed from its copy bandwidth and its rate of matrix
products as measured in the same run.

    python -m tests.benchmarks.bench_gpu [--shape meddr] [--device cuda] [--cuda-graphs]

`--shape tiny --device cpu` is a smoke test of a few seconds; its figures have no meaning and no JSON is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.transformers_runner import BatchedRunner
from worker.model.inputs import Prompt
from worker.model.pixel_shuffle import InternVLV1Config, InternVLV1ForConditionalGeneration

if TYPE_CHECKING:
    from collections.abc import Callable

#: A study: one image, three retrieved reports of 120 tokens, 90 tokens of instruction; 200 tokens of report.
TEXT_TOKENS, NEW_TOKENS = 3 * 120 + 90, 200
BATCHES = (1, 8, 16, 32, 64)
STEPS = 30

SHAPES: dict[str, dict[str, Any]] = {
    "meddr": {
        "vision": (3200, 45, 25, 12800),
        "text": (7168, 60, 56, 8, 20480, 64007),
        "image_size": 448,
        "context": 1024,
    },
    "tiny": {"vision": (32, 2, 2, 64), "text": (64, 2, 4, 2, 128, 1000), "image_size": 56, "context": 1024},
}


@dataclass(frozen=True, slots=True)
class Roofline:
    """Limits of the device (bytes per second read or written, bf16 operations per second) and sizes of the model."""

    bandwidth: float
    flops: float
    weight_bytes: float
    output_bytes: float
    image_flops: float
    layers: int
    hidden: int
    kv_bytes: float

    def step(self, batch: int, context: int) -> float:
        """Return the seconds of one decode step: weights and caches are read, or all products are computed."""
        read = self.weight_bytes + batch * context * self.kv_bytes
        # In bf16 a weight is two bytes and two operations per token.
        computed = batch * (self.weight_bytes + 4 * self.layers * self.hidden * context)
        return max(read / self.bandwidth, computed / self.flops)

    def prefill(self, tokens: int) -> float:
        """Return the seconds of a prefill; the output layer is computed for the last token only."""
        products = (self.weight_bytes - self.output_bytes) * tokens + self.output_bytes
        return (products + 2 * self.layers * tokens**2 * self.hidden) / self.flops

    def vision(self) -> float:
        """Return the seconds for one image."""
        return self.image_flops / self.flops

    def latency(self, prompt: int) -> float:
        """Return the seconds for a study that runs alone: one step after the other."""
        decode = NEW_TOKENS * self.step(1, prompt + NEW_TOKENS // 2)
        return self.vision() + self.prefill(prompt) + decode

    def study(self, batch: int, prompt: int) -> float:
        """Return the seconds per study at *batch*, vision and prefill overlapping decode: the larger bound."""
        compute = self.vision() + self.prefill(prompt) + NEW_TOKENS * self.weight_bytes / self.flops
        return max(compute, NEW_TOKENS * self.step(batch, prompt + NEW_TOKENS // 2) / batch)


class Bench:
    """A model on a device, and timings of its parts."""

    def __init__(self, shape: str, device: torch.device, *, cuda_graphs: bool) -> None:
        self.device = device
        self.cuda_graphs = cuda_graphs
        self.context = SHAPES[shape]["context"]
        self.model = build(SHAPES[shape], device)
        self.config = self.model.config
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(1, 900, (TEXT_TOKENS,), generator=generator)
        image = torch.full((self.config.image_seq_length,), self.config.image_token_id)
        self.ids = torch.cat([words[:10], image, words[10:]])
        side = SHAPES[shape]["image_size"]
        self.pixels = torch.randn(1, 3, side, side, generator=generator)

    def prompt(self) -> Prompt:
        """Return the prompt of a study."""
        return Prompt(self.ids, self.pixels)

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Return the median seconds of *work*, the device idle before and after."""
        times = []
        for _ in range(repeats + 1):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - started)
        return median(times[1:])

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def roofline(self) -> Roofline:
        """Measure the device and count the model's parameters."""
        text = self.config.text_config
        size = 2**30 if self.device.type == "cuda" else 2**20
        source = torch.empty(size, dtype=torch.bfloat16, device=self.device)
        target = torch.empty_like(source)
        copy = self.seconds(lambda: target.copy_(source))
        side = 8192 if self.device.type == "cuda" else 256
        left = torch.randn(side, side, dtype=torch.bfloat16, device=self.device)
        product = self.seconds(lambda: [left @ left for _ in range(10)]) / 10
        read = [*self.model.model.language_model.layers.parameters(), *self.model.lm_head.parameters()]
        tower, projector = (
            sum(parameter.numel() for parameter in part.parameters())
            for part in (self.model.model.vision_tower, self.model.model.multi_modal_projector)
        )
        vision = self.config.vision_config
        patches = (vision.image_size[0] // vision.patch_size[0]) ** 2 + 1
        return Roofline(
            bandwidth=2 * source.nbytes / copy,
            flops=2 * side**3 / product,
            weight_bytes=float(sum(parameter.nbytes for parameter in read)),
            output_bytes=float(self.model.lm_head.weight.nbytes),
            image_flops=2.0 * tower * patches
            + 4.0 * vision.num_hidden_layers * patches**2 * vision.hidden_size
            + 2.0 * projector * self.config.image_seq_length,
            layers=text.num_hidden_layers,
            hidden=text.num_attention_heads * text.head_dim,
            kv_bytes=4.0 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim,
        )

    def runner(self, sequences: int) -> BatchedRunner:
        """Return a runner with its cache allocated, and graphs captured if asked."""
        runner = BatchedRunner(self.model, max_sequences=sequences, max_tokens=self.context)
        runner.allocate()
        if self.cuda_graphs:
            runner.capture_graphs()
        return runner

    def decode_step(self, batch: int) -> float:
        """Return the seconds of one step of *batch* rows in the middle of their reports."""
        runner = self.runner(batch)
        length = len(self.ids) + NEW_TOKENS // 2
        return self.seconds(lambda: runner.decode([1] * batch, [length] * batch), STEPS)

    def prefill(self) -> float:
        """Return the seconds to prefill a study's prompt, its image already encoded."""
        runner = self.runner(1)
        prompt = self.prompt()
        runner.encode_images([prompt], 1)
        return self.seconds(lambda: runner.prefill(0, prompt, 0, len(prompt)))

    def vision(self) -> float:
        """Return the seconds per image in batches of four."""
        runner = self.runner(1)
        return self.seconds(lambda: runner.encode_images([self.prompt() for _ in range(4)], 4)) / 4

    def studies(self, rows: int, count: int) -> float:
        """Return the seconds for *count* studies through an engine of *rows* rows, including their images."""
        engine = Engine(self.runner(rows), stop_tokens=frozenset(), detokenize=str).start()
        started = time.perf_counter()
        futures = [engine.submit(Request("", max_new_tokens=NEW_TOKENS), self.prompt()) for _ in range(count)]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - started
        engine.close()
        return seconds


def build(shape: dict[str, Any], device: torch.device) -> Any:
    """Build the model with random weights on *device*."""
    hidden, layers, heads, intermediate = shape["vision"]
    width, depth, query_heads, kv_heads, inner, vocabulary = shape["text"]
    tokens = (shape["image_size"] // 14) ** 2 // 4
    config = InternVLV1Config(
        vision_config={
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": intermediate,
            "image_size": shape["image_size"],
            "use_qk_norm": True,
            "norm_type": "rms_norm",
        },
        text_config={
            "model_type": "llama",
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": query_heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
            "max_position_embeddings": 4096,
            "rope_theta": 5e6,
        },
        image_token_id=vocabulary - 1,
        image_seq_length=tokens,
        tie_word_embeddings=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return InternVLV1ForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def main() -> None:
    """Measure, print tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="meddr")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cuda-graphs", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench-gpu needs a CUDA GPU with memory for 81 GB of weights: none found")
    bench = Bench(options.shape, device, cuda_graphs=options.cuda_graphs)
    figures = measure(bench, Console(width=100))
    if options.shape == "meddr":
        print(json.dumps(figures))  # noqa: T201 - the machine's line


@torch.inference_mode()
def measure(bench: Bench, console: Console) -> dict[str, float]:
    """Print decode, prefill, vision and complete studies beside their bounds; return the figures of the JSON line."""
    roof, prompt = bench.roofline(), len(bench.ids)
    context = prompt + NEW_TOKENS // 2
    console.print(f"copy {roof.bandwidth / 1e12:.2f} TB/s, products {roof.flops / 1e12:.0f} TFLOP/s", highlight=False)
    table = Table("", "measured", "roofline", "fraction", title=f"{prompt} prompt tokens, {NEW_TOKENS} new")
    fractions = {}
    for batch in BATCHES:
        bound = batch / roof.step(batch, context)
        try:
            found = batch / bench.decode_step(batch)
        except torch.OutOfMemoryError:
            table.add_row(f"decode tokens/s, batch {batch}", "does not fit", f"{bound:.0f}", "")
            continue
        fractions[batch] = found / bound
        table.add_row(f"decode tokens/s, batch {batch}", f"{found:.0f}", f"{bound:.0f}", f"{found / bound:.2f}")
    for name, found, bound in (
        ("prefill ms", bench.prefill(), roof.prefill(prompt)),
        ("vision ms per image", bench.vision(), roof.vision()),
        ("one study alone, ms", bench.studies(1, 1), roof.latency(prompt)),
    ):
        table.add_row(name, f"{found * 1e3:.1f}", f"{bound * 1e3:.1f}", f"{bound / found:.2f}")
    rows, count = max(fractions), 3 * max(fractions)
    per_minute, bound = 60 * count / bench.studies(rows, count), 60 / roof.study(rows, prompt)
    table.add_row(f"studies/min, {rows} slots", f"{per_minute:.0f}", f"{bound:.0f}", f"{per_minute / bound:.2f}")
    console.print(table)
    return {
        **{f"roofline_batch{batch}": round(fractions[batch], 3) for batch in (1, 32) if batch in fractions},
        "studies_per_minute": round(per_minute, 1),
    }


if __name__ == "__main__":
    main()
