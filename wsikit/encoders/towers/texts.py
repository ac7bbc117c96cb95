"""From texts to the ids that a text tower reads, by the tokenizer file of the model's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsikit.errors import ModelError, RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextReader:
    """Tokenizer of one model, with its length of context.

    Parameters
    ----------
    path
        A file of the `tokenizers` library (`.json`), of sentencepiece (`.spm`, `.model`), or a word list of BERT
        (`.txt`; upper case is made lower case).
    context
        Tokens of a text at most, start and end included. A longer text is refused: cut, it would mean something else.
    vocabulary
        Rows of the tower's token table.
    pad
        Token that fills shorter texts.

    Raises
    ------
    ModelError
        The file is damaged, has no such token, or more tokens than the tower.
    """

    def __init__(self, path: Path, *, context: int, vocabulary: int, pad: str) -> None:
        self.context = context
        self.tokenizer = _open(path)
        pad_id = self.tokenizer.token_to_id(pad)
        if pad_id is None:
            raise ModelError(f"{path}: has no token {pad!r}; use the tokenizer file that was published with the model.")
        self.pad_id = pad_id
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if size > vocabulary:
            raise ModelError(
                f"{path}: has {size} tokens, the text tower {vocabulary}; use the tokenizer file that was published "
                "with the model."
            )
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids, int64 (K, context), filled up, and where they are not filling, bool (K, context).

        Raises
        ------
        RequestError
            A text is empty or too long.
        """
        ids = torch.full((len(texts), self.context), self.pad_id, dtype=torch.int64)
        given = torch.zeros((len(texts), self.context), dtype=torch.bool)
        for row, text in enumerate(texts):
            if not text.strip():
                raise RequestError(f"text {row + 1} of {len(texts)} is empty; expected words.")
            tokens = self.tokenizer.encode(text).ids
            if len(tokens) > self.context:
                raise RequestError(
                    f"text {row + 1} of {len(texts)} ({text[:40]!r}…) has {len(tokens)} tokens; this encoder reads "
                    f"{self.context} at most. Shorten it."
                )
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            given[row, : len(tokens)] = True
        return ids, given


def tokenizer_file(folder: Path, names: Sequence[str], advice: str) -> Path:
    """The first of `names` in `folder`.

    Raises
    ------
    ModelError
        There is none; ends with `advice`.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder}: has no tokenizer file ({' or '.join(names)}), which texts need. {advice}")


def _open(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if path.suffix in (".spm", ".model"):
        from wsikit.encoders.towers.sentences import sentence_tokenizer

        return sentence_tokenizer(path)
    if path.suffix == ".txt":
        return _word_pieces(path)

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{path}: is no tokenizer file ({error}); copy it again from its source.") from error


def _word_pieces(path: Path) -> Tokenizer:
    """BERT's uncased tokenizer, from its list of word pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = path.read_text(encoding="utf-8").splitlines()
    places = {word: place for place, word in enumerate(words)}
    if missing := [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in places]:
        raise ModelError(f"{path}: is no word list of BERT, it has no {', '.join(missing)}.")
    tokenizer = Tokenizer(models.WordPiece(places, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, places[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer
