"""One small good tree of artifacts for the gates' tests, written by the project's own writers, and ways to break it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.latent_caches import write_latents
from tests.helpers.paths import ROOT
from world2act.bridge.rows import RetrievalRow
from world2act.core.errors import GateFailed
from world2act.core.params import Params, compose, parse_params
from world2act.core.storage import read_json, read_tensors, sha256, write_json, write_parquet, write_tensors
from world2act.core.tables import column_names, schema_of
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.initial_states import InitialStateRow
from world2act.data.latent_cache import open_latents
from world2act.data.latent_index import clip_keys
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.skill_table import DiscardRow, SkillRow
from world2act.evaluation.records import write_episodes
from world2act.evaluation.rollout import EpisodeResult
from world2act.evaluation.summary import summarise
from world2act.gates.engine.validate import validate
from world2act.world_model.learning.rows import ReconstructionRow

TASKS = ("reach", "push")
EPISODES = 10
FRAMES = 41
SIZE = 8
CHANNELS = 3
SCENE = ("object_x_m", "object_y_m")
JUDGED = Path("metrics/judge/tables")


def make_params() -> Params:
    values = compose("default", ROOT)
    values["demos"] |= {"tasks": list(TASKS), "image_size": SIZE}
    values["gates"]["skills"]["synchronised"] = 0.8  # one of ten is discarded
    return parse_params(values, "test")


def make_artifacts(root: Path) -> Path:
    """Write every artifact that a gate reads under `root`, and what was judged next to it, all of them good."""
    rng = np.random.default_rng(0)
    _demos(root / "demos", rng)
    _skills(root / "skills")
    _tokenizer(root / "tokenizer")
    _latents(root, rng)
    _world_model(root, rng)
    _rollouts(root, rng)
    _base_policy(root / "base_policy")
    _bridge(root / "bridge")
    _post_train(root)
    _evaluate(root)
    return root


def make_episode(task: str, seed: int, rng: np.random.Generator, *, shift: int = 0) -> Episode:
    """An arm with inertia that starts to move in the step of its action; the picture shows the object and the arm.

    `shift` frames of observation are dropped at the start, as by a writer that stores them after the step.
    """
    actions = np.clip(rng.normal(0, 0.4, (FRAMES + shift, 3)).repeat(2, axis=0)[: FRAMES + shift], -1, 1).astype(
        np.float32
    )
    speed = 0.006 * actions + 0.008 * np.vstack([np.zeros((1, 3)), actions[:-1]])
    positions = np.vstack([np.zeros((1, 3)), np.cumsum(speed, 0)[:-1]])[shift:].astype(np.float32)
    scene = rng.uniform(-0.1, 0.1, 2).astype(np.float32)
    frames = np.full((FRAMES, SIZE, SIZE, 3), 40.0)
    frames[:, : SIZE // 2] += 120
    frames[:, :2, :, 0] += 500 * scene[0]
    frames[:, 2:4, :, 1] += 500 * scene[1]
    frames[:, 4:] += 2000 * np.abs(positions[:, None, None, :])
    arrays = {
        "observation.state": np.hstack([positions, np.full((FRAMES, 1), 0.1, np.float32)]),
        "observation.environment_state": np.tile(scene, (FRAMES, 1)),
        "expert.phase": (np.arange(FRAMES) >= 17)[:, None].astype(np.float32),
        "action": np.hstack([actions[:FRAMES], np.zeros((FRAMES, 1), np.float32)]),
        "action.executed": np.hstack([actions[:FRAMES], np.zeros((FRAMES, 1), np.float32)]),
    }
    return Episode(task, f"{task} the object", seed, {"front": np.clip(frames, 0, 255).astype(np.uint8)}, arrays)


def write_dataset(path: Path, name: str, episodes: list[Episode]) -> None:
    actions = ("delta_x", "delta_y", "delta_z", "gripper_effort")
    features = {
        "observation.images.front": image_feature(SIZE, SIZE),
        "observation.state": array_feature(("ee_x_m", "ee_y_m", "ee_z_m", "gripper_opening_m")),
        "observation.environment_state": array_feature(SCENE),
        "expert.phase": array_feature(["phase"]),
    }
    extra = {"prehensile": {task: task == TASKS[0] for task in TASKS}}
    if name == "labelled":
        features |= {"action": array_feature(actions), "action.executed": array_feature(actions)}
    path.mkdir(parents=True)
    with DatasetWriter(path, features=features, fps=20, robot_type="sawyer", extra=extra) as writer:
        for episode in episodes:
            writer.add(encode(episode))
        held = len(TASKS) * 2
        writer.set_splits({"train": range(len(episodes) - held), "heldout": range(len(episodes) - held, len(episodes))})


def make_episodes(name: str, rng: np.random.Generator, *, shift: int = 0) -> list[Episode]:
    first = {"labelled": 0, "video_only": 100}[name]
    episodes = [make_episode(task, first + i, rng, shift=shift) for i in range(EPISODES) for task in TASKS]
    if name == "video_only":
        for episode in episodes:
            del episode.arrays["action"], episode.arrays["action.executed"]
    return episodes


def initial_states() -> list[dict[str, Any]]:
    return [
        {"set": name, "task": task, "seed": first + i, "instruction": f"{task} the object", "scene": [0.0, 0.0]}
        for name, first in (("post_training", 200), ("test", 300))
        for i in range(2)
        for task in TASKS
    ]


def _demos(root: Path, rng: np.random.Generator) -> None:
    for name in ("labelled", "video_only"):
        write_dataset(root / name, name, make_episodes(name, rng))
    write_parquet(root / "initial_states.parquet", initial_states(), schema_of(InitialStateRow))


def skill_rows() -> list[dict[str, Any]]:
    """Two skills an episode, the first discarded episode aside."""
    rows = []
    for dataset in ("labelled", "video_only"):
        for index in range(1 if dataset == "labelled" else 0, EPISODES * len(TASKS)):
            for skill, (start, end, raw_end) in enumerate(((0, 16, 15), (16, 40, 40))):
                task = TASKS[index % len(TASKS)]
                rows.append(
                    {
                        "dataset": dataset,
                        "episode_index": index,
                        "subset": "train" if index < (EPISODES - 2) * len(TASKS) else "heldout",
                        "task": task,
                        "instruction": f"{task} the object",
                        "skill_index": skill,
                        "skill_count": 2,
                        "start": start,
                        "end": end,
                        "raw_end": raw_end,
                        "prompt": f"{task} part {skill}",
                        "provider": "schema",
                    }
                )
    return rows


def _skills(root: Path) -> None:
    write_parquet(root / "skills.parquet", skill_rows(), schema_of(SkillRow))
    discard = {
        "dataset": "labelled",
        "episode_index": 0,
        "subset": "train",
        "task": TASKS[0],
        "reason": "one prompt, no event",
    }
    write_parquet(root / "discards.parquet", [discard], schema_of(DiscardRow))


def _tokenizer(root: Path) -> None:
    write_json(root / "vae/config.json", {"latents_mean": [0.1] * CHANNELS, "latents_std": [1.5] * CHANNELS})
    write_tensors(root / "vae/diffusion_pytorch_model.safetensors", {"encoder.weight": np.ones((2, 2), np.float32)})
    write_tensors(root / "text_encoder/model.safetensors", {"shared.weight": np.ones((2, 2), np.float32)})
    write_json(root / "text_tokenizer/tokenizer.json", {"model": {"vocab": {str(i): i for i in range(20)}}})
    write_json(root / "text_tokenizer/tokenizer_config.json", {})
    rows = [
        {key: row[key] for key in ("episode_index", "task", "skill_index")} | {"psnr_db": 30.0, "frame_std": 4.0}
        for row in skill_rows()
        if row["dataset"] == "video_only" and row["subset"] == "heldout"
    ]
    write_parquet(root / "reconstruction.parquet", rows, schema_of(ReconstructionRow))


def _latents(artifacts: Path, rng: np.random.Generator) -> None:
    skills, root = skill_rows(), artifacts / "latents"
    root.mkdir(parents=True)
    prompts = [*sorted({row["prompt"] for row in skills}), ""]
    clips = [
        rng.normal(0, 1, (1 + (row["end"] - row["start"]) // 4, CHANNELS, 4, 4)).astype(np.float32) for row in skills
    ]
    sha256s = {f"{part}_sha256": sha256(artifacts / "tokenizer" / part) for part in ("vae", "text_encoder")}
    datasets = {name: EpisodeDataset.open(artifacts / "demos" / name) for name in ("labelled", "video_only")}
    write_latents(
        root,
        skills,
        enumerate(clips),
        (CHANNELS, 4, 4),
        prompts,
        rng.normal(0, 1, (len(prompts), 3, 5)),
        {"encoding": sha256s, "text": sha256s},
        clip_keys(datasets, skills, sha256s),
    )


def _world_model(artifacts: Path, rng: np.random.Generator) -> None:
    from world2act.world_model.judging.rows import ChainRow, HeldoutRow, PositionRow

    root, cache = artifacts / "world_model", open_latents(artifacts / "latents")
    for name in ("transformer", "transformer_raw"):
        write_tensors(root / name / "diffusion_pytorch_model.safetensors", {"proj.weight": np.ones((2, 2), np.float32)})
    rows, chains, positions = [], [], []
    for clip in cache.select("video_only", "heldout"):
        latents = cache.latents(clip).astype(np.float64)
        key = {name: getattr(clip, name) for name in ("episode_index", "task", "skill_index", "prompt")}
        rows.append(
            dict.fromkeys(column_names(HeldoutRow), 0.3)
            | key
            | {
                "latents": clip.latents,
                "error_model": 0.1,
                "error_first_frame": float(np.square(latents[1:] - latents[0]).mean()),
                "correlation": 0.7,
                "correlation_shuffled": 0.1,
            }
        )
        for method in ("frame", "latent", "real start", "ridge", "recorded"):
            measured = {"error": 0.1 + 0.1 * clip.skill_index, "correlation": 0.7} if method != "recorded" else {}
            jump = {"jump_latents": 0.2, "jump_frames": 7.0} if clip.skill_index else {}
            chains.append(
                dict.fromkeys(column_names(ChainRow)) | key | {"skill_count": 2, "method": method} | measured | jump
            )
        for method in ("model", "shuffled", "ridge", "recorded"):
            for when in ("start", "end"):
                place = {"true_m": [0.1 * clip.episode_index, 0.2], "read_m": [0.1 * clip.episode_index + 0.01, 0.2]}
                positions.append(key | {"method": method, "when": when} | place)
    write_json(root / "config.json", {"latents_sha256": sha256(artifacts / "latents")})
    judged = artifacts.parent / JUDGED
    write_parquet(judged / "heldout.parquet", rows, schema_of(HeldoutRow))
    write_parquet(judged / "chains.parquet", chains, schema_of(ChainRow))
    write_parquet(judged / "positions.parquet", positions, schema_of(PositionRow))
    write_json(judged / "judged.json", {"world_model_sha256": sha256(root / "transformer")})


def rollout_rows(artifacts: Path) -> list[dict[str, Any]]:
    rows, offset = [], 0
    digest = sha256(artifacts / "world_model/transformer")
    for rollout, state in enumerate(s for s in initial_states() if s["set"] == "post_training"):
        for skill in range(2):
            rows.append(
                {
                    "rollout": rollout,
                    "seed": state["seed"],
                    "task": state["task"],
                    "instruction": state["instruction"],
                    "skill_index": skill,
                    "prompt": f"{state['task']} part {skill}",
                    "offset": offset,
                    "latents": 6,
                    "conditioning_latents": 1,
                    "feedback": "frame" if skill else "none",
                    "world_model_sha256": digest,
                    "first_frame_sha256": hashlib.sha256(str(rollout).encode()).hexdigest(),
                    "sampler": '{"steps": 8}',
                    "sampler_seed": offset,
                }
            )
            offset += 6
    return rows


def _rollouts(artifacts: Path, rng: np.random.Generator) -> None:
    from world2act.world_model.imagining.rollouts import RolloutRow

    rows, root = rollout_rows(artifacts), artifacts / "rollouts"
    write_parquet(root / "rollouts.parquet", rows, schema_of(RolloutRow))
    np.save(
        root / "latents.npy", rng.normal(0, 1, (sum(row["latents"] for row in rows), CHANNELS, 4, 4)).astype(np.float32)
    )


def _base_policy(root: Path) -> None:
    from world2act.evaluation.rows import CheckRow

    rows = [
        {
            "policy": policy,
            "task": task,
            "seed": 200 + i,
            "success": policy == "base" and i > 0,
            "steps": 100,
            "error": "",
        }
        for policy in ("base", "random")
        for task in TASKS
        for i in range(2)
    ]
    write_parquet(root / "check.parquet", rows, schema_of(CheckRow))
    write_json(root / "config.json", {"family": "behaviour_cloning"})
    box = {"min": [-1.0] * 4, "max": [1.0] * 4}
    write_json(root / "statistics.json", {"new_embodiment": {"state": {"state": box}, "action": {"action": box}}})
    write_tensors(root / "model.safetensors", {"head.weight": np.ones((2, 2), np.float32)})


def _bridge(root: Path) -> None:
    rows = [
        {
            "prompt": f"{TASKS[i % 2]} part 0",
            "rank": 1 + (i == 0),
            "candidates": 8,
            "rank_same_skill": 1 + (i == 0),
            "candidates_same_skill": 4,
            "cosine": 0.6,
        }
        for i in range(8)
    ]
    write_parquet(root / "heldout.parquet", rows, schema_of(RetrievalRow))
    parts = ("video_adapter", "action_adapter", "action_decoder")
    write_tensors(root / "model.safetensors", {f"{part}.weight": np.ones((2, 2), np.float32) for part in parts})


def _post_train(artifacts: Path) -> None:
    from world2act.post_training.history import history_schema
    from world2act.post_training.residual import HISTORY

    root = artifacts / "post_train"
    for name in ("model.safetensors", "base/model.safetensors"):
        write_tensors(root / name, {"head.weight": np.ones((2, 2), np.float32)})
    for file in ("check.parquet", "statistics.json", "model.safetensors", "config.json"):
        (root / "base" / file).write_bytes((artifacts / "base_policy" / file).read_bytes())
    rows = [{"step": i, "loss": 2.0, "cosine": 0.1 + 0.01 * i, "cosine_base": 0.1, "residual": 0.02} for i in range(10)]
    write_parquet(root / "history.parquet", rows, history_schema(HISTORY))
    write_json(root / "config.json", {"base_sha256": sha256(artifacts / "base_policy")})


def _evaluate(artifacts: Path) -> None:
    root = artifacts / "evaluate"
    wins = {"base": (True, False, True, False), "post_train": (True, True, True, False), "random": (False,) * 4}
    states = [state for state in initial_states() if state["set"] == "test"]
    results = {
        policy: [
            EpisodeResult(s["task"], s["seed"], win, np.full((5, 4), 0.5, np.float32), "")
            for s, win in zip(states, row, strict=True)
        ]
        for policy, row in wins.items()
    }
    directories = {"base": artifacts / "base_policy", "post_train": artifacts / "post_train"}
    for policy, episodes in results.items():
        saved = {"sha256": sha256(directories[policy])} if policy in directories else {"family": "random"}
        write_episodes(
            root / "episodes" / policy, episodes, {"simulator": "metaworld", "chunk_length": 4, "policy": saved}
        )
    summarise(results, 0.95, incumbent="base", candidates=["post_train"]).write(root / "summary.json")
    (root / "videos").mkdir()
    for policy in directories:
        (root / "videos" / f"{policy}-reach-300-success.mp4").write_bytes(b"video")


def with_nan(table: pa.Table, name: str) -> pa.Table:
    column = table[name].combine_chunks()
    values = column.flatten().to_numpy().copy()
    values[0] = np.nan
    column = pa.FixedSizeListArray.from_arrays(values, column.type.list_size)
    return table.set_column(
        table.schema.get_field_index(name), table.schema.field(name), column.cast(table.schema.field(name).type)
    )


def poison(path: Path) -> None:
    """Put a NaN into a safetensors file."""
    tensors = read_tensors(path)
    next(iter(tensors.values()))[0, 0] = np.nan
    write_tensors(path, tensors)


def edit(path: Path, change: Callable[[list[dict]], list[dict] | None]) -> None:
    """Change the rows of a parquet file; those returned, or the ones changed in place."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    changed = change(rows)
    pq.write_table(pa.Table.from_pylist(rows if changed is None else changed, schema=table.schema), path)


def rewrite_groups(dataset: Path, change: Callable[[pa.Table, int], pa.Table]) -> None:
    """Change the episodes of a dataset's data file, behind the back of its metadata."""
    path = dataset / "data/chunk-000/file-000.parquet"
    file = pq.ParquetFile(path)
    groups = [change(file.read_row_group(i), i) for i in range(file.num_row_groups)]
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)


def red(artifact: str, artifacts: Path) -> dict[tuple[str, str], dict]:
    """Validate, expect a red gate, and return the failed expectations by table and column."""
    with pytest.raises(GateFailed) as raised:
        validate(artifact, artifacts, make_params())
    results = read_json(Path("reports/gates") / f"{artifact}.json")
    assert results["success"] is False
    failed = {(r["table"], r["column"]): r for r in results["expectations"] if not r["success"]}
    for record in failed.values():
        if record["severity"] == "critical":
            assert record["meaning"] in str(raised.value) and record["remedy"] in str(raised.value)
            assert record["expected"] in str(raised.value)
    return failed
