"""Checkpoints in NVIDIA's and in Wan's own layout, written from a diffusers model without diffusers' converters."""

import re

import torch
from torch import Tensor, nn

_COSMOS = (
    (r"patch_embed\.proj\.", "x_embedder.proj.1."),
    (r"time_embed\.t_embedder\.", "t_embedder.1."),
    (r"time_embed\.norm\.", "t_embedding_norm."),
    (r"transformer_blocks\.(\d+)\.", r"blocks.\1."),
    (r"\.norm1\.linear_(\d)", r".adaln_modulation_self_attn.\1"),
    (r"\.norm2\.linear_(\d)", r".adaln_modulation_cross_attn.\1"),
    (r"\.norm3\.linear_(\d)", r".adaln_modulation_mlp.\1"),
    (r"norm_out\.linear_(\d)", r"final_layer.adaln_modulation.\1"),
    (r"proj_out\.", "final_layer.linear."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1_proj."),
    (r"\.norm_([qk])\.", r".\1_norm."),
    (r"\.to_out\.0\.", ".output_proj."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.layer1."),
    (r"\.ff\.net\.2\.", ".mlp.layer2."),
)


def cosmos_layout(network: nn.Module) -> dict[str, Tensor]:
    """As in model-480p-16fps.pt: names behind "net.", and what the file holds beside weights."""
    state = {"net." + _renamed(key, _COSMOS): tensor for key, tensor in network.state_dict().items()}
    return state | {
        "net.pos_embedder.seq": torch.arange(240.0),
        "net.pos_embedder.dim_spatial_range": torch.arange(3.0),
        "net.pos_embedder.dim_temporal_range": torch.arange(3.0),
        "net.accum_iteration": torch.tensor(7),
        "net.blocks.0.self_attn.q_norm._extra_state": torch.empty(0, dtype=torch.uint8),
    }


_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}


def wan_layout(vae: nn.Module) -> dict[str, Tensor]:
    """As in Wan2.1_VAE.pth. Its decoder counts residual blocks and upsamplers in one row: four a level."""
    state = {}
    for key, tensor in vae.state_dict().items():
        name = _renamed(key, ((r"^quant_conv", "conv1"), (r"^post_quant_conv", "conv2"), (r"conv_in\.", "conv1.")))
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
        name = name.replace("mid_block.attentions.0", "middle.1").replace("norm_out", "head.0")
        name = name.replace("conv_out", "head.2").replace("down_blocks", "downsamples")
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", name)
        if "middle" in name or "samples" in name:
            name = name.replace("conv_shortcut", "shortcut")
            name = re.sub(r"\.(norm1|conv1|norm2|conv2)\.", lambda m: f".{_RESIDUAL[m[1]]}.", name)
        state[name] = tensor
    return state


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
