"""Captions to token ids. A fast tokenizer (tokenizers' own JSON), trained here or taken from a local folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from wsikit.errors import ModelError
from wsikit.models.config import TOKENIZER_FILE

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""In the order of their ids, so that padding is 0."""


@dataclass(frozen=True)
class Tokens:
    """A batch of captions, padded to its longest."""

    ids: npt.NDArray[np.int64]
    """(B, L)"""
    mask: npt.NDArray[np.int64]
    """(B, L), 1 where there is a token."""
    present: npt.NDArray[np.bool_]
    """(B,), False where the caption is missing or blank."""
    truncated: int
    """Number of captions that were truncated."""
    numbers: npt.NDArray[np.float32] | None = None
    """(B, 2, C), numbers of the captions for a model that reads them (`wsikit.models.slide_context.number_columns`)."""


class CaptionTokenizer:
    """Turns captions into ids, at most `max_tokens` each, special tokens included."""

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.enable_truncation(max_tokens)
        padding = tokenizer.padding or {}
        self._tokenizer.enable_padding(
            pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", SPECIAL[0]), length=None
        )

    @property
    def vocabulary(self) -> int:
        """Number of token ids, special tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(self, captions: Sequence[str | None]) -> Tokens:
        """Encode a batch; a caption that is None or blank is marked as not present."""
        texts = [caption if caption and caption.strip() else None for caption in captions]
        encodings = self._tokenizer.encode_batch([text or "" for text in texts])
        return Tokens(
            ids=np.array([e.ids for e in encodings], dtype=np.int64).reshape(len(texts), -1),
            mask=np.array([e.attention_mask for e in encodings], dtype=np.int64).reshape(len(texts), -1),
            present=np.array([text is not None for text in texts], dtype=bool),
            truncated=sum(bool(e.overflowing) for e in encodings),
        )

    def words(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """Word of each token of a batch, int64 (B, L), counted from 0 in each caption; -1 for special tokens.

        >>> CaptionTokenizer.train(["blood seen"], vocabulary=40, max_tokens=8).words(["blood seen"])
        array([[-1,  0,  1, -1]])
        """
        encodings = self._tokenizer.encode_batch(list(captions))
        return np.array(
            [
                [-1 if word is None or special else word for word, special in zip(e.word_ids, e.special_tokens_mask)]
                for e in encodings
            ],
            dtype=np.int64,
        ).reshape(len(encodings), -1)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into `folder`."""
        self._tokenizer.save(str(folder / TOKENIZER_FILE))

    @classmethod
    def load(cls, folder: Path, *, max_tokens: int) -> CaptionTokenizer:
        """Read tokenizer.json of `folder`, as written by wsikit or by transformers' fast tokenizers.

        Raises
        ------
        ModelError
            If the file is missing or damaged.
        """
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise ModelError(
                f"{path}: missing. Save the tokenizer as a fast tokenizer (tokenizer.json) into this folder."
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for any damage
            raise ModelError(f"{path}: not a tokenizer ({error}). Copy the model's folder again, whole.") from error
        return cls(tokenizer, max_tokens=max_tokens)

    @classmethod
    def train(cls, captions: Iterable[str], *, vocabulary: int, max_tokens: int) -> CaptionTokenizer:
        """Learn a vocabulary of at most `vocabulary` entries from captions, in lower case: byte-pair merges of letters.

        Digits are separate tokens, so that any number can be encoded. Equal captions give equal ids in every process,
        which a pretrained encoder needs. (The library's WordPiece does not ensure this: its merges of equally frequent
        pairs, and their ids, depend on the order of a hash table.)
        """
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[1]))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
        )
        tokenizer.train_from_iterator(
            captions,
            trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False),
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
        return cls(tokenizer, max_tokens=max_tokens)
