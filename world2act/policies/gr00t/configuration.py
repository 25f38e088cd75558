"""Every dimension of a GR00T-N1.6-family policy: what stands in its config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from world2act.errors import BadInput
from world2act.storage import read_json

FAMILY = "gr00t"
_REMEDY = "use a directory that the base_policy stage wrote; restore it with `dvc checkout`"


@dataclass(frozen=True)
class VisionLanguageSizes:
    """SigLIP2 encoder, pixel-unshuffle by 2, projector, the first layers of a Qwen3 decoder.

    `vision_positions` is the side of SigLIP2's square table of position embeddings, in patches; other image sizes
    interpolate it.
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
    vocabulary: int


@dataclass(frozen=True)
class ActionHeadSizes:
    """State and action encoders, diffusion transformer, decoder. `slots` counts embodiments, `positions` the longest
    chunk; `hidden_dim` is inside the state encoder and at the diffusion transformer's output."""

    layers: int
    heads: int
    head_dim: int
    hidden_dim: int
    slots: int
    positions: int

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Gr00tConfig:
    """A policy: its sizes and its interface.

    Attributes:
        cameras: which images it sees, in this order, each `image_size` pixels a side.
        embodiment: the robot it acts for; `embodiment_slot` is that robot's set of encoder and decoder weights.
        sampler_steps: Euler steps from noise to actions.
    """

    cameras: tuple[str, ...]
    image_size: int
    embodiment: str
    embodiment_slot: int
    proprio_dim: int
    action_dim: int
    chunk_length: int
    sampler_steps: int
    vision_language: VisionLanguageSizes
    action_head: ActionHeadSizes

    def to_dict(self) -> dict[str, Any]:
        return {"family": FAMILY, **asdict(self), "cameras": list(self.cameras)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config.json. Raises `BadInput` when a key is missing or unknown."""
        values = read_json(path)
        values = {key: value for key, value in values.items() if key not in ("family", "protocol")}
        for key, kind in (("", cls), ("vision_language", VisionLanguageSizes), ("action_head", ActionHeadSizes)):
            found = values.get(key, {}) if key else values
            expected = {field.name for field in fields(kind)}
            if set(found) != expected:
                raise BadInput(path, key, sorted(found), sorted(expected), _REMEDY)
        values["cameras"] = tuple(values["cameras"])
        values["vision_language"] = VisionLanguageSizes(**values["vision_language"])
        values["action_head"] = ActionHeadSizes(**values["action_head"])
        return cls(**values)
