"""A causal language model in a local folder as a chat model: safetensors, no download, no code from the folder.

Decoding is greedy, so the same model gives the same answers. params.yaml pins the folder by its hash, so DVC notices
another model, and a machine without the folder can reuse the answers of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from world2act.core.params.skills import LocalModel, Price
from world2act.core.storage import sha256
from world2act.skills.model_provider import ChatError, Keep
from world2act.skills.prompts import Conversation
from world2act.skills.replies import Reply

_BLOCK = "skills.transformers"


class TransformersChat:
    """The chat model of `skills.transformers`, loaded when the first question is asked."""

    provider = "transformers"
    price = Price(prompt=0.0, completion=0.0)

    def __init__(self, local: LocalModel) -> None:
        self.model = Path(local.path).name
        self.settings: Mapping[str, object] = {
            "sha256": local.sha256,
            "dtype": local.dtype,
            "max_tokens": local.max_tokens,
        }
        self._local = local

    def ask(self, conversations: Sequence[Conversation], keep: Keep) -> None:
        tokenizer, model = self._load()
        for start in range(0, len(conversations), self._local.batch_size):
            batch = conversations[start : start + self._local.batch_size]
            for i, reply in enumerate(self._generate(tokenizer, model, batch), start):
                keep(i, reply)

    def _load(self) -> tuple[Any, Any]:
        folder = Path(self._local.path)
        if not (folder / "config.json").is_file():
            raise ChatError(
                "params.yaml",
                f"no model in {folder}",
                "a folder with config.json",
                "correct the path",
                f"{_BLOCK}.path",
            )
        if (found := sha256(folder)) != self._local.sha256:
            raise ChatError(
                "params.yaml",
                f"a folder of sha256 {found}",
                self._local.sha256,
                "write the found sha256 to use this model, or restore the pinned one",
                f"{_BLOCK}.sha256",
            )
        options = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **options)
            model = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, dtype=getattr(torch, self._local.dtype), **options
            )
            # transformers wraps `to` so that its signature lists `self` again
            model = model.to(self._local.device).eval()  # type: ignore[arg-type]
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ChatError(
                "params.yaml",
                f"{folder} does not load: {error}",
                "a causal language model in safetensors",
                "save it again with save_pretrained",
                f"{_BLOCK}.path",
            ) from None
        if tokenizer.chat_template is None:
            raise ChatError(
                "params.yaml",
                f"no chat template in {folder}",
                "an instruction-tuned model with a chat template",
                "choose another model",
                f"{_BLOCK}.path",
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer, model

    def _generate(self, tokenizer: Any, model: Any, batch: Sequence[Conversation]) -> list[Reply]:
        messages = [
            [{"role": "system", "content": chat.system}, {"role": "user", "content": chat.user}] for chat in batch
        ]
        tokens = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        ).to(model.device)
        width = tokens["input_ids"].shape[1]
        longest = getattr(model.config, "max_position_embeddings", width + self._local.max_tokens)
        if width + self._local.max_tokens > longest:
            raise ChatError(
                "params.yaml",
                f"{width} tokens of prompt and up to {self._local.max_tokens} of answer",
                f"at most {longest} in total, the model's context length",
                "lower max_tokens, or choose another model",
                f"{_BLOCK}.max_tokens",
            )
        with torch.inference_mode():
            output = model.generate(
                **tokens, max_new_tokens=self._local.max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        ends = model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or [])
        return [
            _reply(tokenizer, row, int(mask.sum()), ends)
            for row, mask in zip(output[:, width:].tolist(), tokens["attention_mask"], strict=True)
        ]


def _reply(tokenizer: Any, tokens: list[int], prompt_tokens: int, ends: set[int]) -> Reply:
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    said = tokens if end is None else tokens[:end]
    return Reply(
        raw=tokenizer.decode(said, skip_special_tokens=True),
        finish="length" if end is None else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(tokens) if end is None else end + 1,
    )
