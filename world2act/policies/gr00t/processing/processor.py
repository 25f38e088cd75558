"""Observations of our robot → what GR00T's network reads, and its normalised chunks → our robot's actions.

A processor is of one embodiment and one robot. In a folder it is NVIDIA's three files (`modality.py`), cut down to that
embodiment, with tokenizer/ and, for a policy with a mean picture, pixels.safetensors. Its processor_config.json has
besides, under `world2act`, the robot's own names and how they are the parts of the modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, write_json
from world2act.policies.gr00t.model import Inputs
from world2act.policies.gr00t.processing import images, language, numbers
from world2act.policies.gr00t.processing.images import Augmentation, PixelScale
from world2act.policies.gr00t.processing.modality import (
    CONFIG,
    REMEDY,
    SLOTS,
    STATISTICS,
    Modalities,
    Modality,
    Settings,
    read_modalities,
    read_settings,
    read_slot,
    read_statistics,
)
from world2act.policies.gr00t.processing.parts import ActionPart, StatePart, action_parts, state_parts
from world2act.policies.gr00t.processing.robot import Names, Robot, find_cameras
from world2act.policies.observations import stack_images, stack_proprio
from world2act.sims.base import Observation

TOKEN_SIDE = 28
"""Pixels a side of an image token of GR00T-N1.6: two patches of 14."""

_OURS = "world2act"
_FAR_OUTSIDE = 1.5
"""Of the normalised box, whose ends are -1 and 1."""
_FOREIGN_SHARE = 0.2


class Processor:
    """See the module. Everything is float32 outside, and computed in float64.

    Attributes:
        cameras: the robot's, in the order of the views. image_size: pixels a side of what they give.
        chunk_length, action_dim, proprio_dim: of the robot; settings: what the network's are padded to.
        slot: the embodiment's set of encoders and decoder.
    """

    def __init__(
        self,
        settings: Settings,
        modalities: Modalities,
        statistics: Mapping[str, Any],
        robot: Robot,
        names: Names,
        tokenizer: PreTrainedTokenizerBase,
        *,
        embodiment: str,
        slot: int,
        token_side: int,
        scale: PixelScale | None = None,
    ) -> None:
        self.settings, self.modalities, self.statistics = settings, modalities, statistics
        self.robot, self.names, self.tokenizer = robot, names, tokenizer
        self.embodiment, self.slot, self.token_side = embodiment, slot, token_side
        self.scale = scale or PixelScale.siglip()
        self.image_size, self.proprio_dim, self.action_dim = robot.image_size, len(robot.proprio), len(robot.actions)
        self.chunk_length = len(modalities.action.delta_indices)
        self.cameras = find_cameras(modalities.video.modality_keys, robot, names.views)
        self._state = state_parts(settings, modalities, statistics, robot, names)
        self._action = action_parts(settings, modalities, statistics, robot, names, self._state)
        self._check_widths()
        height, width = images.prepared_size(robot.image_size, robot.image_size, settings, token_side)
        self._tokens = [(height // token_side) * (width // token_side)] * len(self.cameras)

    @property
    def image_token(self) -> int:
        """The id that marks the position of an image token in a prompt."""
        return language.image_token_id(self.tokenizer)

    def prepare(self, observations: Sequence[Observation]) -> Inputs:
        """B observations as the network reads them.

        Raises:
            BadInput: a camera is missing, a picture of another size, proprioception of another width or not finite.
        """
        pictures = stack_images(observations, self.cameras, self.image_size)
        prompt, mask = self.prompts([observation.instruction for observation in observations])
        state = self.state(stack_proprio(observations, self.proprio_dim))
        return Inputs(self.pixels(pictures), prompt, mask, state, self.slot)

    def prompts(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids int64 (B, L), with a place for each image token, and which are no padding, bool (B, L)."""
        if self.settings.formalize_language:
            instructions = [language.formalize(instruction) for instruction in instructions]
        return language.encode(self.tokenizer, instructions, self._tokens)

    def pixels(self, pictures: np.ndarray, augmentations: Sequence[Augmentation] | None = None) -> Tensor:
        """uint8 (B, V, S, S, 3), in the order of `cameras` → float (B, V, 3, h, w) in the network's range.

        Args:
            augmentations: one for each of the B, in training; see `images.draw_augmentation`.
        """
        if self.settings.resizes:
            drawn: Sequence[Augmentation | None] = augmentations or [None] * len(pictures)
            pictures = np.stack(
                [
                    np.stack([images.prepare(view, self.settings, self.token_side, draw) for view in views])
                    for views, draw in zip(pictures, drawn, strict=True)
                ]
            )
        return self.scale(torch.from_numpy(pictures).permute(0, 1, 4, 2, 3))

    def state(self, proprio: np.ndarray) -> Tensor:
        """Float (B, P) → normalised, zero-padded float32 (B, 1, max_state_dim)."""
        values = np.zeros((len(proprio), 1, self.settings.max_state_dim), np.float32)
        start = 0
        for part in self._state:
            values[:, 0, start : start + part.encoded_width] = part.encode(proprio)
            start += part.encoded_width
        return torch.from_numpy(values)

    def targets(self, actions: np.ndarray, real: np.ndarray, proprio: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the network should have said.

        Args:
            actions: float (B, chunk_length, A), the robot's own.
            real: bool (B, chunk_length), false beyond an episode's end.
            proprio: float (B, P), at the chunk's start.

        Returns:
            normalised, zero-padded float32 (B, max_action_horizon, max_action_dim), and bool of that shape, true
            where there is something to learn.
        """
        shape = (len(actions), self.settings.max_action_horizon, self.settings.max_action_dim)
        values, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
        start = 0
        for part in self._action:
            if part.places:
                part_values = part.normalise(actions[..., part.places], proprio)
                values[:, : self.chunk_length, start : start + part.width] = part_values * real[..., None]
                mask[:, : self.chunk_length, start : start + part.width] = real[..., None]
            start += part.width
        return torch.from_numpy(values), torch.from_numpy(mask)

    def actions(self, chunk: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        """Normalised (B, max_action_horizon, max_action_dim) → the robot's own, float32 (B, chunk_length, A).

        Args:
            proprio: float (B, P), of the observations that the chunk was predicted from.
        """
        actions = np.zeros((len(chunk), self.chunk_length, self.action_dim), np.float32)
        start = 0
        for part in self._action:
            if part.places:
                values = chunk[:, : self.chunk_length, start : start + part.width].astype(np.float64)
                actions[..., part.places] = part.restore(values, proprio)
            start += part.width
        return actions

    def check_units(self, actions: np.ndarray, proprio: np.ndarray) -> None:
        """Whether frames (N, A) and (N, P) of the robot can be in the units that the statistics are of.

        Relative actions, angles and what is scaled by its moments are not looked at.

        Raises:
            BadInput: more than a fifth of a number's frames lie far outside the box of its part.
        """
        parts: list[tuple[str, StatePart | ActionPart, np.ndarray]] = []
        parts += [("state", part, proprio) for part in self._state if not part.angles]
        parts += [("action", part, actions[:, None]) for part in self._action if part.places and not part.reference]
        for modality, part, frames in parts:
            if not part.scaling.bounded:
                continue
            outside = np.abs(part.scaling.normalise(frames[..., part.places].astype(np.float64))) > _FAR_OUTSIDE
            share = outside.reshape(-1, len(part.places)).mean(0)
            if share.max() > _FOREIGN_SHARE:
                place = part.places[int(share.argmax())]
                name = (self.robot.proprio if modality == "state" else self.robot.actions)[place]
                found = f"{share.max():.0%} of the frames of {name} far outside, {frames[..., place].min():.3g} to "
                expected = f"the units and signs of the {self.embodiment} that the statistics are of"
                remedy = "convert the recordings, or name another embodiment, which is measured on them"
                found += f"{frames[..., place].max():.3g}"
                raise BadInput("params.yaml", f"base_policy.gr00t.{modality}.{part.name}", found, expected, remedy)

    def save(self, directory: Path) -> None:
        """Write it into an existing directory, for `Processor.open`."""
        kwargs = {
            "modality_configs": {self.embodiment: self.modalities.model_dump(exclude_none=True)},
            **self.settings.model_dump(),
        }
        ours = {
            "embodiment": self.embodiment,
            "token_side": self.token_side,
            "robot": asdict(self.robot),
            "names": asdict(self.names),
        }
        config = {"processor_class": "Gr00tN1d6Processor", "processor_kwargs": kwargs, _OURS: ours}
        write_json(directory / CONFIG, config)
        write_json(directory / STATISTICS, {self.embodiment: self.statistics})
        write_json(directory / SLOTS, {self.embodiment: self.slot})
        self.tokenizer.save_pretrained(directory / language.FOLDER)
        self.scale.save(directory)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open what `save` wrote. Raises `BadInput`: a part is missing or damaged."""
        path = directory / CONFIG
        ours = read_json(path).get(_OURS)
        keys = {"embodiment", "token_side", "robot", "names"}
        if not isinstance(ours, dict) or set(ours) != keys:
            raise BadInput(path, _OURS, ours, f"the keys {sorted(keys)}", REMEDY)
        try:
            robot, names = Robot.from_dict(ours["robot"]), Names(**ours["names"])
        except TypeError as error:
            raise BadInput(path, _OURS, str(error), "robot and names, as a policy has them", REMEDY) from error
        return cls.read(
            directory,
            ours["embodiment"],
            robot,
            names,
            token_side=ours["token_side"],
            scale=PixelScale.open(directory),
        )

    @classmethod
    def read(
        cls,
        folder: Path,
        embodiment: str,
        robot: Robot,
        names: Names,
        *,
        tokenizer: Path | None = None,
        chunk_length: int | None = None,
        token_side: int = TOKEN_SIDE,
        scale: PixelScale | None = None,
    ) -> Self:
        """That of an embodiment which a checkpoint has statistics of.

        Args:
            folder: with NVIDIA's three files.
            names: which of the robot's names each part is.
            tokenizer: its folder; by default tokenizer/ in `folder`, or `folder` itself.
            chunk_length: how many of the checkpoint's actions are meant; None for all of them.

        Raises:
            BadInput: a file is missing or asks for what is not carried; the embodiment is unknown, or has no
                statistics; the robot has no such camera or number, or another width.
        """
        return cls(
            read_settings(folder),
            read_modalities(folder, embodiment).shortened(chunk_length, folder / CONFIG),
            read_statistics(folder, embodiment),
            robot,
            names,
            language.read_tokenizer(tokenizer or language.find_tokenizer(folder)),
            embodiment=embodiment,
            slot=read_slot(folder, embodiment),
            token_side=token_side,
            scale=scale,
        )

    @classmethod
    def of_dataset(
        cls,
        settings: Settings,
        robot: Robot,
        names: Names,
        tokenizer: PreTrainedTokenizerBase,
        *,
        actions: np.ndarray,
        proprio: np.ndarray,
        chunk_length: int,
        embodiment: str,
        slot: int,
        token_side: int = TOKEN_SIDE,
        scale: PixelScale | None = None,
    ) -> Self:
        """That of a new embodiment, measured on frames of the training split.

        Its parts are those that `names` declares; where nothing is declared, each camera is a view, and all
        proprioception and all actions are one part each. Actions are the robot's own numbers (absolute).

        Args:
            actions: float (N, A). proprio: float (N, P).
        """
        state = names.state or {"state": robot.proprio}
        action = names.action or {"action": robot.actions}
        views = names.views or {camera: camera for camera in robot.cameras}
        measured = {
            "state": {part: numbers.measure(proprio[:, robot.places("proprio", of)]) for part, of in state.items()},
            "action": {part: numbers.measure(actions[:, robot.places("actions", of)]) for part, of in action.items()},
        }
        modalities = Modalities(
            video=Modality(delta_indices=[0], modality_keys=[*views]),
            state=Modality(delta_indices=[0], modality_keys=[*state]),
            action=Modality(delta_indices=[*range(chunk_length)], modality_keys=[*action]),
            language=Modality(delta_indices=[0], modality_keys=["annotation.human.task_description"]),
        )
        return cls(
            settings,
            modalities,
            measured,
            robot,
            Names(views, state, action),
            tokenizer,
            embodiment=embodiment,
            slot=slot,
            token_side=token_side,
            scale=scale,
        )

    def _check_widths(self) -> None:
        limits = {
            "max_state_dim": sum(part.encoded_width for part in self._state),
            "max_action_dim": sum(part.width for part in self._action),
            "max_action_horizon": self.chunk_length,
        }
        for key, needed in limits.items():
            if needed > getattr(self.settings, key):
                expected = f"at least {needed}, what {self.embodiment} needs"
                raise BadInput(CONFIG, f"processor_kwargs.{key}", getattr(self.settings, key), expected, REMEDY)
