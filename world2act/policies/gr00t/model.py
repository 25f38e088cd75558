"""The GR00T-N1.6 network: vision-language model and flow-matching action head, in normalised units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world2act.policies.gr00t.action_head import ActionHead
from world2act.policies.gr00t.configuration import Gr00tConfig
from world2act.policies.gr00t.vision_language import VisionLanguageModel


class Gr00tModel(nn.Module):
    """Weights drawn from `seed`, whatever the global generator stands at."""

    def __init__(self, config: Gr00tConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = VisionLanguageModel(config.vision_language)
            self.action_head = ActionHead(
                config.action_head,
                context_dim=config.vision_language.language_dim,
                proprio_dim=config.proprio_dim,
                action_dim=config.action_dim,
            )

    def forward(
        self, images: Tensor, words: Tensor, word_mask: Tensor, proprio: Tensor, noisy: Tensor, times: Tensor
    ) -> Tensor:
        """Velocity (B, K, M, A) of K noisy chunks (B, K, M, A) at times (B, K): the observation is encoded once.

        Images are uint8 (B, V, 3, S, S); the rest as in `ActionHead`.
        """
        features = self.backbone(scale(images), words, word_mask)
        return self.action_head(features, word_mask, proprio, noisy, times, self.config.embodiment_slot)

    @torch.inference_mode()
    def sample(self, images: Tensor, words: Tensor, word_mask: Tensor, proprio: Tensor, noise: Tensor) -> Tensor:
        """Follow the flow from noise (B, M, A) to normalised actions (B, M, A) in `sampler_steps` Euler steps."""
        steps, slot = self.config.sampler_steps, self.config.embodiment_slot
        features = self.backbone(scale(images), words, word_mask)
        actions = noise[:, None]
        for step in range(steps):
            times = torch.full(actions.shape[:2], step / steps, device=actions.device)
            actions = actions + self.action_head(features, word_mask, proprio, actions, times, slot) / steps
        return actions[:, 0]


def scale(images: Tensor) -> Tensor:
    """uint8 pixels → float in [-1, 1], SigLIP2's range."""
    return images.float() / 127.5 - 1
