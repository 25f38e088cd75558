"""What GR00T-N1.6's processor files say: processor_config.json, statistics.json, embodiment_id.json.

processor_config.json is `{"processor_class": ..., "processor_kwargs": {...}}`; among the kwargs, `modality_configs` is
`{embodiment: {"video" | "state" | "action" | "language": {"delta_indices", "modality_keys", "sin_cos_embedding_keys",
"mean_std_embedding_keys", "action_configs"}}}`, and an action config `{"rep", "type", "format", "state_key"}` by the
names of its enumerations. statistics.json is `{embodiment: {"state" | "action" | "relative_action": {part: {"min",
"max", "mean", "std", "q01", "q99"}}}}`, embodiment_id.json `{embodiment: slot}`.

Source: gr00t/model/gr00t_n1d6/processing_gr00t_n1d6.py (`save_pretrained`), gr00t/data/types.py of NVIDIA's
Isaac-GR00T.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from world2act.core.errors import BadInput
from world2act.core.storage import read_json

CONFIG, STATISTICS, SLOTS = "processor_config.json", "statistics.json", "embodiment_id.json"
REMEDY = "use the files as they were published, or a policy that the base_policy stage wrote"
DEFAULT_SLOTS = {
    "oxe_google": 0,
    "oxe_widowx": 1,
    "libero_panda": 2,
    "unitree_g1": 8,
    "new_embodiment": 10,
    "robocasa_panda_omron": 13,
    "oxe_droid": 16,
    "gr1": 20,
    "behavior_r1_pro": 24,
}
"""Slots that NVIDIA's processor adds to those of embodiment_id.json."""

_LOADING = {"transformers_loading_kwargs", "model_type", "model_name", "embodiment_id_mapping", "statistics"}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_T = TypeVar("_T", bound=_File)


class ActionConfig(_File):
    """How a part of the action is meant. RELATIVE to the state `state_key` (or to the state's part of the same name)
    as it was when the chunk was predicted; ABSOLUTE and DELTA are the robot's own numbers."""

    rep: Literal["RELATIVE", "DELTA", "ABSOLUTE"]
    type: Literal["EEF", "NON_EEF"]
    format: Literal["DEFAULT", "XYZ_ROT6D", "XYZ_ROTVEC"]
    state_key: str | None = None


class Modality(_File):
    """The parts of one modality, in the order in which the network sees them, and the steps around now."""

    delta_indices: list[int]
    modality_keys: Annotated[list[str], Field(min_length=1)]
    sin_cos_embedding_keys: list[str] | None = None
    mean_std_embedding_keys: list[str] | None = None
    action_configs: list[ActionConfig] | None = None


class Modalities(_File):
    """What one embodiment sees, feels, does and is told: one picture of each view, one state, one instruction, and
    `len(action.delta_indices)` actions from now on."""

    video: Modality
    state: Modality
    action: Modality
    language: Modality

    @model_validator(mode="after")
    def _carried(self) -> Self:
        for name in ("video", "state", "language"):
            if getattr(self, name).delta_indices != [0]:
                raise ValueError(f"{name}.delta_indices: [0], for a policy here keeps no past")
        if self.action.delta_indices != [*range(len(self.action.delta_indices))]:
            raise ValueError("action.delta_indices: 0, 1, 2, ...")
        if len(self.language.modality_keys) != 1:
            raise ValueError("language.modality_keys: one instruction")
        configs = self.action.action_configs
        if configs is not None and len(configs) != len(self.action.modality_keys):
            raise ValueError("action.action_configs: one for each of action.modality_keys")
        return self

    def shortened(self, chunk_length: int | None, path: Path) -> Self:
        """The first actions alone. Raises `BadInput`, by the file that they stand in: there are not so many."""
        steps = len(self.action.delta_indices)
        if chunk_length is None or chunk_length == steps:
            return self
        if chunk_length > steps:
            remedy = "shorten base_policy.chunk_length"
            raise BadInput(path, "action.delta_indices", f"{steps} steps", f"{chunk_length} or more", remedy)
        action = self.action.model_copy(update={"delta_indices": [*range(chunk_length)]})
        return self.model_copy(update={"action": action})

    def config_of(self, part: str) -> ActionConfig:
        """The configuration of a part of the action; the file may leave all of them out, which means absolute."""
        configs = self.action.action_configs
        if configs is None:
            return ActionConfig(rep="ABSOLUTE", type="NON_EEF", format="DEFAULT")
        return configs[self.action.modality_keys.index(part)]


