"""The guardrail between imagined frames and the people who look at them.

NVIDIA's licence for the Cosmos weights ends if their guardrail is removed and not replaced by a similar one. Therefore
everything that imported weights imagine passes NVIDIA's own (`cosmos_guardrail`: it checks prompts against a block list
and with a language model, and blurs faces) wherever it becomes a picture, unless `world_model.guardrail` says none. A
network trained from random weights needs none, and nobody sees imagined latents that are only trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.params import WorldModel as WorldModelParams


def guardrail_of(params: WorldModelParams) -> str:
    """The guardrail in a world model's config.json: "cosmos" or "none"."""
    return params.guardrail if params.weights is not None else "none"


def open_guardrail(config: Mapping[str, Any]) -> Guardrail:
    """The guardrail of a world model, from the content of its config.json.

    Raises:
        BadInput: `cosmos_guardrail` is not installed.
    """
    if config["guardrail"] == "none":
        return Guardrail(None)
    try:
        from cosmos_guardrail import CosmosSafetyChecker
    except ModuleNotFoundError as error:
        raise BadInput(
            "params.yaml",
            "world_model.guardrail",
            f"cosmos, and no module {error.name}",
            "the package cosmos_guardrail and the torchvision that it needs, or none",
            "install it; or set none, put a guardrail of your own in its place, and answer for the weights' licence",
        ) from error
    return Guardrail(CosmosSafetyChecker())


@dataclass(frozen=True)
class Guardrail:
    """Lets through what `checker` does; None lets everything through.

    Attributes:
        checker: has `check_text_safety(prompt) -> bool` and `check_video_safety(frames) -> frames or None`.
    """

    checker: Any | None

    def check(self, prompts: Iterable[str]) -> None:
        """Raises `BadInput` for a prompt that the guardrail refuses."""
        for prompt in prompts:
            if self.checker is not None and prompt and not self.checker.check_text_safety(prompt):
                found = f"{prompt!r}, refused by the guardrail"
                raise BadInput("artifacts/skills", "prompt", found, "prompts that it lets through", "word it otherwise")

    def show(self, videos: np.ndarray) -> np.ndarray:
        """Imagined videos, uint8 (B, T, H, W, 3), as people may see them: one that is refused is black."""
        if self.checker is None:
            return videos
        passed = [self.checker.check_video_safety(video) for video in videos]
        blank = np.zeros_like(videos[0])
        return np.stack([blank if video is None else np.asarray(video, np.uint8) for video in passed])
