"""Features, proprioception and a noisy action chunk → the velocity of the flow towards the actions.

GR00T-N1.6's flow-matching head: an "AlternateVLDiT" whose odd blocks are self-attention and whose even blocks attend
to words or to image tokens, with one set of encoder and decoder weights for each embodiment. The names of its modules
are those of NVIDIA's checkpoints. Source: NVIDIA/Isaac-GR00T, gr00t/model/gr00t_n1d6/gr00t_n1d6.py,
gr00t/model/modules/{dit,embodiment_conditioned_mlp}.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from world2act.policies.gr00t.configuration import ActionHeadSizes

_TIME_CHANNELS = 256


@dataclass(frozen=True)
class Context:
    """What the head takes from an observation, computed once for every step of the flow.

    Attributes:
        state: tokens (B, T, D).
        attended: keys and values (B, heads, L, head_dim) of each cross-attention block.
        words, images: bool (B, 1, 1, L), which tokens of the prompt a block attends to.
        slot: the embodiment's set of weights.
    """

    state: Tensor
    attended: list[tuple[Tensor, Tensor]]
    words: Tensor
    images: Tensor
    slot: int


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
    """Noisy actions (N, M, A) and flow times (N,), in buckets, → tokens (N, M, D)."""

    def __init__(self, slots: int, action_dim: int, dim: int) -> None:
        super().__init__()
        self.W1 = EmbodimentLinear(slots, action_dim, dim)
        self.W2 = EmbodimentLinear(slots, 2 * dim, dim)
        self.W3 = EmbodimentLinear(slots, dim, dim)
        self.time = Timesteps(dim, flip_sin_to_cos=False, downscale_freq_shift=0)

    def forward(self, actions: Tensor, times: Tensor, slot: int) -> Tensor:
        tokens = self.W1(actions, slot)
        time = self.time(times).to(tokens.dtype)[:, None].expand_as(tokens)
        return self.W3(F.silu(self.W2(torch.cat([tokens, time], -1), slot)), slot)


class AdaLayerNorm(nn.Module):
    """Layer norm whose scale and shift come from the flow time's embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(time))[:, None].chunk(2, -1)
        return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be kept: those of the observation serve every step of the flow."""

    def __init__(self, sizes: ActionHeadSizes, context_dim: int) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.to_q = nn.Linear(sizes.dim, sizes.dim)
        self.to_k = nn.Linear(context_dim, sizes.dim)
        self.to_v = nn.Linear(context_dim, sizes.dim)
        self.to_out = nn.Sequential(nn.Linear(sizes.dim, sizes.dim), nn.Dropout(sizes.dropout))

    def attend(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, head_dim) of a context (B, S, C)."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def forward(self, x: Tensor, attended: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        attention = F.scaled_dot_product_attention(self._split(self.to_q(x)), *attended, attn_mask=mask)
        return self.to_out(attention.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention within the chunk, or from the chunk to a context of `context_dim`; then feed-forward."""

    def __init__(self, sizes: ActionHeadSizes, context_dim: int | None) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(sizes.dim)
        self.attn1 = Attention(sizes, context_dim or sizes.dim)
        self.ff = FeedForward(sizes.dim, dropout=sizes.dropout, activation_fn="gelu-approximate", final_dropout=True)
        self.final_dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, time: Tensor, attended: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        """x (B·K, T, D); what is attended to (B, heads, S, head_dim) is shared by the K chunks of an observation."""
        queries = self.norm1(x, time)
        if attended is None:
            attention = self.attn1(queries, self.attn1.attend(queries), None)
        else:
            # queries do not see one another here, so the K chunks of an observation can stand in one sequence
            joint = queries.reshape(len(attended[0]), -1, x.shape[-1])
            attention = self.attn1(joint, attended, mask).reshape_as(x)
        x = x + self.final_dropout(attention)
        return x + self.ff(F.layer_norm(x, x.shape[-1:]))


