"""The pipelines around the policy. World2act's policies normalise by themselves, so nothing here does."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    make_policy_processor_pipelines,
)
from torch import Tensor

from lerobot_policy_world2act.configuration_world2act import World2ActConfig


def make_world2act_pre_post_processors(
    config: World2ActConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """What LeRobot calls where it has no folder; a policy's folder holds the same two, saved.

    Args:
        dataset_stats: not used: the statistics of its training are in the policy.
    """
    return make_policy_processor_pipelines(
        input_steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device),
        ],
        output_steps=[DeviceProcessorStep(device="cpu")],
    )
