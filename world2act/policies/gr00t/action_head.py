"""Features, proprioception and a noisy action chunk → the velocity of the flow towards the actions.

GR00T-N1.6's flow-matching head: an "AlternateVLDiT" whose odd blocks are self-attention and whose even blocks attend
to words (every fourth, from the first) or image tokens (the others), with one set of encoder and decoder weights for
each embodiment.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import Attention, FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from world2act.policies.gr00t.configuration import ActionHeadSizes

_TIME_CHANNELS = 256
_TIME_BUCKETS = 1000  # flow time 0..1 enters the sinusoids as 0..1000


class EmbodimentLinear(nn.Module):
    """A linear layer with a set of weights for each embodiment."""

    def __init__(self, slots: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(slots, inputs, outputs) * inputs**-0.5)
        self.b = nn.Parameter(torch.zeros(slots, outputs))

    def forward(self, x: Tensor, slot: int) -> Tensor:
        return x @ self.W[slot] + self.b[slot]


class EmbodimentMlp(nn.Module):
    """Two `EmbodimentLinear` with a ReLU between them."""

    def __init__(self, slots: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(slots, inputs, hidden)
        self.layer2 = EmbodimentLinear(slots, hidden, outputs)

    def forward(self, x: Tensor, slot: int) -> Tensor:
        return self.layer2(F.relu(self.layer1(x, slot)), slot)


class ActionEncoder(nn.Module):
    """Noisy actions (N, M, A) and flow times (N,) → tokens (N, M, D)."""

    def __init__(self, slots: int, action_dim: int, dim: int) -> None:
        super().__init__()
        self.W1 = EmbodimentLinear(slots, action_dim, dim)
        self.W2 = EmbodimentLinear(slots, 2 * dim, dim)
        self.W3 = EmbodimentLinear(slots, dim, dim)
        self.time = Timesteps(dim, flip_sin_to_cos=False, downscale_freq_shift=0)

    def forward(self, actions: Tensor, times: Tensor, slot: int) -> Tensor:
        tokens = self.W1(actions, slot)
        time = self.time(times * _TIME_BUCKETS).to(tokens.dtype)[:, None].expand_as(tokens)
        return self.W3(F.silu(self.W2(torch.cat([tokens, time], -1), slot)), slot)


class AdaLayerNorm(nn.Module):
    """Layer norm whose scale and shift come from the flow time's embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(time))[:, None].chunk(2, -1)
        return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Block(nn.Module):
    """Attention within the chunk, or from the chunk to a context of `context_dim`; then feed-forward."""

    def __init__(self, sizes: ActionHeadSizes, context_dim: int | None) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(sizes.dim)
        self.attn1 = Attention(
            sizes.dim, cross_attention_dim=context_dim, heads=sizes.heads, dim_head=sizes.head_dim, bias=True
        )
        self.ff = FeedForward(sizes.dim, activation_fn="gelu-approximate")

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """x (B·K, T, D); context (B, S, C) is shared by the K chunks of an observation; mask bool (B, S)."""
        queries = self.norm1(x, time)
        if context is None:
            x = x + self.attn1(queries)
        else:
            # queries do not see one another here, so the K chunks of an observation can stand in one sequence
            joint = queries.reshape(len(context), -1, x.shape[-1])
            mask = None if mask is None else mask[:, None].expand(-1, joint.shape[1], -1)
            x = x + self.attn1(joint, encoder_hidden_states=context, attention_mask=_additive(mask, x)).reshape_as(x)
        return x + self.ff(F.layer_norm(x, x.shape[-1:]))


class ActionHead(nn.Module):
    """The flow's velocity for K noisy chunks of each of B observations."""

    def __init__(self, sizes: ActionHeadSizes, *, context_dim: int, proprio_dim: int, action_dim: int) -> None:
        super().__init__()
        slots, dim, hidden = sizes.slots, sizes.dim, sizes.hidden_dim
        self.vlln = nn.LayerNorm(context_dim)
        self.state_encoder = EmbodimentMlp(slots, proprio_dim, hidden, dim)
        self.action_encoder = ActionEncoder(slots, action_dim, dim)
        self.position_embedding = nn.Embedding(sizes.positions, dim)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.time_proj = Timesteps(_TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.timestep_embedder = TimestepEmbedding(_TIME_CHANNELS, dim)
        self.transformer_blocks = nn.ModuleList(
            Block(sizes, context_dim if index % 2 == 0 else None) for index in range(sizes.layers)
        )
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, hidden)
        self.action_decoder = EmbodimentMlp(slots, hidden, hidden, action_dim)

    def forward(
        self,
        features: tuple[Tensor, Tensor],
        word_mask: Tensor,
        proprio: Tensor,
        noisy: Tensor,
        times: Tensor,
        slot: int,
    ) -> Tensor:
        """One evaluation of the velocity.

        Args:
            features: of images (B, I, C) and words (B, L, C); word_mask: bool (B, L).
            proprio: normalised (B, P).
            noisy: (B, K, M, A) chunks at flow times (B, K) in [0, 1]; 0 is noise, 1 is the actions.
            slot: the embodiment's set of weights.

        Returns:
            velocity (B, K, M, A).
        """
        images, words = (self.vlln(part) for part in features)
        flat, times = noisy.flatten(0, 1), times.flatten()
        actions = self.action_encoder(flat, times, slot) + self.position_embedding.weight[: flat.shape[1]]
        state = self.state_encoder(proprio, slot)[:, None, None].expand(-1, noisy.shape[1], -1, -1).flatten(0, 1)
        x = torch.cat([state, actions], 1)
        time = self.timestep_embedder(self.time_proj(times * _TIME_BUCKETS).to(x.dtype))
        for index, block in enumerate(self.transformer_blocks):
            if index % 2:
                x = block(x, time, None, None)
            elif index % 4:
                x = block(x, time, images, None)
            else:
                x = block(x, time, words, word_mask)
        shift, scale = self.proj_out_1(F.silu(time))[:, None].chunk(2, -1)
        x = self.proj_out_2(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return self.action_decoder(x[:, 1:], slot).unflatten(0, noisy.shape[:2])


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """True → 0, false → the most negative number: what diffusers' attention adds to its scores."""
    return None if mask is None else (~mask).to(like.dtype) * torch.finfo(like.dtype).min
