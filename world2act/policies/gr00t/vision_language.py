"""Images and a prompt → a sequence of features: SigLIP2, pixel-unshuffle, projector, Qwen3.

GR00T-N1.6's backbone (Eagle-Block2A-2B-v2) from transformers' own classes, without its language-model head. The names
of its modules are those of NVIDIA's checkpoints. Source: NVIDIA/Isaac-GR00T, gr00t/model/modules/eagle_backbone.py and
modeling_eagle3_vl.py; its SigLIP2 runs there without windows and without rotary embeddings (the folder's config.json).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3Model, Siglip2VisionConfig, Siglip2VisionModel

from world2act.policies.gr00t.configuration import UNSHUFFLE, VisionLanguageSizes


class Eagle(nn.Module):
    """Image tokens take the places of the image token's id in the prompt; a causal decoder reads the whole."""

    def __init__(self, sizes: VisionLanguageSizes) -> None:
        super().__init__()
        self.patch, self.image_token = sizes.vision_patch, sizes.image_token
        vision = Siglip2VisionConfig(
            hidden_size=sizes.vision_dim,
            intermediate_size=sizes.vision_mlp_dim,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            patch_size=sizes.vision_patch,
            num_patches=sizes.vision_positions**2,
            vision_use_head=False,
        )
        language = Qwen3Config(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.language_dim,
            intermediate_size=sizes.language_mlp_dim,
            num_hidden_layers=sizes.language_layers,
            num_attention_heads=sizes.language_heads,
            num_key_value_heads=sizes.language_kv_heads,
            head_dim=sizes.language_head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.language_rope_theta},
            use_cache=False,
        )
        # transformers' older classes, which NVIDIA's checkpoints are named after, hold the model one level deeper
        self.vision_model = nn.ModuleDict({"vision_model": Siglip2VisionModel(vision)})
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(UNSHUFFLE**2 * sizes.vision_dim),
            nn.Linear(UNSHUFFLE**2 * sizes.vision_dim, sizes.language_dim),
            nn.GELU(),
            nn.Linear(sizes.language_dim, sizes.language_dim),
        )
        self.language_model = nn.ModuleDict({"model": Qwen3Model(language)})

    @property
    def vision_encoder(self) -> Siglip2VisionModel:
        return cast(Siglip2VisionModel, self.vision_model["vision_model"])

    @property
    def decoder(self) -> Qwen3Model:
        return cast(Qwen3Model, self.language_model["model"])

    def forward(self, pixels: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
        """Features (B, L, D) of a prompt, after the decoder's last norm.

        Args:
            pixels: (B, V, 3, H, W) in [-1, 1], the V images of a prompt in the order of their tokens.
            prompt: int64 (B, L) ids, with the image token once per image token.
            mask: bool (B, L), false on padding.
        """
        language = self.decoder
        embedded = language.embed_tokens(prompt)
        images = self.mlp1(self.vision(pixels.flatten(0, 1))).to(embedded.dtype)
        places = (prompt == self.image_token)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(places, images)
        return language(inputs_embeds=embedded, attention_mask=mask).last_hidden_state

    def vision(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, H / patch / 2 · W / patch / 2, 4 · vision_dim)."""
        rows, columns = (side // self.patch for side in images.shape[-2:])
        patches = images.unflatten(3, (columns, self.patch)).unflatten(2, (rows, self.patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        # one row of shapes for all images, which are of one size: SigLIP2 resizes its positions in a loop over the rows
        shape = torch.tensor([[rows, columns]])
        encoder = self.vision_encoder
        hidden = encoder(patches, pixel_attention_mask=None, spatial_shapes=shape).last_hidden_state
        grid = hidden.transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_unshuffle(grid, UNSHUFFLE).flatten(2).transpose(1, 2)