class Settings(_File):
    """The processor_kwargs that hold for every embodiment.

    Attributes:
        shortest_image_edge: of a picture before and after the crop, in pixels; None in the files of a policy that
            takes its pictures as they are.
        crop_fraction: of each side that the crop leaves.
        max_state_dim, max_action_dim, max_action_horizon: what state and actions are padded to.
    """

    shortest_image_edge: int | None
    crop_fraction: float | None
    letter_box_transform: bool = False
    image_target_size: list[int] | None = None
    image_crop_size: list[int] | None = None
    use_albumentations: bool = True
    random_rotation_angle: int | None = None
    color_jitter_params: dict[str, float] | None = None
    formalize_language: bool = True
    max_state_dim: int
    max_action_dim: int
    max_action_horizon: int
    use_percentiles: bool = False
    clip_outliers: bool = True
    apply_sincos_state_encoding: bool = False
    use_relative_action: bool = False

    @property
    def resizes(self) -> bool:
        """Whether pictures are brought to a size at all."""
        return self.shortest_image_edge is not None or self.image_target_size is not None

    @model_validator(mode="after")
    def _carried(self) -> Self:
        if not self.use_albumentations:
            raise ValueError("use_albumentations: true; pictures resized by torchvision are not carried")
        if self.random_rotation_angle:
            raise ValueError("random_rotation_angle: none; pictures are not rotated here")
        return self


def read_settings(folder: Path) -> Settings:
    """Raises `BadInput`: processor_config.json is missing, lacks a key, or asks for what is not carried here."""
    path = folder / CONFIG
    values = dict(_kwargs(path))
    values.pop("modality_configs", None)
    known = set(Settings.model_fields)
    # a newer file may have new switches: those that are off change nothing
    unused = {key for key in values if key in _LOADING or (key not in known and not values[key])}
    return _parse(Settings, {key: value for key, value in values.items() if key not in unused}, path, "")


def read_modalities(folder: Path, embodiment: str) -> Modalities:
    """Raises `BadInput`: processor_config.json does not know the embodiment (the message lists those that it does), or
    asks for what is not carried here."""
    path = folder / CONFIG
    known = _kwargs(path).get("modality_configs")
    if not isinstance(known, dict) or embodiment not in known:
        expected = f"one of {sorted(known)}" if isinstance(known, dict) else "the modalities of each embodiment"
        raise BadInput(path, "modality_configs", embodiment, expected, "name one of these, or train a new embodiment")
    return _parse(Modalities, known[embodiment], path, f"modality_configs.{embodiment}")


def read_slot(folder: Path, embodiment: str) -> int:
    """The embodiment's set of encoders and decoder. Raises `BadInput` where there is none."""
    path = folder / SLOTS
    slots = DEFAULT_SLOTS | (read_json(path) if path.exists() else {})
    slot = slots.get(embodiment)
    if not isinstance(slot, int) or isinstance(slot, bool):
        raise BadInput(path, embodiment, slot, f"a slot, as {sorted(slots)} have one", "name one of these")
    return slot


def read_statistics(folder: Path, embodiment: str) -> dict[str, Any]:
    """The statistics of one embodiment. Raises `BadInput` where there are none; the message lists those there are."""
    path = folder / STATISTICS
    known = read_json(path)
    found = known.get(embodiment)
    if not isinstance(found, dict):
        expected = f"statistics of it, as of {sorted(known)}"
        raise BadInput(path, embodiment, found, expected, "name an embodiment that has them, or train a new one")
    return found


def _kwargs(path: Path) -> Mapping[str, Any]:
    kwargs = read_json(path).get("processor_kwargs")
    if not isinstance(kwargs, dict):
        raise BadInput(path, "processor_kwargs", kwargs, "the processor's settings", REMEDY)
    return kwargs


def _parse(kind: type[_T], values: Any, path: Path, key: str) -> _T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(filter(None, [key, *map(str, fault["loc"])]))
        found = "nothing" if fault["type"] == "missing" else fault["input"]
        raise BadInput(path, where, found, fault["msg"].removeprefix("Value error, "), REMEDY) from error
