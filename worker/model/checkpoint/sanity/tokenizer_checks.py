"""Checks of a published tokenizer: its pieces, its added tokens, and their agreement with config.json.

A SentencePiece model of byte-pair encoding is ordered: the pieces were added one after the other, each joined of two
earlier ones, with falling scores, and the single characters last. Exchanged pieces break this order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from worker.model.checkpoint.file_digests import file_digest
from worker.model.checkpoint.json_files import read_json_object
from worker.model.checkpoint.sanity.publication import YI_TOKENIZER
from worker.model.checkpoint.sentencepiece import Kind, Model, added_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from worker.model.checkpoint.sentencepiece import Piece

BYTES = [f"<0x{number:02X}>" for number in range(256)]
#: Tokens that InternVL adds, in this order (OpenGVLab/InternVL internvl_chat_finetune.py).
ADDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
#: Tokens that begin and end a turn in MedDr's template.
BEGIN_OF_TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
#: Options of tokenizer_config.json that change ids or text, with the values of MedDr's tokenizer class.
OPTIONS = {
    "add_bos_token": False,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "legacy": True,
    "sp_model_kwargs": {},
    "spaces_between_special_tokens": False,
    "split_special_tokens": False,
    "tokenizer_class": "LlamaTokenizer",
    "use_default_system_prompt": False,
}
#: Properties of an added token that take text beside it away, or need such text; none has them in the publication.
STRIPPING = ("lstrip", "rstrip", "single_word")


def problems(directory: Path, config: Mapping[str, Any], tokenizer: Any) -> Iterator[tuple[str, str]]:
    """Yield name of the check and sentence for each problem; *tokenizer* is the converted one."""
    model = Model.read(directory / "tokenizer.model")
    stored = read_json_object(directory / "tokenizer_config.json")
    text = config.get("llm_config") or {}
    if file_digest(directory / "tokenizer.model") != YI_TOKENIZER:
        yield from (("pieces", sentence) for sentence in _pieces(model.pieces))
    yield from (("added tokens", sentence) for sentence in _added(directory, stored))
    yield from (("special tokens", sentence) for sentence in _special(text, stored, tokenizer))
    for name, expected in OPTIONS.items():
        if stored.get(name, expected) != expected:
            yield "tokenizer options", f"{name} = {stored[name]!r} in tokenizer_config.json: expected {expected!r}"
    if len(tokenizer) != text.get("vocab_size"):
        yield (
            "vocabulary",
            f"the tokenizer has {len(tokenizer)} tokens, but config.json has a vocabulary of {text.get('vocab_size')}",
        )


def _pieces(pieces: Sequence[Piece]) -> Iterator[str]:
    texts = [piece.text for piece in pieces]
    if len(set(texts)) < len(texts):
        yield "tokenizer.model has the same piece twice"
    found = [piece.text for piece in pieces if piece.kind == Kind.BYTE]
    if found and found != BYTES:
        yield "the byte pieces of tokenizer.model are not in order"
    # Of one kind: the original splits the text of a control piece, so that one of two would be no token.
    if len({piece.kind for piece in pieces if piece.text in (BEGIN_OF_TURN, END_OF_TURN)}) > 1:
        yield f"{BEGIN_OF_TURN} and {END_OF_TURN} are pieces of different kinds in tokenizer.model"
    normal = [piece for piece in pieces if piece.kind == Kind.NORMAL]
    for before, after in pairwise(normal):
        if not after.score < before.score:
            yield f"the scores of tokenizer.model are not in order: {after.text!r} is not below {before.text!r}"
            break
    if wrong := _not_joined(normal):
        yield f"the pieces of tokenizer.model are not in order: {wrong!r} is not joined of two earlier pieces"


def _not_joined(normal: Sequence[Piece]) -> str | None:
    """Return the first piece of several characters that no two earlier pieces or characters make."""
    earlier = {piece.text for piece in normal if len(piece.text) == 1}
    characters_began = False
    for piece in normal:
        if len(piece.text) == 1:
            characters_began = True
            continue
        cuts = range(1, len(piece.text))
        if characters_began or not any(piece.text[:at] in earlier and piece.text[at:] in earlier for at in cuts):
            return piece.text
        earlier.add(piece.text)
    return None


def _added(directory: Path, stored: Mapping[str, Any]) -> Iterator[str]:
    by_id = dict(added_tokens(directory, stored))
    listed = read_json_object(directory / "added_tokens.json", missing={})
    ids = {token: number for number, token in by_id.items()}
    for token, number in listed.items():
        if ids.get(token) != number:
            yield f"{token} has the id {number} in added_tokens.json and {ids.get(token)} in tokenizer_config.json"
            break
    for entry in (stored.get("added_tokens_decoder") or {}).values():
        if isinstance(entry, dict) and any(entry.get(name) for name in STRIPPING):
            yield f"{entry.get('content')} strips the text beside it in tokenizer_config.json"
            break
        if isinstance(entry, dict) and entry.get("content") in ADDED and entry.get("special") is False:
            yield f"{entry['content']} is no special token in tokenizer_config.json: InternVL adds it as one"
            break
    order = [ids[token] for token in ADDED if token in ids]
    if order != sorted(order):
        yield "the added tokens are not in the order in which InternVL adds them"
    special = read_json_object(directory / "special_tokens_map.json", missing={})
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        one, two = _text(special.get(name)), _text(stored.get(name))
        if one is not None and two is not None and one != two:
            yield f"{name} is {one} in special_tokens_map.json and {two} in tokenizer_config.json"


def _special(text: Mapping[str, Any], stored: Mapping[str, Any], tokenizer: Any) -> Iterator[str]:
    end = text.get("eos_token_id")
    if end is not None and tokenizer.convert_ids_to_tokens(end) != END_OF_TURN:
        yield f"eos_token_id = {end} in config.json is {tokenizer.convert_ids_to_tokens(end)}, not {END_OF_TURN}"
    for name in ("bos_token", "eos_token", "pad_token"):
        token, number = _text(stored.get(name)), text.get(f"{name}_id")
        if token is not None and number is not None and tokenizer.convert_tokens_to_ids(token) != number:
            yield f"{name} is {token} in tokenizer_config.json, but {name}_id = {number} in config.json"


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
