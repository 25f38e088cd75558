"""The GR00T-N1.6 network: vision-language model and flow-matching action head, in normalised units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world2act.policies.gr00t.action_head import ActionHead
from world2act.policies.gr00t.configuration import Gr00tConfig
from world2act.policies.gr00t.vision_language import VisionLanguageModel


class Gr00tModel(nn.Module):
    """Weights drawn from `seed`, whatever the global generator stands at.

    Pixels enter as their difference from `pixel_mean` (V, 3, S, S), divided by `pixel_std` (V, 1, 1, 1): 127.5 and
    127.5 are SigLIP2's own range of -1 to 1, the mean picture of a fixed camera spares a small encoder the learning of
    its background.
    """

    def __init__(self, config: Gr00tConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        cameras, side = len(config.cameras), config.image_size
        self.register_buffer("pixel_mean", torch.full((cameras, 3, side, side), 127.5))
        self.register_buffer("pixel_std", torch.full((cameras, 1, 1, 1), 127.5))
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
        features = self.backbone(self._scale(images), words, word_mask)
        return self.action_head(features, word_mask, proprio, noisy, times, self.config.embodiment_slot)

    @torch.inference_mode()
    def sample(self, images: Tensor, words: Tensor, word_mask: Tensor, proprio: Tensor, noise: Tensor) -> Tensor:
        """Follow the flow from noise (B, M, A) to normalised actions (B, M, A) in `sampler_steps` Euler steps."""
        steps, slot = self.config.sampler_steps, self.config.embodiment_slot
        features = self.backbone(self._scale(images), words, word_mask)
        actions = noise[:, None]
        for step in range(steps):
            times = torch.full(actions.shape[:2], step / steps, device=actions.device)
            actions = actions + self.action_head(features, word_mask, proprio, actions, times, slot) / steps
        return actions[:, 0]

    def _scale(self, images: Tensor) -> Tensor:
        return (images - self.pixel_mean) / self.pixel_std
