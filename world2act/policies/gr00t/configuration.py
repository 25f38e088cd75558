"""Every dimension of a GR00T-N1.6-family network, and what a policy of ours adds to it in its config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from world2act.core.errors import BadInput
from world2act.policies.robot import family_config

FAMILY = "gr00t"
UNSHUFFLE = 2  # 2 x 2 patches of SigLIP2 make one image token
_REMEDY = "use a directory that the base_policy stage wrote; restore it with `dvc checkout`"


@dataclass(frozen=True)
class VisionLanguageSizes:
    """SigLIP2 encoder, pixel-unshuffle by 2, projector, the first layers of a Qwen3 decoder.

    `vision_positions` is the side of SigLIP2's square table of position embeddings, in patches; other image sizes
    interpolate it. `image_token` is the id that marks the position of an image token in a prompt.
    """

    vision_dim: int
    vision_layers: int
    vision_heads: int
    vision_mlp_dim: int
    vision_patch: int
    vision_positions: int
    language_dim: int
    language_layers: int
    language_heads: int
    language_kv_heads: int
    language_head_dim: int
    language_mlp_dim: int
    language_rope_theta: float
    vocabulary: int
    image_token: int

    @property
    def token_side(self) -> int:
        """Pixels a side of what becomes one image token."""
        return UNSHUFFLE * self.vision_patch


@dataclass(frozen=True)
class ActionHeadSizes:
    """State and action encoders, diffusion transformer, decoder.

    Attributes:
        hidden_dim: inside the state encoder and at the diffusion transformer's output.
        slots: embodiments with encoders and a decoder of their own.
        state_dim, action_dim: what every robot's numbers are padded to; horizon: the steps of a chunk.
        positions: the rows of the table of position embeddings, of which a chunk takes the first.
        text_every: of the cross-attention blocks, one in so many attends to words, the others to images.
        dropout, state_dropout, state_noise: of training alone.
        time_buckets: the whole numbers that flow time 0..1 is cut into.
        sampler_steps: Euler steps from noise to actions.
    """

    layers: int
    heads: int
    head_dim: int
    hidden_dim: int
    slots: int
    positions: int
    state_dim: int
    action_dim: int
    horizon: int
    text_every: int = 2
    dropout: float = 0.0
    state_dropout: float = 0.0
    state_noise: float = 0.0
    time_buckets: int = 1000
    sampler_steps: int = 4

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class NetworkConfig:
    """The network, whatever robot it acts for."""

    vision_language: VisionLanguageSizes
    action_head: ActionHeadSizes

    @classmethod
    def of(cls, path: Path, values: dict[str, Any]) -> Self:
        """From the block `network` of the config.json at `path`. Raises `BadInput`: a key is missing or unknown."""
        check_keys(path, "network", values, cls)
        parts = {"vision_language": VisionLanguageSizes, "action_head": ActionHeadSizes}
        for key, kind in parts.items():
            check_keys(path, f"network.{key}", values[key], kind)
        return cls(**{key: kind(**values[key]) for key, kind in parts.items()})


@dataclass(frozen=True)
class Gr00tConfig:
    """A policy: its network, and what it gives; the rest of its interface is its processor's."""

    chunk_length: int
    action_dim: int
    network: NetworkConfig

    def to_dict(self) -> dict[str, Any]:
        return {"family": FAMILY, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config.json. Raises `BadInput` when a key is missing or unknown."""
        values = family_config(path)
        check_keys(path, "", values, cls)
        values["network"] = NetworkConfig.of(path, values["network"])
        return cls(**values)


def check_keys(path: Path, key: str, found: Any, kind: type) -> None:
    """Raise `BadInput` where the block `key` of the file at `path` does not have exactly the fields of `kind`."""
    names, expected = sorted(found) if isinstance(found, dict) else found, sorted(f.name for f in fields(kind))
    if names != expected:
        raise BadInput(path, key, names, expected, _REMEDY)
