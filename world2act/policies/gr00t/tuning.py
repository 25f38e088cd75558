"""Which parts of a GR00T network are trained: all, the action head with the top of the language model, or adapters.

Source: NVIDIA/Isaac-GR00T, gr00t/model/gr00t_n1d6/gr00t_n1d6.py (`set_trainable_parameters`) and
gr00t/model/modules/eagle_backbone.py (`tune_top_llm_layers`, `trainable_params_fp32`). N1.6 has no adapters; those of
N1.5 (gr00t/utils/peft.py) are in the attention of the diffusion transformer, and everything else is frozen. Here the
projector is trained too, because the encoders and the decoder of a new robot start from random values.
"""

from __future__ import annotations

from torch import nn

from world2act.core.errors import BadInput
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.params import Parameters
from world2act.world_model.learning.tuning import add_lora

PROJECTOR = ("state_encoder", "action_encoder", "action_decoder", "vlln", "position_embedding", "mask_token")
"""What of the action head is no diffusion transformer."""


def tune(model: Gr00tModel, params: Parameters, seed: int) -> Gr00tModel:
    """The network, made ready to be trained as `params` say: what is trained is float32, the rest stays as it is.

    Raises:
        BadInput: there are not so many language layers, or no layer has the name of an adapter's target.
    """
    model.requires_grad_(params.tuning == "full")
    if params.tuning == "projector_dit":
        model.action_head.requires_grad_(True)
        for layer in _top_layers(model, params.top_language_layers):
            layer.requires_grad_(True)
    if params.tuning == "lora":
        add_lora(model, params.lora, seed, "base_policy.gr00t.lora")
        for name, weight in model.action_head.named_parameters():
            if name.split(".")[0] in PROJECTOR:
                weight.requires_grad_(True)
    if params.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model.train()


def _top_layers(model: Gr00tModel, count: int) -> list[nn.Module]:
    layers = model.eagle.decoder.layers
    if count > len(layers):
        key, expected = "base_policy.gr00t.top_language_layers", f"at most {len(layers)}, all that the network has"
        raise BadInput("params.yaml", key, count, expected, "lower it")
    return list(layers[len(layers) - count :])
