"""The rows of the tables that the stage `judge` writes: heldout.parquet, chains.parquet and positions.parquet."""

from __future__ import annotations

from dataclasses import dataclass

RECORDED = "recorded"
"""The method of a row that measures the recording itself."""


@dataclass(frozen=True)
class HeldoutRow:
    """One held-out clip and how well it was imagined (see `world2act.world_model.judging.quality`).

    None where there is nothing to measure: pictures of clips that were not decoded, and the control where a skill has a
    single held-out clip.
    """

    episode_index: int
    task: str
    skill_index: int
    prompt: str
    latents: int
    error_model: float
    error_one_sample: float
    error_first_frame: float
    error_skill_mean: float
    error_ridge: float
    error_nearest: float
    error_length_mean: float
    error_shuffled: float | None
    correlation: float
    correlation_ridge: float
    correlation_nearest: float
    correlation_shuffled: float | None
    psnr_reconstruction: float | None
    psnr_model: float | None
    psnr_first_frame: float | None
    psnr_skill_mean: float | None
    psnr_ridge: float | None
    psnr_nearest: float | None
    ssim_reconstruction: float | None
    ssim_model: float | None
    ssim_first_frame: float | None
    ssim_skill_mean: float | None
    ssim_ridge: float | None
    ssim_nearest: float | None
    lpips_reconstruction: float | None
    lpips_model: float | None
    lpips_first_frame: float | None
    lpips_skill_mean: float | None
    lpips_ridge: float | None
    lpips_nearest: float | None


@dataclass(frozen=True)
class ChainRow:
    """One skill of a held-out episode by one method; measures how imagination drifts over a chain of skills.

    `error` and `correlation` are None for the recording itself, the jumps for the first skill of a chain.
    """

    episode_index: int
    task: str
    skill_index: int
    skill_count: int
    prompt: str
    method: str
    error: float | None
    correlation: float | None
    jump_latents: float | None
    jump_frames: float | None


@dataclass(frozen=True)
class PositionRow:
    """Where objects are at the start or the end of one held-out clip, in truth and as read from latents, metres."""

    episode_index: int
    task: str
    skill_index: int
    prompt: str
    method: str
    when: str
    true_m: list[float]
    read_m: list[float]
