"""A folder that the pipeline saved, opened by LeRobot's own machinery, acts as world2act's policy does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SEED, Saved, open_policy
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import make_policy_config, make_pre_post_processors
from lerobot_policy_world2act.configuration_world2act import World2ActConfig
from lerobot_policy_world2act.modeling_world2act import World2ActPolicy
from lerobot_policy_world2act.processor_world2act import make_world2act_pre_post_processors

from world2act.core.errors import BadInput, World2ActError
from world2act.core.seeds import derive
from world2act.policies.base import load_policy


def test_the_configuration_states_the_robot_of_the_policy(each: Saved) -> None:
    config = PreTrainedConfig.from_pretrained(each.lerobot, cli_overrides=["--device=cpu"])
    assert config.type == "world2act"
    assert {key: feature.shape for key, feature in config.image_features.items()} == {
        "observation.images.front": (3, 64, 64),
        "observation.images.hand": (3, 64, 64),
    }
    assert config.robot_state_feature.shape == config.action_feature.shape == (3,)
    assert config.action_feature_names == ["shoulder.pos", "elbow.pos", "gripper.pos"]


def test_actions_are_those_of_the_policy_and_of_the_pipelines_environment(each: Saved) -> None:
    policy = open_policy(each.folder)
    preprocess, postprocess = make_pre_post_processors(policy.config, each.lerobot)
    chunk = postprocess(policy.predict_action_chunk(preprocess(each.batch()))).numpy()
    seeds = [derive(SEED, "noise", 0, row) for row in range(len(each.observations))]
    np.testing.assert_array_equal(chunk, load_policy(each.folder).predict(each.observations, seeds))
    # another torch, another Python
    np.testing.assert_allclose(chunk, each.actions, atol=1e-4)


def test_actions_are_queued_until_a_chunk_ends_or_an_episode_begins(plain: Saved) -> None:
    policy, batch = open_policy(plain.folder), plain.batch()
    changed = batch | {"observation.state": -batch["observation.state"]}
    first = [policy.select_action(batch if step == 0 else changed).numpy() for step in range(4)]
    np.testing.assert_allclose(np.stack(first, 1), plain.actions, atol=1e-4)
    other = load_policy(plain.folder).predict([replace(o, proprio=-o.proprio) for o in plain.observations], [0, 0])
    np.testing.assert_array_equal(policy.select_action(changed), other[:, 0])
    policy.reset()
    np.testing.assert_allclose(policy.select_action(batch), plain.actions[:, 0], atol=1e-4)


def test_fewer_actions_of_a_chunk_may_be_executed(plain: Saved) -> None:
    policy, batch = open_policy(plain.folder, "--n_action_steps=1"), plain.batch()
    for _ in range(3):
        np.testing.assert_allclose(policy.select_action(batch), plain.actions[:, 0], atol=1e-4)
    with pytest.raises(BadInput, match="n_action_steps"):
        open_policy(plain.folder, "--n_action_steps=5")


def test_each_chunk_has_noise_of_its_own_and_the_seed_repeats_it(each: Saved) -> None:
    if each.folder.parent.name in ("behaviour_cloning", "residual"):
        pytest.skip("no noise")
    batch = each.batch()
    once, again = open_policy(each.folder), open_policy(each.folder)
    first, second = (once.predict_action_chunk(batch) for _ in range(2))
    assert (first - second).abs().max() > 1e-4
    assert torch.equal(first, again.predict_action_chunk(batch)) and torch.equal(
        second, again.predict_action_chunk(batch)
    )


def test_a_single_observation_of_a_robot_is_a_batch_of_one(plain: Saved) -> None:
    policy = open_policy(plain.folder)
    preprocess, _ = make_pre_post_processors(policy.config, plain.lerobot)
    single = {key: value[0] for key, value in plain.batch().items()}
    np.testing.assert_allclose(policy.select_action(preprocess(single)), plain.actions[:1, 0], atol=1e-4)


def test_the_saved_pipelines_are_those_that_lerobot_would_save(plain: Saved, tmp_path: Path) -> None:
    config = PreTrainedConfig.from_pretrained(plain.lerobot, cli_overrides=["--device=cpu"])
    for pipeline in make_world2act_pre_post_processors(config):
        pipeline.save_pretrained(tmp_path)
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((plain.lerobot / name).read_text())


def test_a_policy_that_lerobot_saved_is_the_same_folder(each: Saved, tmp_path: Path) -> None:
    policy = open_policy(each.folder)
    policy.save_pretrained(tmp_path / "copy")
    copy = World2ActPolicy.from_pretrained(tmp_path / "copy")
    copy.config.seed = SEED
    np.testing.assert_allclose(copy.predict_action_chunk(each.batch()), each.actions, atol=1e-4)


def test_lerobot_does_not_train_it(plain: Saved) -> None:
    policy = open_policy(plain.folder)
    for refused in (policy.config.get_optimizer_preset, policy.config.get_scheduler_preset, policy.get_optim_params):
        with pytest.raises(World2ActError, match="dvc repro post_train"):
            refused()
    with pytest.raises(World2ActError, match="dvc repro post_train"):
        policy.forward(plain.batch())


def _other(key: str, value: Any) -> Any:
    return lambda batch: batch | {key: value}


FRONT = "observation.images.front"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda batch: {k.replace("front", "top"): v for k, v in batch.items()}, "only .*images.top.*rename_map"),
        (lambda batch: {k: v for k, v in batch.items() if k != "task"}, "task"),
        (_other("task", ["", ""]), "task.*0 characters"),
        (_other("task", ["push the cup"]), "rows"),
        (_other("task", ["x" * 1_000_000] * 2), "task.*1000000 characters"),
        (_other(FRONT, torch.zeros(2, 3, 48, 64)), r"images.front.*48, 64"),
        (_other(FRONT, torch.zeros(2, 64, 64, 3)), "images.front.*64, 64, 3"),
        (_other(FRONT, torch.zeros(2, 3, 64, 64, dtype=torch.uint8)), "images.front.*uint8"),
        (_other(FRONT, torch.full((2, 3, 64, 64), 255.0)), "images.front.*255"),
        (_other(FRONT, torch.full((2, 3, 64, 64), torch.nan)), "images.front.*nan"),
        (_other("observation.state", torch.zeros(2, 4)), r"observation.state.*\(4,\)"),
        (_other("observation.state", torch.full((2, 3), torch.inf)), "observation.state.*inf"),
        (_other("observation.state", [0.0, 0.0]), "observation.state.*a list"),
    ],
)
def test_what_does_not_fit_is_named(plain: Saved, change: Any, named: str) -> None:
    policy = open_policy(plain.folder)
    with pytest.raises(BadInput, match=f"(?s){named}"):
        policy.select_action(change(plain.batch()))
    np.testing.assert_allclose(policy.select_action(plain.batch()), plain.actions[:, 0], atol=1e-4)


def test_a_robot_of_another_width_is_refused(plain: Saved) -> None:
    config = PreTrainedConfig.from_pretrained(plain.lerobot, cli_overrides=["--device=cpu"])
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    config.pretrained_path = plain.lerobot
    with pytest.raises(BadInput, match=r"(?s)\(7,\) of the environment.*shoulder.pos, elbow.pos, gripper.pos"):
        World2ActPolicy(config)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: shutil.rmtree(folder / "lerobot"), "lerobot"),
        (lambda folder: (folder / "lerobot/config.json").unlink(), "config.json not found"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "family.*policy family"),
        (lambda folder: (folder / "statistics.json").unlink(), "statistics.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors"),
    ],
)
def test_a_folder_that_holds_no_whole_policy_is_refused(plain: Saved, tmp_path: Path, spoil: Any, named: str) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(plain.folder, folder)
    spoil(folder)
    with pytest.raises(Exception, match=f"(?s){named}"):
        open_policy(folder)


def test_without_a_folder_it_says_how_to_name_one() -> None:
    with pytest.raises(BadInput, match=r"(?s)--policy\.path.*nothing"):
        World2ActPolicy(World2ActConfig(device="cpu"))


def test_a_policy_of_lerobots_own_is_not_mistaken_for_one(tmp_path: Path) -> None:
    make_policy_config("act", device="cpu").save_pretrained(tmp_path / "lerobot")
    with pytest.raises(BadInput, match=r"(?s)type.*act.*world2act"):
        World2ActPolicy.from_pretrained(tmp_path)
