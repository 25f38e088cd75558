"""A word-level tokenizer made from the instructions themselves: nothing to download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from world2act.core.errors import BadInput

_PAD, _UNKNOWN = "[PAD]", "[UNK]"
_REMEDY = "restore the policy with `dvc checkout`"


def make_tokenizer(instructions: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for each word and each run of punctuation, lower-case; other words become the unknown token."""
    split = Whitespace()
    words = {word for text in instructions for word, _ in split.pre_tokenize_str(text.lower())}
    vocabulary = {word: i for i, word in enumerate([_PAD, _UNKNOWN, *sorted(words)])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=_UNKNOWN))
    backend.normalizer, backend.pre_tokenizer = Lowercase(), split
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=_PAD, unk_token=_UNKNOWN, padding_side="right")


def read_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Open a saved tokenizer. Raises `BadInput` when it is missing or damaged."""
    if not (directory / "tokenizer.json").exists():
        raise BadInput(directory / "tokenizer.json", "", "nothing", "a tokenizer", _REMEDY)
    try:
        return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInput(directory, "", str(error), "a tokenizer", _REMEDY) from error


def tokenize(tokenizer: PreTrainedTokenizerFast, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids int64 (B, L) and which of them are words, bool (B, L); L is the longest instruction's length."""
    encoded = tokenizer(list(instructions), padding=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"].bool()
