"""A world2act policy folder of any family → the policy that LeRobot evaluates and rolls out, in its own process.

LeRobot's batches (`observations.py`) become the policy's observations, its chunks LeRobot's queue of actions. Names of
module, classes and methods are LeRobot's rules for a plugin; its guide is "Bring your own policies".
"""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from torch import Tensor

from lerobot_policy_world2act.configuration_world2act import World2ActConfig, refuse_training
from lerobot_policy_world2act.observations import BatchReader
from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.seeds import derive
from world2act.policies.base import load_policy
from world2act.policies.lerobot import FOLDER, TYPE


class World2ActPolicy(PreTrainedPolicy):
    """Chunk i of a policy, counted from when it was opened, has the noise `derive(seed, "noise", i, row)` in row `row`.

    Args:
        config: `pretrained_path` is the policy's folder, or `lerobot` in it.

    Raises:
        BadInput: no folder is named, it holds no whole policy, or the policy does not fit what LeRobot found.
    """

    config_class = World2ActConfig
    name = TYPE

    def __init__(self, config: World2ActConfig, **_: Any) -> None:
        super().__init__(config)
        if not config.pretrained_path or not Path(config.pretrained_path).is_dir():
            expected, remedy = f"the folder {FOLDER} in that of a policy", "name one that world2act wrote"
            raise BadInput("--policy.path", "", config.pretrained_path or "nothing", expected, remedy)
        self.folder = _policy_folder(config.pretrained_path)
        device = best_device().type
        if torch.device(config.device).type != device:
            remedy = f"--policy.device={device}, or hide the GPU by CUDA_VISIBLE_DEVICES="
            raise BadInput("--policy.device", "", config.device, f"{device}, where the policy runs here", remedy)
        self.policy = load_policy(self.folder)
        self._check_config(config)
        self._reader = BatchReader(self.policy)
        self._steps = config.n_action_steps or self.policy.chunk_length
        self._chunks = 0
        self.reset()

    def _check_config(self, config: World2ActConfig) -> None:
        width, length = self.policy.action_dim, self.policy.chunk_length
        if config.action_feature is not None and config.action_feature.shape != (width,):
            raise BadInput(
                "action",
                "",
                f"{tuple(config.action_feature.shape)} of the environment or data set",
                f"({width},), as {self.folder} gives: {', '.join(config.action_feature_names or ['?'])}",
                "use a policy that was trained for this robot",
            )
        if config.n_action_steps is not None and not 1 <= config.n_action_steps <= length:
            where, found = "--policy.n_action_steps", config.n_action_steps
            raise BadInput(where, "", found, f"1 to {length}, the actions of a chunk", "choose one of them")

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **_: Any
    ) -> Self:
        """Open a policy by its folder, or by `lerobot` in it.

        Raises:
            BadInput: see the class.
        """
        folder = _policy_folder(pretrained_name_or_path) / FOLDER
        config = config or PreTrainedConfig.from_pretrained(folder)
        if not isinstance(config, World2ActConfig):
            raise BadInput(folder, "type", config.type, TYPE, "open it by LeRobot's own class of that policy")
        config.pretrained_path = folder
        return cls(config).eval()

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Copy the policy's folder, `lerobot` included: LeRobot changes nothing in it."""
        shutil.copytree(self.folder, save_directory, dirs_exist_ok=True)

    def reset(self) -> None:
        """An episode begins: forget the actions that are left of the last chunk."""
        self._queue: deque[Tensor] = deque()

    def predict_action_chunk(self, batch: dict[str, Any]) -> Tensor:
        """The whole chunk, float32 (B, chunk_length, A), in the robot's units.

        Raises:
            BadInput: an observation is not what the policy was trained on.
        """
        observations = self._reader.read(batch)
        seeds = [derive(self.config.seed, "noise", self._chunks, row) for row in range(len(observations))]
        self._chunks += 1
        return torch.from_numpy(self.policy.predict(observations, seeds)).to(self.config.device)

    def select_action(self, batch: dict[str, Any]) -> Tensor:
        """The next action, float32 (B, A): of the chunk at hand, or, where none is left, of a new one."""
        if not self._queue:
            self._queue.extend(self.predict_action_chunk(batch)[:, : self._steps].unbind(1))
        return self._queue.popleft()

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        refuse_training()

    def get_optim_params(self) -> NoReturn:
        refuse_training()


def _policy_folder(path: str | Path) -> Path:
    absolute = Path(path).absolute()
    return absolute.parent if absolute.name == FOLDER else absolute
