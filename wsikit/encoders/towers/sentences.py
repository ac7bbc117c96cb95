"""A sentencepiece file (`.spm`, `.model`) as a tokenizer, with the ids that XLM-R gives its pieces.

The file is a protocol buffer of a few fields; read here, it needs no further package. XLM-R puts `<s>`, `<pad>`,
`</s>` and `<unk>` at 0 to 3, and every other piece one place higher than the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wsikit.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNIGRAM = 1
_FIRST = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
_IN_FILE = ["<unk>", "<s>", "</s>"]  # the first pieces of every file


def sentence_tokenizer(path: Path) -> Tokenizer:
    """Tokenizer of a sentencepiece file of unigrams; adds `<s>` and `</s>`.

    Raises
    ------
    ModelError
        It is no such file.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    try:
        pieces, kind, table = _read(path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: is no readable sentencepiece file ({error}); copy it again from its source."
        ) from error
    if kind != _UNIGRAM or [name for name, _ in pieces[:3]] != _IN_FILE:
        raise ModelError(
            f"{path}: expected a sentencepiece file of unigrams that begins with {', '.join(_IN_FILE)}; found kind "
            f"{kind}, beginning with {', '.join(name for name, _ in pieces[:3])}. Use the published tokenizer file."
        )
    tokenizer = Tokenizer(models.Unigram([*_FIRST, *pieces[3:], ("<mask>", 0.0)], unk_id=3))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(table)] if table else []
    steps += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _read(content: bytes) -> tuple[list[tuple[str, float]], int, bytes]:
    """Pieces with their scores, kind of model, table of normalisation."""
    pieces: list[tuple[str, float]] = []
    kind, table = _UNIGRAM, b""
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            name, score = "", 0.0
            for part, inner in _fields(value):
                if part == 1 and isinstance(inner, bytes):
                    name = inner.decode("utf-8")
                elif part == 2 and isinstance(inner, bytes):
                    score = struct.unpack("<f", inner)[0]
            pieces.append((name, score))
        elif number == 2 and isinstance(value, bytes):
            kind = next((int(inner) for part, inner in _fields(value) if part == 3 and isinstance(inner, int)), kind)
        elif number == 3 and isinstance(value, bytes):
            table = next((inner for part, inner in _fields(value) if part == 2 and isinstance(inner, bytes)), table)
    if not pieces:
        raise ValueError("it holds no pieces")
    return pieces, kind, table


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protocol buffer: number, and value as an integer or bytes."""
    at = 0
    while at < len(content):
        key, at = _integer(content, at)
        wire = key & 7
        if wire == 0:
            value, at = _integer(content, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(wire, -1)
        if wire == 2:
            length, at = _integer(content, at)
        if length < 0 or at + length > len(content):
            raise ValueError(f"no protocol buffer at byte {at}")
        yield key >> 3, content[at : at + length]
        at += length


def _integer(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
