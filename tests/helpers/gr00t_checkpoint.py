"""A GR00T-N1.6 checkpoint of a tiny size in NVIDIA's layout, with random weights: what a test puts where a user puts
the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from world2act.core.storage import write_json
from world2act.policies.gr00t.checkpoint import read_config
from world2act.policies.gr00t.configuration import NetworkConfig
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.processing import make_tokenizer

EMBODIMENT = "libero_panda"
INSTRUCTIONS = ["pick up the milk and place it in the basket", "open the drawer"]
SLOTS = {"oxe_google": 0, EMBODIMENT: 2, "new_embodiment": 10}
PARTS = {"x": 1, "y": 1, "z": 1, "roll": 1, "pitch": 1, "yaw": 1, "gripper": 1}
STATE_PARTS = {**PARTS, "gripper": 2}
CHUNK = 8
_WIDTH = 32


def write_checkpoint(folder: Path, seed: int = 0, **changed: Any) -> Path:
    """Fill `folder`; `changed` are other values for config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(INSTRUCTIONS)
    tokenizer.save_pretrained(folder / "tokenizer")
    image_token = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    write_json(folder / "tokenizer/config.json", eagle(vocabulary=len(tokenizer) + 3, image_token=image_token))
    write_json(folder / "config.json", config() | changed)
    save_torch_state_dict(tensors(read_config(folder), seed), folder, max_shard_size="200KB")
    write_json(folder / "processor_config.json", processor())
    write_json(folder / "statistics.json", {EMBODIMENT: statistics()})
    write_json(folder / "embodiment_id.json", SLOTS)
    return folder


def tensors(sizes: NetworkConfig, seed: int) -> dict[str, Tensor]:
    """bfloat16 weights by NVIDIA's names, with those that an imitation policy does not use."""
    weights = Gr00tModel(sizes, seed).state_dict()
    words, width = sizes.vision_language.vocabulary, sizes.vision_language.vision_dim
    weights["backbone.model.language_model.lm_head.weight"] = torch.randn(words, sizes.vision_language.language_dim)
    weights["backbone.model.vision_model.vision_model.head.probe"] = torch.randn(1, 1, width)
    return {key: weight.to(torch.bfloat16) for key, weight in weights.items()}


def config() -> dict[str, Any]:
    """config.json, by the keys of NVIDIA's Gr00tN1d6Config."""
    return {
        "architectures": ["Gr00tN1d6"],
        "model_type": "Gr00tN1d6",
        "model_dtype": "bfloat16",
        "model_name": "nvidia/Eagle-Block2A-2B-v2",
        "backbone_model_type": "eagle",
        "backbone_embedding_dim": _WIDTH,
        "select_layer": 2,
        "load_bf16": True,
        "max_state_dim": 12,
        "max_action_dim": 10,
        "action_horizon": 12,
        "hidden_size": 24,
        "input_embedding_dim": _WIDTH,
        "max_num_embodiments": 16,
        "max_seq_len": 64,
        "add_pos_embed": True,
        "use_vlln": True,
        "use_alternate_vl_dit": True,
        "attend_text_every_n_blocks": 2,
        "diffusion_model_cfg": {
            "positional_embeddings": None,
            "num_layers": 4,
            "num_attention_heads": 4,
            "attention_head_dim": _WIDTH // 4,
            "norm_type": "ada_norm",
            "dropout": 0.2,
            "final_dropout": True,
            "output_dim": 24,
            "interleave_self_attention": True,
        },
        "num_inference_timesteps": 4,
        "noise_beta_alpha": 1.5,
        "noise_beta_beta": 1.0,
        "noise_s": 0.999,
        "num_timestep_buckets": 1000,
        "state_dropout_prob": 0.8,
        "state_additive_noise_scale": 0.0,
        "torch_dtype": "bfloat16",
    }


def eagle(vocabulary: int, image_token: int) -> dict[str, Any]:
    """The backbone's own config.json, which NVIDIA keeps beside its tokenizer."""
    return {
        "architectures": ["Eagle3_VLForConditionalGeneration"],
        "model_type": "eagle_3_vl",
        "downsample_ratio": 0.5,
        "select_layer": -1,
        "image_token_index": image_token,
        "vision_config": {
            "model_type": "siglip2_vision_model",
            "hidden_size": _WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_patches": 16,
            "patch_size": 14,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "use_rope": False,
            "use_windows_attn": False,
        },
        "text_config": {
            "model_type": "qwen3",
            "hidden_size": _WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000,
            "rope_scaling": None,
            "attention_bias": False,
            "use_sliding_window": False,
            "vocab_size": vocabulary,
        },
    }


def processor() -> dict[str, Any]:
    """processor_config.json, as NVIDIA's Gr00tN1d6Processor saves it."""

    def modality(keys: list[str], steps: int = 1, **more: Any) -> dict[str, Any]:
        unsaid = {"sin_cos_embedding_keys": None, "mean_std_embedding_keys": None, "action_configs": None}
        return {"delta_indices": [*range(steps)], "modality_keys": keys, **unsaid, **more}

    form = {"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None}
    embodiment = {
        "video": modality(["image", "wrist_image"]),
        "state": modality([*STATE_PARTS]),
        "action": modality([*PARTS], CHUNK, action_configs=[form] * len(PARTS)),
        "language": modality(["annotation.human.action.task_description"]),
    }
    kwargs = {
        "modality_configs": {EMBODIMENT: embodiment},
        "image_crop_size": None,
        "image_target_size": None,
        "use_albumentations": True,
        "random_rotation_angle": None,
        "color_jitter_params": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
        "shortest_image_edge": 64,
        "crop_fraction": 0.95,
        "model_name": "nvidia/Eagle-Block2A-2B-v2",
        "model_type": "eagle",
        "formalize_language": True,
        "max_state_dim": 12,
        "max_action_dim": 10,
        "max_action_horizon": 12,
        "use_percentiles": False,
        "clip_outliers": True,
        "apply_sincos_state_encoding": False,
        "use_relative_action": False,
    }
    return {"processor_class": "Gr00tN1d6Processor", "processor_kwargs": kwargs}


def statistics() -> dict[str, Any]:
    """Of one embodiment, each part with its own ranges."""

    def measured(parts: dict[str, int]) -> dict[str, dict[str, list[float]]]:
        shapes = {"min": -1.0, "max": 1.5, "mean": 0.2, "std": 0.4, "q01": -0.9, "q99": 1.2}
        return {
            part: {key: [value * (1 + place / 10)] * width for key, value in shapes.items()}
            for place, (part, width) in enumerate(parts.items())
        }

    return {"state": measured(STATE_PARTS), "action": measured(PARTS)}
