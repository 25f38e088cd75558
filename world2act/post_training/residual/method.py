"""The residual method: artifacts/{demos,rollouts,bridge,base_policy} → the objective that trains f_θ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from world2act.bridge.adapters import Bridge
from world2act.core.errors import BadInput
from world2act.core.params import Params, Training
from world2act.core.seeds import derive
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.base import load_policy
from world2act.post_training.residual.model import ResidualModel
from world2act.post_training.residual.objective import ResidualObjective
from world2act.post_training.residual.params import Parameters
from world2act.post_training.residual.policy import ResidualPolicy
from world2act.post_training.residual.targets import read_targets
from world2act.sims.pool import EnvironmentPool
from world2act.sims.rig import Rig
from world2act.training.ranks import initialise


@contextmanager
def make_objective(params: Params, artifacts: Path) -> Iterator[ResidualObjective]:
    """See `world2act.post_training.contract.Method`."""
    settings, demos, training = params.post_train.block(Parameters), params.demos, params.post_train.training
    _check_training(training, settings.updates_per_rollout)
    rank, ranks = initialise()
    bridge = Bridge.from_pretrained(artifacts / "bridge")
    imagined = read_targets(artifacts / "rollouts", bridge, settings.max_chunks)
    policy = _make_policy(params, settings, bridge, artifacts)
    slots = [demos.tasks[i % len(demos.tasks)] for i in range(training.batch_size)]
    local_slots = np.array_split(slots, ranks)[rank].tolist()
    with EnvironmentPool(Rig.from_params(demos), local_slots, workers=max(1, params.base.workers // ranks)) as pool:
        yield ResidualObjective(
            policy,
            pool,
            slots,
            imagined,
            temperature=settings.temperature,
            hard_ratio=settings.hard_ratio,
            updates_per_rollout=settings.updates_per_rollout,
            seed=derive(params.base.seed, "post_train"),
            base_directory=artifacts / "base_policy",
        )


def _check_training(training: Training, updates_per_rollout: int) -> None:
    if training.checkpoint_every % updates_per_rollout:
        raise BadInput(
            "params.yaml",
            "post_train.training.checkpoint_every",
            training.checkpoint_every,
            f"a multiple of updates_per_rollout, {updates_per_rollout}",
            "a run can only continue at the start of a rollout",
        )
    if training.accumulation > 1:
        raise BadInput(
            "params.yaml",
            "post_train.training.accumulation",
            training.accumulation,
            "1: a rollout cannot be divided into micro-batches",
            "lower batch_size, or raise base.ranks",
        )


def _make_policy(params: Params, settings: Parameters, bridge: Bridge, artifacts: Path) -> ResidualPolicy:
    """The base policy with a residual that adds nothing yet; inputs are normalised as the training episodes are."""
    labelled = EpisodeDataset.open(artifacts / "demos/labelled")
    proprio = np.concatenate(
        [labelled.columns(i, ["observation.state"])["observation.state"] for i in labelled.splits["train"]]
    )
    torch.manual_seed(derive(derive(params.base.seed, "post_train"), "residual"))
    model = ResidualModel(
        bridge,
        proprio_dim=proprio.shape[1],
        image_size=params.demos.image_size,
        layers=settings.layers,
        heads=settings.heads,
    )
    return ResidualPolicy(
        load_policy(artifacts / "base_policy"),
        model,
        params.demos.cameras[0].name,
        torch.from_numpy(proprio.mean(0)),
        torch.from_numpy(proprio.std(0)),
    )