class TimestepEncoder(nn.Module):
    """Flow times (N,), in buckets, → embeddings (N, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_proj = Timesteps(_TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.timestep_embedder = TimestepEmbedding(_TIME_CHANNELS, dim)

    def forward(self, times: Tensor) -> Tensor:
        return self.timestep_embedder(self.time_proj(times).to(self.timestep_embedder.linear_1.weight.dtype))


class DiffusionTransformer(nn.Module):
    """Tokens of state and actions → their last hidden states, at a flow time, under a context."""

    def __init__(self, sizes: ActionHeadSizes, context_dim: int) -> None:
        super().__init__()
        self.text_every, self.gradient_checkpointing = sizes.text_every, False
        self.timestep_encoder = TimestepEncoder(sizes.dim)
        self.transformer_blocks = nn.ModuleList(
            Block(sizes, context_dim if index % 2 == 0 else None) for index in range(sizes.layers)
        )
        self.proj_out_1 = nn.Linear(sizes.dim, 2 * sizes.dim)
        self.proj_out_2 = nn.Linear(sizes.dim, sizes.hidden_dim)

    def attend(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [cast(Block, block).attn1.attend(features) for block in self.transformer_blocks[::2]]

    def forward(self, x: Tensor, times: Tensor, context: Context) -> Tensor:
        time = self.timestep_encoder(times)
        for index, block in enumerate(self.transformer_blocks):
            attended, mask = None, None
            if index % 2 == 0:
                attended = context.attended[index // 2]
                mask = context.words if index // 2 % self.text_every == 0 else context.images
            if self.gradient_checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(block, x, time, attended, mask, use_reentrant=False)
            else:
                x = block(x, time, attended, mask)
        shift, scale = self.proj_out_1(F.silu(time))[:, None].chunk(2, -1)
        return self.proj_out_2(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class ActionHead(nn.Module):
    """The flow's velocity for K noisy chunks of each of B observations."""

    def __init__(self, sizes: ActionHeadSizes, context_dim: int) -> None:
        super().__init__()
        self.sizes = sizes
        slots, dim, hidden = sizes.slots, sizes.dim, sizes.hidden_dim
        self.model = DiffusionTransformer(sizes, context_dim)
        self.state_encoder = EmbodimentMlp(slots, sizes.state_dim, hidden, dim)
        self.action_encoder = ActionEncoder(slots, sizes.action_dim, dim)
        self.action_decoder = EmbodimentMlp(slots, hidden, hidden, sizes.action_dim)
        self.vlln = nn.LayerNorm(context_dim)
        self.position_embedding = nn.Embedding(sizes.positions, dim)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        if sizes.state_dropout:
            self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))

    def context(
        self,
        features: Tensor,
        image_mask: Tensor,
        mask: Tensor,
        state: Tensor,
        slot: int,
        dropped: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Context:
        """What the velocity depends on, apart from the chunk.

        Args:
            features: of the prompt (B, L, C); image_mask, mask: bool (B, L), image tokens and whatever is no padding.
            state: normalised and padded proprioception (B, T, state_dim).
            slot: the embodiment's set of weights.
            dropped: bool (B,), observations whose state is hidden; noise: (B, T, D), added to the state's tokens.
        """
        tokens = self.state_encoder(state.to(features.dtype), slot)
        if dropped is not None:
            tokens = torch.where(dropped[:, None, None], self.mask_token.to(tokens.dtype), tokens)
        if noise is not None:
            tokens = tokens + noise.to(tokens.dtype)
        words, images = ((part & mask)[:, None, None] for part in (~image_mask, image_mask))
        return Context(tokens, self.model.attend(self.vlln(features)), words, images, slot)

    def forward(self, context: Context, noisy: Tensor, times: Tensor) -> Tensor:
        """Velocity (B, K, M, A) of (B, K, M, A) chunks at flow times (B, K) in [0, 1); 0 is noise, 1 is the actions."""
        flat, dtype = noisy.flatten(0, 1), context.state.dtype
        buckets = (times.flatten() * self.sizes.time_buckets).long()
        actions = self.action_encoder(flat.to(dtype), buckets, context.slot)
        actions = actions + self.position_embedding.weight[: flat.shape[1]]
        state = context.state[:, None].expand(-1, noisy.shape[1], -1, -1).flatten(0, 1)
        x = self.model(torch.cat([state, actions], 1), buckets, context)
        return self.action_decoder(x[:, state.shape[1] :], context.slot).unflatten(0, noisy.shape[:2])
