"""The chunk dataset and the imitation objective, against independent computations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy, compose
from world2act.data.chunks import ChunkDataset
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import load_policy
from world2act.policies.gr00t.objective import ImitationObjective, masked_error
from world2act.training.objective import BatchPosition

LENGTHS = (5, 9, 6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    directory = tmp_path_factory.mktemp("labelled")
    features = {
        "observation.images.front": image_feature(32, 32),
        "observation.state": array_feature(["a", "b"]),
        "action": array_feature(["x", "y", "z"]),
    }
    generator = np.random.default_rng(0)
    with DatasetWriter(directory, features=features, fps=10, robot_type="arm", extra={}) as writer:
        for index, length in enumerate(LENGTHS):
            # an action tells its episode and its frame, so that a wrong chunk is seen
            actions = np.stack([np.full(length, index), np.arange(length), np.ones(length)], 1).astype(np.float32)
            arrays = {"observation.state": generator.normal(size=(length, 2)).astype(np.float32), "action": actions}
            images = {"front": generator.integers(0, 255, (length, 32, 32, 3), dtype=np.uint8)}
            writer.add(encode(Episode("task", f"do thing {index % 2}", index, images, arrays)))
        writer.set_splits({"train": range(0, 2), "heldout": range(2, 3)})
    return EpisodeDataset.open(directory)


@pytest.fixture(scope="module")
def section() -> BasePolicy:
    return with_sizes()


def with_sizes(**changed: int) -> BasePolicy:
    values = compose("default", ROOT)["base_policy"]
    small = {"vision_dim": 32, "language_dim": 32, "action_head_dim": 32, "vision_layers": 1, "language_layers": 1}
    values["gr00t"] |= {"sizes": values["gr00t"]["sizes"] | small | {"vision_patch": 8} | changed, "noise_draws": 3}
    values["training"]["deepspeed"] = str(ROOT / values["training"]["deepspeed"])
    return BasePolicy.model_validate(values)


def position(step: int, batch_size: int = 8) -> BatchPosition:
    return BatchPosition.of(0, step, batch_size)


def test_chunks_stay_inside_their_episode(dataset: EpisodeDataset) -> None:
    chunks = ChunkDataset.load(dataset, range(3))
    assert len(chunks) == sum(LENGTHS)
    actions, real = chunks.chunks(np.arange(len(chunks)), 4)
    row = 0
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            left = min(4, length - frame)
            assert real[row].tolist() == [True] * left + [False] * (4 - left)
            assert actions[row, :left, 0].tolist() == [episode] * left
            assert actions[row, :left, 1].tolist() == list(range(frame, frame + left))
            assert not actions[row, left:].any()
            row += 1


def test_frames_and_words_belong_to_their_actions(dataset: EpisodeDataset) -> None:
    chunks = ChunkDataset.load(dataset, [2, 0])
    expected = np.concatenate([dataset.frames(2, "front"), dataset.frames(0, "front")])
    assert np.array_equal(chunks.images(slice(None))[:, 0], expected)
    assert [chunks.instructions[i] for i in chunks.instruction] == ["do thing 0"] * 11
    assert chunks.ends.tolist() == [6] * 6 + [11] * 5


def test_padding_does_not_enter_the_loss() -> None:
    velocity, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    learned = torch.tensor([[True, True, False, False], [True, True, True, True]])[..., None].repeat(1, 1, 5)
    learned[..., 4] = False
    error = (velocity - target)[..., :4]
    expected = torch.cat([error[0, :, :2].flatten(), error[1].flatten()]).square().mean()
    velocity[0, :, 2:] = velocity[..., 4] = 1e6
    torch.testing.assert_close(masked_error(velocity, target, learned), expected)


def test_batch_lies_on_the_straight_path_from_noise_to_actions(dataset: EpisodeDataset, section: BasePolicy) -> None:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    objective = ImitationObjective(section, dataset, chunks, seed=0)
    batch = objective.batch(position(0))
    t = batch.times[..., None, None]
    noise = batch.noisy - t * batch.target  # x_t = noise + t (actions - noise)
    actions = noise + batch.target
    for k in range(1, 3):
        torch.testing.assert_close(actions[:, k], actions[:, 0], atol=1e-4, rtol=1e-4)
        assert (noise[:, k] - noise[:, 0]).abs().min() > 1e-6
    # the second action dimension tells the frame: consecutive within the chunk, and the whole range is [-1, 1]
    frames = objective.processor.actions(actions[:, 0].numpy(), np.zeros((8, 2)))[..., 1]
    real = batch.learned[..., 1].numpy()
    steps = np.diff(frames, axis=1)[real[:, 1:]]
    np.testing.assert_allclose(steps, 1, atol=1e-3)


def test_pixels_enter_as_differences_from_the_mean_picture(dataset: EpisodeDataset, section: BasePolicy) -> None:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    objective = ImitationObjective(section, dataset, chunks, seed=0)
    scaled = objective.processor.pixels(chunks.images(slice(None)))
    torch.testing.assert_close(scaled.mean(0), torch.zeros_like(scaled[0]), atol=1e-5, rtol=0)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_flow_times_follow_the_published_distribution(dataset: EpisodeDataset, section: BasePolicy) -> None:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    objective = ImitationObjective(section, dataset, chunks, seed=0)
    times = torch.cat([objective.batch(position(step, 64)).times.flatten() for step in range(60)])
    torch.manual_seed(0)
    published = (1 - torch.distributions.Beta(1.5, 1.0).sample((200_000,))) * 0.999
    for q in (0.1, 0.5, 0.9):
        assert times.quantile(q).item() == pytest.approx(published[:100_000].quantile(q).item(), abs=0.02)
    assert times.min() >= 0 and times.max() <= 0.999


def test_batches_depend_on_the_place_alone(dataset: EpisodeDataset, section: BasePolicy) -> None:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    one, two = (ImitationObjective(section, dataset, chunks, seed=0) for _ in range(2))
    one.batch(position(0))
    first, again = one.batch(position(1)), two.batch(position(1))
    for name in ("noisy", "times", "target", "learned"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for name in ("pixels", "prompt", "mask", "state"):
        assert torch.equal(getattr(first.inputs, name), getattr(again.inputs, name))


def test_learns_and_saves_a_policy_that_loads(dataset: EpisodeDataset, section: BasePolicy, tmp_path: Path) -> None:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    objective = ImitationObjective(section, dataset, chunks, seed=0)
    optimizer = torch.optim.AdamW(objective.model.parameters(), 2e-3)
    losses = []
    for step in range(60):
        loss, _ = objective.loss(objective.model, objective.batch(position(step)), position(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    objective.save_policy(tmp_path, objective.model.state_dict())
    policy = load_policy(tmp_path)
    assert (policy.chunk_length, policy.action_dim) == (4, 3)
    again = ImitationObjective(section, dataset, chunks, seed=0)
    again.model.load_state_dict(objective.model.state_dict())
    (tmp_path / "again").mkdir()
    again.save_policy(tmp_path / "again", again.model.state_dict())
    for file in (
        "config.json",
        "model.safetensors",
        "pixels.safetensors",
        "statistics.json",
        "tokenizer/tokenizer.json",
    ):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.mark.parametrize(("key", "value"), [("vision_dim", 40), ("vision_patch", 12)])
def test_sizes_that_do_not_fit_are_named(dataset: EpisodeDataset, key: str, value: int) -> None:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    with pytest.raises(BadInput) as error:
        ImitationObjective(with_sizes(**{key: value}), dataset, chunks, seed=0)
    assert error.value.key == f"base_policy.gr00t.sizes.{key}"
