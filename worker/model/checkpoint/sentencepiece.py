"""Convert a SentencePiece `tokenizer.model` to a fast tokenizer that gives the same token ids.

transformers reads such files too, but with other ids: it inserts spaces after special tokens and splits user-defined
pieces such as `<|im_start|>` into bytes (docs/decisions/tokenizer-reader.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from db.errors import ConfigurationError
from worker.model.chat import CHAT_TEMPLATE, IMAGE_TOKENS
from worker.model.checkpoint.json_files import read_json_object
from worker.model.checkpoint.shards import reject_lfs_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: SentencePiece's letter for a space.
SPACE = "\u2581"
# Numbers from sentencepiece_model.proto (github.com/google/sentencepiece): message fields and the model type.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BPE, _WHITESPACE_AS_SUFFIX, _BYTE_FALLBACK = 3, 2, 24, 35
_CHARACTER_MAP, _DUMMY_PREFIX, _REMOVE_WHITESPACE, _ESCAPE_WHITESPACE = 2, 3, 4, 5


class Kind(IntEnum):
    """Kinds of pieces (sentencepiece_model.proto, SentencePiece.Type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int


@dataclass(slots=True)
class Model:
    """Contents of a `tokenizer.model`; the defaults are those of the format for missing fields."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = 1
    character_map: bytes = b""
    dummy_prefix: bool = True
    remove_whitespace: bool = True
    escape_whitespace: bool = True
    whitespace_as_suffix: bool = False
    byte_fallback: bool = False

    @classmethod
    def read(cls, path: Path) -> Model:
        """Parse *path*; raises ConfigurationError unless it is byte-pair encoding without normalised spaces."""
        try:
            reject_lfs_pointer(path)
            model = cls._parse(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise ConfigurationError(f"{path} is damaged or not a SentencePiece model") from error
        spaces = model.dummy_prefix, model.remove_whitespace, not model.escape_whitespace, model.whitespace_as_suffix
        if model.model_type != _BPE or any(spaces):
            expected = "byte-pair encoding that leaves spaces unchanged"
            raise ConfigurationError(f"unsupported tokenizer {path}: expected {expected}")
        if not any(piece.kind == Kind.UNKNOWN for piece in model.pieces):
            raise ConfigurationError(f"invalid SentencePiece model {path}: it has no piece for unknown text")
        if not model.byte_fallback and any(piece.kind == Kind.BYTE for piece in model.pieces):
            raise ConfigurationError(
                f"invalid SentencePiece model {path}: it has pieces for bytes and does not use them"
            )
        return model

    @classmethod
    def _parse(cls, data: bytes) -> Model:
        pieces: list[Piece] = []
        # A message that stands twice is merged: the last value of each field counts.
        specs: dict[int, dict[int, Any]] = {_TRAINER: {}, _NORMALIZER: {}}
        for number, value in _fields(data):
            if number == _PIECES:
                pieces.append(_piece(value))
            elif number in specs:
                specs[number] |= dict(_fields(value))
        trainer, normalizer = specs[_TRAINER], specs[_NORMALIZER]
        return cls(
            pieces,
            trainer.get(_MODEL_TYPE, 1),
            normalizer.get(_CHARACTER_MAP, b""),
            dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
            remove_whitespace=bool(normalizer.get(_REMOVE_WHITESPACE, 1)),
            escape_whitespace=bool(normalizer.get(_ESCAPE_WHITESPACE, 1)),
            whitespace_as_suffix=bool(trainer.get(_WHITESPACE_AS_SUFFIX, 0)),
            byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        )


def convert_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a published checkpoint; raises ConfigurationError if it cannot be converted."""
    model = Model.read(directory / "tokenizer.model")
    config = read_json_object(directory / "tokenizer_config.json")
    backend = _backend(model)
    backend.add_tokens([AddedToken(p.text, normalized=False) for p in model.pieces if p.kind == Kind.USER_DEFINED])
    for number, token in added_tokens(directory, config):
        # Added tokens are left out of decoded text; SentencePiece's own pieces are kept, as in the original.
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        if backend.token_to_id(token) != number:
            raise ConfigurationError(f"the added token {token} cannot have the id {number}: it is taken")
    for token in IMAGE_TOKENS.values():
        # transformers would give it the next free id, not the one of the training.
        if backend.token_to_id(token) is None:
            raise ConfigurationError(f"the tokenizer in {directory} has no token {token}")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    named = {name: _content(config[name]) for name in names if config.get(name) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=config.get("model_max_length", 2048),
        extra_special_tokens=IMAGE_TOKENS,
        **named,
    )


def _backend(model: Model) -> Tokenizer:
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == Kind.NORMAL}
    merges = generate_merges({text: vocabulary[text] for text in scores}, scores)
    unknown = next(piece.text for piece in model.pieces if piece.kind == Kind.UNKNOWN)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    if model.character_map:
        backend.normalizer = normalizers.Precompiled(model.character_map)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False)
    # Control pieces are never part of decoded text.
    removed = [decoders.Replace(piece.text, "") for piece in model.pieces if piece.kind == Kind.CONTROL]
    shown = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([*removed, *shown])
    return backend


def added_tokens(directory: Path, config: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Ids and texts of the tokens that transformers added, in order."""
    listed = config.get("added_tokens_decoder") or {}
    try:
        added = {int(number): _content(token) for number, token in listed.items()}
        if not added:
            added = {int(number): token for token, number in read_json_object(directory / "added_tokens.json").items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"invalid list of added tokens in {directory}: expected an id and a text for each"
        ) from error
    return sorted(added.items())


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    return Piece(values[_PIECE].decode(), struct.unpack("<f", values.get(_SCORE, bytes(4)))[0], values.get(_TYPE, 1))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value (an integer, or bytes) of each field of a protocol buffer message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        length, at = _varint(data, at) if wire_type == 2 else ({1: 8, 5: 4}[wire_type], at)  # noqa: PLR2004
        if at + length > len(data):
            raise ValueError("truncated protocol buffer message")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
