"""The world model's own objective on the real transformer, made tiny, and on eight clips of noise."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.helpers.paths import ROOT
from tests.helpers.toy_training import kill, run_toy
from world2act.core.params import Lora, compose, parse_params
from world2act.core.stage import is_main
from world2act.training.objective import BatchPosition
from world2act.world_model.learning.loss import DenoisingObjective
from world2act.world_model.learning.tuning import add_lora, merge, save_adapter
from world2act.world_model.parts.conditioning import LatentSpace
from world2act.world_model.parts.transformer import build_transformer

LORA = Lora(rank=2, alpha=4.0, dropout=0.0, targets=["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"])


class ToyWorldModel(DenoisingObjective):
    def __init__(self, *, lora: bool, checkpointing: bool) -> None:
        own = parse_params(compose("default", ROOT), "conf/profile/default.yaml").world_model
        size = {"heads": 2, "head_dim": 16, "layers": 2, "adaln_lora_dim": 8, "gradient_checkpointing": checkpointing}
        network = build_transformer(own.model_copy(update=size), 16, 8, 0)
        if lora:
            add_lora(network, LORA, 0)
        if checkpointing:
            network.enable_gradient_checkpointing()
        rng = np.random.default_rng(0)
        latents, embeds = rng.normal(size=(8, 3, 16, 4, 4)).astype(np.float32), rng.normal(size=(2, 4, 8))
        clips = [
            SimpleNamespace(latents=3, prompt_row=0, dataset="toy", episode_index=index, skill_index=0)
            for index in range(8)
        ]
        cache: Any = SimpleNamespace(
            latents=lambda clip: latents[clip.episode_index], no_prompt=1, prompt_embeds=embeds.astype(np.float32)
        )
        super().__init__(
            network,
            cache,
            clips,
            LatentSpace(),
            conditioning_latents=[1],
            text_dropout=0.2,
            high_sigma_share=0.05,
            seed=0,
        )

    def batch(self, position: BatchPosition) -> Any:
        kill(position)
        return super().batch(position)


def train_toy_world_model(configuration: str, options: dict[str, Any]) -> None:
    """One run of 6 steps; with `lora`, rank 0 writes the adapter and the merged transformer too.

    Args:
        options: `environment` (KILL_AT), `lora`, `checkpointing`, and what `run_toy` takes.
    """
    os.environ |= options.pop("environment", {})
    lora, checkpointing = options.pop("lora", False), options.pop("checkpointing", False)
    objective = ToyWorldModel(lora=lora, checkpointing=checkpointing)
    short = {"steps": 6, "warmup_steps": 1, "checkpoint_every": 3, "learning_rate": 1e-3}
    trained = run_toy(objective, configuration, short | options)
    if is_main() and lora:
        save_adapter(objective.model, trained.ema, Path("lora"))
        merged = type(objective.model).from_config(objective.model.config)
        merged.load_state_dict(merge(objective.model, trained.ema))
        merged.save_pretrained("merged")
