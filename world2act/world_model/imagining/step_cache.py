"""What a clip's denoising steps share, computed once: the network stays the released class with the released weights.

Two things in `CosmosTransformer3DModel` are computed again and again: keys and values of the text, which do not depend
on the noise level, at every step; and the modulation of the layer norms, which depends on a latent frame's time alone,
for every one of its tokens. Rotary embeddings and the padding mask are computed again as well, for under one per cent
of a pass: they stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


@contextmanager
def computed_once(network: nn.Module, frames: int) -> Iterator[None]:
    """Within, the network computes what `frames` latent frames or several steps share only once, for inference.

    The outputs are those of the network outside, up to rounding. A network of another class is left alone.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.transformers.transformer_cosmos import (
        CosmosAdaLayerNorm,
        CosmosAdaLayerNormZero,
        CosmosAttnProcessor2_0,
    )

    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, CosmosAdaLayerNorm | CosmosAdaLayerNormZero):
                vars(module)["forward"] = partial(_modulate_per_frame, module.forward, frames)
                stack.callback(delattr, module, "forward")
            elif isinstance(module, Attention) and module.is_cross_attention:
                processor: object = module.processor
                if type(processor) is CosmosAttnProcessor2_0:
                    stack.callback(module.set_processor, processor)
                    module.set_processor(_CachedText())
        yield


def _modulate_per_frame(
    forward: Callable[..., Tensor | tuple[Tensor, Tensor]],
    frames: int,
    tokens: Tensor,
    embedded_time: Tensor,
    time: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The modulation from each frame's first token: `embedded_time` and `time` are the same on all of them."""
    shape = (frames, -1)
    first = torch.unflatten(embedded_time, 1, shape)[:, :, :1]
    first_time = None if time is None else torch.unflatten(time, 1, shape)[:, :, :1]
    modulated = forward(torch.unflatten(tokens, 1, shape), first, first_time)
    if isinstance(modulated, Tensor):
        return modulated.flatten(1, 2)
    values, gate = modulated
    return values.flatten(1, 2), gate.expand_as(values).flatten(1, 2)


class _CachedText:
    """`CosmosAttnProcessor2_0` for cross-attention that keeps the keys and values of the text it was last given."""

    def __init__(self) -> None:
        self._text: Tensor | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        # Cosmos normalises both; `Attention` serves models that do not
        norm_q, norm_k = cast("nn.Module", attn.norm_q), cast("nn.Module", attn.norm_k)
        if encoder_hidden_states is not self._text:
            self._text = encoder_hidden_states
            key, value = (
                layer(encoder_hidden_states).unflatten(2, (attn.heads, -1)) for layer in (attn.to_k, attn.to_v)
            )
            self._key_value = norm_k(key), value
        query = norm_q(attn.to_q(hidden_states).unflatten(2, (attn.heads, -1)))
        attended = dispatch_attention_fn(query, *self._key_value, attn_mask=attention_mask)
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3)))
