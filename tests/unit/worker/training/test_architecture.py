"""A checkpoint can be continued with another vocabulary."""

from __future__ import annotations

import torch

from worker.training.architecture import build_model, build_tokenizer, copy_weights


def test_weights_of_words_are_copied_by_their_text() -> None:
    tokenizers = [build_tokenizer(texts) for texts in (["apical nodule"], ["effusion in nodule"])]
    old, new = ((build_model(tokenizer), tokenizer) for tokenizer in tokenizers)
    before = new[0].lm_head.weight.detach().clone()

    copy_weights(old, new)

    ids = [tokenizer.convert_tokens_to_ids("Ġnodule") for tokenizer in tokenizers]
    assert ids[0] != ids[1]
    for layer in ("lm_head", "model.language_model.embed_tokens"):
        theirs, ours = (model.get_submodule(layer).weight for model, _ in (old, new))
        assert torch.equal(theirs[ids[0]], ours[ids[1]])
    tower = "model.vision_tower.encoder.layer.0.mlp.fc1.weight"
    assert torch.equal(old[0].state_dict()[tower], new[0].state_dict()[tower])
    unknown = tokenizers[1].convert_tokens_to_ids("effusion")
    assert torch.equal(new[0].lm_head.weight[unknown], before[unknown])
