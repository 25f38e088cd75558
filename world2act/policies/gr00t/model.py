"""The GR00T-N1.6 network: vision-language model and flow-matching action head, in normalised units.

One network for every size. Its state_dict has the keys of NVIDIA's checkpoints: `backbone.model.*`, `action_head.*`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from world2act.core.seeds import derive
from world2act.policies.gr00t.action_head import ActionHead, Context
from world2act.policies.gr00t.configuration import NetworkConfig
from world2act.policies.gr00t.vision_language import Eagle


@dataclass(frozen=True)
class Inputs:
    """B observations as the network takes them; the processor makes them.

    Attributes:
        pixels: float (B, V, 3, H, W), images of one size, multiples of two patches, in the order of their tokens.
        prompt: int64 (B, L) ids; `VisionLanguageSizes.image_token` appears once per image token.
        mask: bool (B, L), false on padding, which may be on either side.
        state: float (B, T, state_dim), normalised proprioception, zero where padded; T is 1.
        slot: of the embodiment.
        dropped: bool (B,), observations whose state is hidden; noise: (B, T, D), added to the state's tokens. Both
            are of training alone.
    """

    pixels: Tensor
    prompt: Tensor
    mask: Tensor
    state: Tensor
    slot: int
    dropped: Tensor | None = None
    noise: Tensor | None = None

    def to(self, device: torch.device) -> Inputs:
        """The same inputs with every tensor on `device`."""
        return Inputs(
            pixels=self.pixels.to(device),
            prompt=self.prompt.to(device),
            mask=self.mask.to(device),
            state=self.state.to(device),
            slot=self.slot,
            dropped=None if self.dropped is None else self.dropped.to(device),
            noise=None if self.noise is None else self.noise.to(device),
        )


class Gr00tModel(nn.Module):
    """Weights drawn from `seed`, whatever the state of the global generator."""

    def __init__(self, config: NetworkConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "gr00t"))
            self.backbone = nn.ModuleDict({"model": Eagle(config.vision_language)})
            self.action_head = ActionHead(config.action_head, config.vision_language.language_dim)

    @property
    def eagle(self) -> Eagle:
        """The vision-language model."""
        return cast(Eagle, self.backbone["model"])

    @classmethod
    def from_config(cls, config: NetworkConfig) -> Self:
        return cls(config)

    def forward(self, inputs: Inputs, noisy: Tensor, times: Tensor) -> Tensor:
        """Velocity (B, K, M, A) of K noisy chunks (B, K, M, A) at times (B, K): the observation is encoded once."""
        return self.action_head(self.encode(inputs), noisy, times)

    def encode(self, inputs: Inputs) -> Context:
        features = self.eagle(inputs.pixels, inputs.prompt, inputs.mask)
        image_mask = inputs.prompt == self.config.vision_language.image_token
        return self.action_head.context(
            features, image_mask, inputs.mask, inputs.state, inputs.slot, inputs.dropped, inputs.noise
        )

    @torch.inference_mode()
    def sample(self, inputs: Inputs, noise: Tensor) -> Tensor:
        """Follow the flow from noise (B, M, A) to normalised actions (B, M, A) in `sampler_steps` Euler steps."""
        steps = self.config.action_head.sampler_steps
        context, actions = self.encode(inputs), noise[:, None]
        for step in range(steps):
            times = torch.full(actions.shape[:2], step / steps, device=actions.device)
            actions = actions + self.action_head(context, actions, times) / steps
        return actions[:, 0]

    def enable_gradient_checkpointing(self) -> None:
        """Compute the activations of every layer again in the backward pass instead of keeping them."""
        for part in (self.eagle.vision_encoder, self.eagle.decoder):
            part.activation_checkpointing_enable({"use_reentrant": False})
        self.action_head.model.gradient_checkpointing = True
