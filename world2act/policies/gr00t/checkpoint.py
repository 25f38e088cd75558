"""A GR00T-N1.6 checkpoint in NVIDIA's layout → the network, with every dimension from the checkpoint.

config.json                        the sizes of the action head, the name of the backbone
model-0000N-of-0000M.safetensors   the weights, with model.safetensors.index.json (`shards.py`)
tokenizer/                         the backbone's tokenizer; for a backbone other than NVIDIA's, also its config.json

NVIDIA keeps the backbone's folder (Eagle-Block2A-2B-v2) in its source, not in the checkpoint; the content of that
config.json is repeated here. Source: NVIDIA/Isaac-GR00T, gr00t/configs/model/gr00t_n1d6.py and gr00t/model/modules/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from world2act.core.errors import BadInput
from world2act.core.storage import read_json
from world2act.policies.gr00t import shards
from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.model import Gr00tModel
from world2act.world_model.parts.hub import locate

MODEL_TYPE = "Gr00tN1d6"
_FILES = ["*.json", "*.safetensors", "tokenizer/*.json", "tokenizer/*.txt"]
_UNUSED = re.compile(
    r"backbone\.model\.(language_model\.lm_head\.weight|vision_model\.vision_model\.head\..*)|action_head\.mask_token"
)
_REMEDY = "use GR00T-N1.6-3B or a checkpoint fine-tuned from it, with the config.json that came with it"

# what NVIDIA's classes take where a file says nothing; the network is built for these values alone
_HEAD = {
    "use_alternate_vl_dit": True,
    "use_vlln": True,
    "add_pos_embed": True,
    "noise_beta_alpha": 1.5,
    "noise_beta_beta": 1.0,
    "noise_s": 0.999,
}
_TRANSFORMER = {
    "norm_type": "ada_norm",
    "final_dropout": True,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "upcast_attention": False,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
_TRANSFORMER_SAID = {"positional_embeddings": None, "interleave_self_attention": True}
_BACKBONE = {"model_type": "eagle_3_vl", "downsample_ratio": 0.5, "select_layer": -1}
_VISION = {
    "model_type": "siglip2_vision_model",
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "use_rope": False,
    "use_windows_attn": False,
}
_LANGUAGE = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "rope_scaling": None,
    "use_sliding_window": False,
}
_EAGLES = {
    "nvidia/Eagle-Block2A-2B-v2": {
        **_BACKBONE,
        "image_token_index": 151669,
        "vision_config": {
            **_VISION,
            "hidden_size": 1152,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
            "patch_size": 14,
            "num_patches": 256,
        },
        "text_config": {
            **_LANGUAGE,
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 6144,
            "vocab_size": 151680,
            "rope_theta": 1000000,
        },
    }
}


def find_checkpoint(source: str, key: str) -> Path:
    """The folder of a checkpoint: itself, or NAME@COMMIT on a hub. Raises `BadInput` as `locate` does."""
    return locate(source, key, _FILES)


def load_checkpoint(folder: Path, dtype: torch.dtype = torch.float32) -> Gr00tModel:
    """Open a checkpoint, with no second copy in memory.

    Raises:
        BadInput: config.json is missing, incomplete or of another architecture; or as `shards.load` does.
    """
    config = read_config(folder)
    return shards.open_network(lambda: Gr00tModel(config), folder, dtype, unused=_UNUSED)


def read_config(folder: Path) -> NetworkConfig:
    """The sizes of a checkpoint. Raises `BadInput` as `load_checkpoint` does."""
    block = _Block(folder / "config.json", "", read_json(folder / "config.json"))
    block.demand({"model_type": MODEL_TYPE})
    block.demand(_HEAD, said=False)
    transformer = block.block("diffusion_model_cfg")
    transformer.demand(_TRANSFORMER, said=False)
    transformer.demand(_TRANSFORMER_SAID)
    vision_language = _read_backbone(folder, block)
    head = ActionHeadSizes(
        layers=transformer.get("num_layers"),
        heads=transformer.get("num_attention_heads"),
        head_dim=transformer.get("attention_head_dim"),
        hidden_dim=block.get("hidden_size"),
        slots=block.get("max_num_embodiments"),
        positions=block.get("max_seq_len"),
        state_dim=block.get("max_state_dim"),
        action_dim=block.get("max_action_dim"),
        horizon=block.get("action_horizon"),
        text_every=block.get("attend_text_every_n_blocks"),
        dropout=transformer.get("dropout", float),
        state_dropout=block.get("state_dropout_prob", float),
        state_noise=block.get("state_additive_noise_scale", float, unsaid=0.0),
        time_buckets=block.get("num_timestep_buckets"),
        sampler_steps=block.get("num_inference_timesteps"),
    )
    block.demand({"backbone_embedding_dim": vision_language.language_dim, "input_embedding_dim": head.dim})
    transformer.demand({"output_dim": head.hidden_dim})
    return NetworkConfig(vision_language, head)


def count_parameters(config: NetworkConfig) -> int:
    """Of a checkpoint of these sizes as NVIDIA counts: with the language model's head and SigLIP2's pooling head, which
    an imitation policy does not use."""
    from transformers import Siglip2VisionModel

    sizes = config.vision_language
    with torch.device("meta"):
        model = Gr00tModel(config)
        vision = model.eagle.vision_encoder.config
        pooled = Siglip2VisionModel(
            type(vision)(**{**vision.to_dict(), "num_hidden_layers": 0, "vision_use_head": True})
        )
    used = sum(weight.numel() for weight in model.parameters())
    return used + sum(weight.numel() for weight in pooled.head.parameters()) + sizes.vocabulary * sizes.language_dim


def _read_backbone(folder: Path, block: _Block) -> VisionLanguageSizes:
    path, name = folder / "tokenizer/config.json", block.get("model_name", str)
    if not path.is_file() and name not in _EAGLES:
        expected = f"{' or '.join(_EAGLES)}, or the backbone's config.json in {path.parent}"
        raise BadInput(block.path, "model_name", name, expected, _REMEDY)
    eagle = _Block(path, "", read_json(path)) if path.is_file() else _Block(block.path, name, _EAGLES[name])
    vision, language = eagle.block("vision_config"), eagle.block("text_config")
    eagle.demand(_BACKBONE)
    vision.demand(_VISION)
    language.demand(_LANGUAGE)
    patches, layers = vision.get("num_patches"), block.get("select_layer")
    if layers > language.get("num_hidden_layers"):
        expected = f"at most {language.get('num_hidden_layers')}, the backbone's layers"
        raise BadInput(block.path, "select_layer", layers, expected, _REMEDY)
    return VisionLanguageSizes(
        vision_dim=vision.get("hidden_size"),
        vision_layers=vision.get("num_hidden_layers"),
        vision_heads=vision.get("num_attention_heads"),
        vision_mlp_dim=vision.get("intermediate_size"),
        vision_patch=vision.get("patch_size"),
        vision_positions=round(patches**0.5),
        language_dim=language.get("hidden_size"),
        language_layers=layers,
        language_heads=language.get("num_attention_heads"),
        language_kv_heads=language.get("num_key_value_heads"),
        language_head_dim=language.get("head_dim"),
        language_mlp_dim=language.get("intermediate_size"),
        language_rope_theta=language.get("rope_theta", float),
        vocabulary=language.get("vocab_size"),
        image_token=eagle.get("image_token_index"),
    )


class _Block:
    """A block of a JSON file that says, of a key that does not fit, where it is."""

    def __init__(self, path: Path, name: str, values: Any) -> None:
        self.path, self.name = path, name
        self.values: Mapping[str, Any] = values if isinstance(values, dict) else self._refuse("", values, "a mapping")

    def get(self, key: str, kind: type = int, unsaid: object = None) -> Any:
        value = self.values.get(key, unsaid)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, int) and value < 1):
            self._refuse(
                key, self.values.get(key, "no such key"), {int: "a count", float: "a number"}.get(kind, "a name")
            )
        return value

    def block(self, key: str) -> _Block:
        return _Block(self.path, f"{self.name}.{key}".strip("."), self.values.get(key))

    def demand(self, wanted: Mapping[str, Any], *, said: bool = True) -> None:
        """Raise `BadInput` where a value is another one than wanted, or, of those that must be said, is not there."""
        for key, value in wanted.items():
            if self.values.get(key, "no such key" if said else value) != value:
                self._refuse(key, self.values.get(key, "no such key"), value)

    def _refuse(self, key: str, found: object, expected: object) -> Any:
        raise BadInput(self.path, f"{self.name}.{key}".strip("."), found, expected, _REMEDY)
