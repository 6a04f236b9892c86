"""Bounds of the root mean square of single tensors, by kind.

The comparison of layers finds neither a tensor that exists once nor one that is wrong in all layers. Each bound is at
least a factor 15, most are more than 30, away from the values at which a training begins, from those of the demo
checkpoint and from those of the parity fixture, which stand beside it. A trained MedDr_0401 was not measured.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.model.checkpoint.sanity.weight_figures import Figures

#: Norms of both layouts, and per-channel scales of the vision tower's residual branches.
NORM = re.compile(r"(norm(\d|_before|_after)?|mlp1\.0)\.weight$")
LAYER_SCALE = re.compile(r"\.(ls|lambda_)[12]$")


@dataclass(frozen=True, slots=True)
class Scale:
    """Bounds of the tensors whose name *names* finds; with *fan_in*, after multiplication by the root of the inputs."""

    kind: str
    names: re.Pattern[str]
    least: float
    most: float
    fan_in: bool = False

    def problem(self, tensor: Figures) -> str | None:
        """Return the end of "NAME ..." for a tensor outside the bounds, None inside."""
        unit = 1 / math.sqrt(tensor.inputs) if self.fan_in else 1.0
        if self.least * unit <= tensor.rms <= self.most * unit:
            return None
        return (
            f"has a root mean square of {tensor.rms:.2g}: expected {self.least * unit:.2g} to {self.most * unit:.2g}"
            f" for {self.kind}"
        )


#: The first whose pattern fits applies. Values in a comment: where a training begins; demo; parity fixture.
SCALES = (
    # InternViT's RMSNorm of queries and keys over all heads: 1; .60 to .82; .99 to 1.06.
    Scale("a norm of queries or keys", re.compile(r"\.[qk]_norm\.weight$"), 0.02, 50.0),
    # The projector's and the last one of the language model: 1; .61, 1.12; 1.05, 1.02.
    Scale(
        "a norm that exists once",
        re.compile(r"(mlp1\.0|multi_modal_projector\.layer_norm|model\.norm)\.weight$"),
        0.02,
        300.0,
    ),
    # 1; .30 to 1.12; .99 to 1.08. Norms of the first layers of large language models become small.
    Scale("a norm", NORM, 1e-3, 300.0),
    # initializer_factor .1 of InternVisionConfig, 1e-5 to 1 in other towers; .56 to .82; .61 to .64.
    Scale("a layer scale", LAYER_SCALE, 3e-7, 30.0),
    # Biases of queries and keys (Qwen2) reach hundreds; only MAX_VALUE bounds them.
    Scale("a bias of queries or keys", re.compile(r"\.[qk](_proj|kv)\.bias$"), 0.0, math.inf),
    # 0; .04 to .15; .09 to .11.
    Scale("a bias", re.compile(r"\.bias$"), 0.0, 30.0),
    # 1 for torch's Embedding and InternViT's positions, .02 for LLaMA; .06 to .44; .40 to .60.
    Scale(
        "an embedding",
        re.compile(r"\.(embed_tokens|position_embeddings?|class_embedding|cls_token)(\.weight)?$"),
        1e-4,
        30.0,
    ),
    # Zero at first, then as large as the learning rate and the steps allow; -; .32 to .35.
    Scale("the second matrix of an adapter", re.compile(r"\.lora_B(\.default)?\.weight$"), 0.0, 30.0, fan_in=True),
)
#: .58 for torch's Linear and the first matrix of an adapter, 1.7 for LLaMA's .02 with 7168 inputs; .95 to 2.4; 1.1
#: to 2.5.
MATRIX = Scale("a matrix of this width", re.compile(""), 0.01, 100.0, fan_in=True)


def scale_problem(tensor: Figures) -> str | None:
    """Return the end of "NAME ..." for a tensor whose values are too small or too large for its kind, else None."""
    scale = next((scale for scale in SCALES if scale.names.search(tensor.name)), MATRIX if tensor.matrix else None)
    return scale.problem(tensor) if scale else None
