"""Images and an instruction → a sequence of features: SigLIP2, pixel-unshuffle, projector, Qwen3.

GR00T-N1.6's backbone (Eagle-Block2A-2B-v2) from transformers' own classes, without its language-model head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model, Siglip2VisionConfig, Siglip2VisionModel

from world2act.policies.gr00t.configuration import VisionLanguageSizes

_UNSHUFFLE = 2


class VisionLanguageModel(nn.Module):
    """Image tokens of every camera, then the words, through a causal decoder."""

    def __init__(self, sizes: VisionLanguageSizes) -> None:
        super().__init__()
        self.patch = sizes.vision_patch
        self.vision_model = Siglip2VisionModel(
            Siglip2VisionConfig(
                hidden_size=sizes.vision_dim,
                intermediate_size=sizes.vision_mlp_dim,
                num_hidden_layers=sizes.vision_layers,
                num_attention_heads=sizes.vision_heads,
                patch_size=sizes.vision_patch,
                num_patches=sizes.vision_positions**2,
                vision_use_head=False,
            )
        )
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(_UNSHUFFLE**2 * sizes.vision_dim),
            nn.Linear(_UNSHUFFLE**2 * sizes.vision_dim, sizes.language_dim),
            nn.GELU(),
            nn.Linear(sizes.language_dim, sizes.language_dim),
        )
        self.language_model = Qwen3Model(
            Qwen3Config(
                vocab_size=sizes.vocabulary,
                hidden_size=sizes.language_dim,
                intermediate_size=sizes.language_mlp_dim,
                num_hidden_layers=sizes.language_layers,
                num_attention_heads=sizes.language_heads,
                num_key_value_heads=sizes.language_kv_heads,
                head_dim=sizes.language_head_dim,
                use_cache=False,
            )
        )

    def forward(self, images: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode observations.

        Args:
            images: float (B, V, 3, S, S) in [-1, 1], one for each of V cameras.
            words: int64 (B, L) token ids, padded at the end; word_mask: bool (B, L), true on words.

        Returns:
            image features (B, V·(S / patch / 2)², D) and word features (B, L, D).
        """
        image_tokens = self.mlp1(self._vision(images.flatten(0, 1))).unflatten(0, images.shape[:2]).flatten(1, 2)
        seen = torch.ones(image_tokens.shape[:2], dtype=torch.bool, device=images.device)
        features = self.language_model(
            inputs_embeds=torch.cat([image_tokens, self.language_model.embed_tokens(words)], 1),
            attention_mask=torch.cat([seen, word_mask], 1),
        ).last_hidden_state
        return features.split([image_tokens.shape[1], words.shape[1]], 1)

    def _vision(self, images: Tensor) -> Tensor:
        """float (N, 3, S, S) → (N, (S / patch / 2)², 4 · vision_dim)."""
        side = images.shape[-1] // self.patch
        patches = images.unflatten(3, (side, self.patch)).unflatten(2, (side, self.patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        # one row of shapes for all images, which are of one size: SigLIP2 resizes its positions in a loop over the rows
        shape = torch.tensor([[side, side]])
        hidden = self.vision_model(patches, pixel_attention_mask=None, spatial_shapes=shape).last_hidden_state
        blocks = hidden.reshape(len(images), side // _UNSHUFFLE, _UNSHUFFLE, side // _UNSHUFFLE, _UNSHUFFLE, -1)
        return blocks.transpose(2, 3).flatten(3).flatten(1, 2)
