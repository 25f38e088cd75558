"""Instructions → token ids, with a place in them for every token of every picture.

Source: Eagle-Block2A-2B-v2's processor in NVIDIA's Isaac-GR00T (processing_eagle3_vl.py): the chat template writes
<image-N> for the Nth picture, which becomes `<image N><img>`, an <IMG_CONTEXT> for each token of the picture, `</img>`.
Theirs pads on the left, for flash attention; ours on the right, where no attention has a row without keys.
What is not padding comes out the same: a causal decoder sees only what is before it, and turns by distance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from world2act.core.errors import BadInput

FOLDER = "tokenizer"
IMAGE_START, IMAGE_TOKEN, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
_PAD, _UNKNOWN = "[PAD]", "[UNK]"
_PLACEHOLDER = re.compile(r"<image-(\d+)>")
_MAX_VIEWS = 8
_REMEDY = "put the tokenizer of the checkpoint's language model there: tokenizer.json, or vocab.json and merges.txt"
# pictures first, that the words know what is seen; a small decoder learns nothing from the frame of a dialogue
_TEMPLATE = (
    "{% set n = namespace(value=0) %}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set n.value = n.value + 1 %}<image-{{ n.value }}>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}"
)


def formalize(instruction: str) -> str:
    """Lower case, without punctuation."""
    return re.sub(r"[^\w\s]", "", instruction.lower())


def encode(
    tokenizer: PreTrainedTokenizerBase, instructions: Sequence[str], tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Write one message of words and pictures for each instruction.

    Args:
        tokens: of each picture.

    Returns:
        token ids int64 (B, L) and which of them are no padding, bool (B, L).

    Raises:
        BadInput: an instruction, or the tokenizer's template, leaves another number of places for the pictures.
    """
    texts = [_write(tokenizer, instruction, tokens) for instruction in instructions]
    encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
    places = (ids == image_token_id(tokenizer)).sum(1).tolist()
    for instruction, found in zip(instructions, places, strict=True):
        if found != sum(tokens):
            expected = f"{sum(tokens)}, {list(tokens)} for each picture"
            remedy = f"leave {IMAGE_TOKEN} and <image-1> out of the words; use the language model's own tokenizer"
            raise BadInput("an instruction", repr(instruction[:200]), f"{found} image tokens", expected, remedy)
    return ids, mask


def _write(tokenizer: PreTrainedTokenizerBase, instruction: str, tokens: Sequence[int]) -> str:
    content = [{"type": "text", "text": instruction}, *({"type": "image"} for _ in tokens)]
    message = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(message, tokenize=False)  # type: ignore[arg-type]  # it lists text messages only
    assert isinstance(text, str)  # since it was not to tokenize

    def expand(place: re.Match[str]) -> str:
        number = int(place[1])
        length = tokens[number - 1] if 1 <= number <= len(tokens) else 0
        return f"<image {number}>{IMAGE_START}{IMAGE_TOKEN * length}{IMAGE_END}"

    return _PLACEHOLDER.sub(expand, text)


def make_tokenizer(instructions: Iterable[str], template: str = _TEMPLATE) -> PreTrainedTokenizerFast:
    """One token for each word of the formalized instructions and each special token; nothing to download.

    Args:
        template: how a message is written, in Jinja.
    """
    split = Whitespace()
    words = {word for text in instructions for word, _ in split.pre_tokenize_str(formalize(text))}
    numbers = [f"<image {n}>" for n in range(1, _MAX_VIEWS + 1)]
    special = ["<|im_start|>", "<|im_end|>", IMAGE_START, IMAGE_TOKEN, IMAGE_END, *numbers]
    vocabulary = {word: i for i, word in enumerate([_PAD, _UNKNOWN, *special, *sorted(words)])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=_UNKNOWN))
    backend.normalizer, backend.pre_tokenizer = Lowercase(), split
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=_PAD, unk_token=_UNKNOWN, chat_template=template)


def image_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that marks the position of an image token in a prompt."""
    found = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if not isinstance(found, int):  # one token has one id; transformers' annotation covers lists too
        raise TypeError(f"{IMAGE_TOKEN} has the ids {found}")
    return found


def find_tokenizer(folder: Path) -> Path:
    """Where a checkpoint's folder has it."""
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open a tokenizer with a chat template and image tokens; no code from the folder runs.

    Raises:
        BadInput: there is none, it is damaged, or it has no chat template or image token.
    """
    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        else:
            raise BadInput(folder, "tokenizer.json", "nothing", "a tokenizer", _REMEDY)
    except (OSError, ValueError) as error:
        raise BadInput(folder, "", str(error), "a tokenizer", _REMEDY) from error
    if tokenizer.chat_template is None and (folder / "chat_template.json").exists():
        tokenizer.chat_template = json.loads((folder / "chat_template.json").read_text("utf-8"))["chat_template"]
    if tokenizer.chat_template is None:
        raise BadInput(folder, "chat_template", "none", "how a message is written, in Jinja", _REMEDY)
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        raise BadInput(folder, IMAGE_TOKEN, "no such token", "the token of a picture", _REMEDY)
    return tokenizer
