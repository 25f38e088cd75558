"""Prompts as embeddings: a T5 encoder and a tokenizer that needs no download (artifacts/tokenizer/text_*).

The default encoder is a tiny `T5EncoderModel` with random weights drawn from the seed and never trained: with a
handful of prompts, all that the world model needs of it is a distinct, repeatable code per word. A trained encoder
(T5-11B for the released Cosmos weights) comes in from a folder or a hub and stays in the number format of its files: it
is asked once for every prompt, and never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from world2act.core.errors import BadInput
from world2act.core.params import Tokenizer as TokenizerParams
from world2act.core.seeds import derive
from world2act.core.storage import read_json
from world2act.world_model.parts.checkpoint import load_strictly
from world2act.world_model.parts.hub import locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5EncoderModel

_HEAD_DIM = 16


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder, its tokenizer and the fixed number of tokens that a prompt is padded to."""

    model: T5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    length: int

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embed prompts: float32 (P, length, D), zero at padding and all zero for the empty prompt, which is no prompt:
        Cosmos-Predict2 was trained so (its conditioner drops a text by multiplying its embedding by 0).

        Raises:
            BadInput: a prompt does not fit into `length` tokens; nothing is cut off silently.
        """
        for prompt in prompts:
            tokens = len(self.tokenizer(prompt)["input_ids"])
            if tokens > self.length:
                raise BadInput(
                    "params.yaml",
                    "tokenizer.text_length",
                    f"{tokens} tokens in {prompt!r}",
                    f"at most {self.length}",
                    "raise text_length, or shorten the prompt",
                )
        tokens = self.tokenizer(list(prompts), padding="max_length", max_length=self.length, return_tensors="pt")
        mask = tokens["attention_mask"]
        hidden = self.model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        has_prompt = torch.tensor([bool(prompt) for prompt in prompts]).view(-1, 1, 1)
        return (hidden * mask[..., None] * has_prompt).float()

    def save(self, directory: Path) -> None:
        """Write text_encoder/ and text_tokenizer/."""
        self.model.save_pretrained(directory / "text_encoder")
        self.tokenizer.save_pretrained(directory / "text_tokenizer")


def make_text_encoder(prompts: Sequence[str], dim: int, layers: int, length: int, seed: int) -> TextEncoder:
    """A tiny T5 with random weights, and byte-level BPE merged on `prompts`: a known word is one token, and any
    other text can still be spelled."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    _hide_progress()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "</s>"]
    bpe.train_from_iterator(
        sorted(set(prompts)),
        trainers.BpeTrainer(vocab_size=2048, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=dim,
        d_kv=_HEAD_DIM,
        d_ff=4 * dim,
        num_layers=layers,
        num_heads=max(1, dim // _HEAD_DIM),
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "text encoder"))
        model = T5EncoderModel(config).eval().requires_grad_(False)
    return TextEncoder(model, tokenizer, length)


def load_text_encoder(directory: str | Path, length: int) -> TextEncoder:
    """Open text_encoder/ and text_tokenizer/ (or tokenizer/, as in a diffusers pipeline) under `directory`.

    Raises:
        BadInput: one of them is missing, or as `load_strictly`.
    """
    root = Path(directory)
    names = [name for name in ("text_tokenizer", "tokenizer") if (root / name).is_dir()]
    if not names:
        remedy = "run the tokenizer stage, or correct tokenizer.source"
        raise BadInput(root, "text_tokenizer", "nothing", "a saved tokenizer", remedy)
    return _open(root / "text_encoder", root / names[0], length)


def import_text_encoder(params: TokenizerParams) -> TextEncoder:
    """The encoder that `params` name: `tokenizer.text_encoder`, a T5 and its tokenizer in one folder as transformers
    saves them, or those of the pipeline `tokenizer.source`.

    Raises:
        BadInput: as `load_text_encoder`, or a hub does not give the files.
    """
    if params.text_encoder is None:
        patterns = [f"{name}/*" for name in ("text_encoder", "text_tokenizer", "tokenizer")]
        return load_text_encoder(locate(params.source, "tokenizer.source", patterns), params.text_length)
    folder = locate(params.text_encoder, "tokenizer.text_encoder", ["*.json", "*.safetensors", "spiece.model"])
    return _open(folder, folder, params.text_length)


def _open(encoder: Path, tokenizer: Path, length: int) -> TextEncoder:
    from transformers import AutoTokenizer, T5EncoderModel

    _hide_progress()
    model = load_strictly(T5EncoderModel, encoder, "run the tokenizer stage, or correct its parameters", dtype="auto")
    if (tokenizer / "tokenizer.json").is_file():
        read_json(tokenizer / "tokenizer.json")
    elif not (tokenizer / "spiece.model").is_file():
        # transformers would make one up, of no words
        expected = "a tokenizer: tokenizer.json or spiece.model"
        raise BadInput(tokenizer, "", "neither", expected, "put the tokenizer's files next to the encoder's")
    opened = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    if len(opened) > model.config.vocab_size:
        found, expected = f"{len(opened)} tokens", f"at most the encoder's {model.config.vocab_size}"
        raise BadInput(tokenizer, "", found, expected, "use the tokenizer that the encoder was trained with")
    return TextEncoder(model, opened, length)


def _hide_progress() -> None:
    """Transformers draws a bar for every file that it reads or writes, also where there is no terminal."""
    from transformers.utils import logging

    logging.disable_progress_bar()
