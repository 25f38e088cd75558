"""Cosmos Policy at tiny size, against the published figures and independent computations."""

import itertools
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy, Tokenizer, compose
from world2act.data.chunks import ChunkDataset
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import Policy, load_policy
from world2act.policies.cosmos_policy.encoding import PictureEncoder
from world2act.policies.cosmos_policy.interface import INTERFACES
from world2act.policies.cosmos_policy.layout import (
    Frame,
    Layout,
    extract,
    extract_value,
    inject,
    inject_value,
    layout_of,
)
from world2act.policies.cosmos_policy.nvidia_checkpoint import read_nvidia_prompts, read_nvidia_statistics
from world2act.policies.cosmos_policy.objective import CosmosPolicyObjective, draw_sigma
from world2act.policies.cosmos_policy.policy import levels, sample
from world2act.sims.base import Observation
from world2act.training.objective import BatchPosition
from world2act.world_model.parts.text import make_text_encoder
from world2act.world_model.parts.tokenizer import load_tokenizer, make_vae
from world2act.world_model.parts.transformer import build_transformer

LENGTHS, SIDE, CHUNK = (6, 9), 32, 4
INSTRUCTIONS = ("push the cup", "lift the lid")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    directory, generator = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    features = {
        "observation.images.front": image_feature(SIDE, SIDE),
        "observation.images.hand": image_feature(SIDE, SIDE),
        "observation.state": array_feature(["a", "b"]),
        "action": array_feature(["x", "y", "z"]),
    }
    extra = {"image_convention": "upright"}
    with DatasetWriter(directory, features=features, fps=10, robot_type="arm", extra=extra) as writer:
        for index, length in enumerate(LENGTHS):
            # an action tells its frame; the last dimension never moves
            actions = np.stack([np.full(length, index), np.arange(length), np.full(length, 0.5)], 1).astype(np.float32)
            arrays = {"observation.state": generator.normal(size=(length, 2)).astype(np.float32), "action": actions}
            images = {
                camera: generator.integers(0, 255, (length, SIDE, SIDE, 3), dtype=np.uint8)
                for camera in ("front", "hand")
            }
            writer.add(encode(Episode("task", INSTRUCTIONS[index], index, images, arrays)))
        writer.set_splits({"train": range(2), "heldout": range(2, 2)})
    return EpisodeDataset.open(directory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VAE whose memory of the past is alive, and a text encoder."""
    root = tmp_path_factory.mktemp("tokenizer")
    params = Tokenizer.model_validate(compose("default", ROOT)["tokenizer"] | {"base_dim": 8})
    vae, generator = make_vae(params, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    vae.save_pretrained(root / "vae")
    make_text_encoder(INSTRUCTIONS, 16, 1, 8, seed=0).save(root)
    return root


@pytest.fixture(scope="module")
def params(folder: Path) -> BasePolicy:
    values = compose("default", ROOT)["base_policy"] | {"family": "cosmos_policy", "chunk_length": CHUNK}
    small = {"heads": 2, "head_dim": 16, "layers": 1, "adaln_lora_dim": 4, "noise_draws": 2, "text_length": 8}
    small |= {"patch_size": 2, "prediction": "velocity"}
    values["cosmos_policy"] |= small | {"tokenizer": str(folder)}
    return BasePolicy.model_validate(values)


def changed(params: BasePolicy, **block: object) -> BasePolicy:
    return BasePolicy.model_validate(params.model_dump() | {"cosmos_policy": params.cosmos_policy.model_dump() | block})


@pytest.fixture(scope="module")
def objective(params: BasePolicy, dataset: EpisodeDataset) -> CosmosPolicyObjective:
    return make(params, dataset)


def make(params: BasePolicy, dataset: EpisodeDataset) -> CosmosPolicyObjective:
    return CosmosPolicyObjective(params, dataset, ChunkDataset.load(dataset, range(2)), seed=0)


@pytest.fixture
def saved(objective: CosmosPolicyObjective, tmp_path: Path) -> Path:
    objective.save_policy(tmp_path, objective.model.state_dict())
    return tmp_path


def observation(seed: int, instruction: str = INSTRUCTIONS[0]) -> Observation:
    generator = np.random.default_rng(seed)
    images = {name: generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for name in ("front", "hand")}
    return Observation(images, generator.normal(size=2).astype(np.float32), instruction, np.zeros(0, np.float32))


def layout_for(interface: str) -> Layout:
    return layout_of(tuple(INTERFACES[interface].cameras))


def test_layouts_are_the_published_ones() -> None:
    def names(layout_name: str) -> list[str]:
        frames = layout_for(layout_name).frames
        return [("future " if frame.future else "") + (frame.camera or frame.kind) for frame in frames]

    assert names("libero") == [
        "blank",
        "proprio",
        "wrist",
        "primary",
        "action",
        "future proprio",
        "future wrist",
        "future primary",
        "value",
    ]
    assert names("robocasa") == [
        "blank",
        "proprio",
        "wrist",
        "left",
        "right",
        "action",
        "future proprio",
        "future wrist",
        "future left",
        "future right",
        "value",
    ]
    assert (layout_for("libero").given, layout_for("robocasa").given) == (4, 5)


@pytest.mark.parametrize(("chunk", "copies"), [(16, 112), (32, 56)])
def test_injected_actions_are_extracted_again(chunk: int, copies: int) -> None:
    actions = torch.rand(2, chunk, 7, generator=torch.Generator().manual_seed(chunk)) * 2 - 1
    frame = inject(actions, (16, 28, 28))
    assert (extract(frame, (chunk, 7)) - actions).abs().max() < 1e-6
    flat = frame.flatten(1)
    assert flat.shape[1] == 12544 and flat.shape[1] // (chunk * 7) == copies
    # a change of one whole copy moves what is read by one part in `copies`
    flat = flat.clone()
    flat[:, : chunk * 7] += 1
    moved = extract(flat.view_as(frame), (chunk, 7)) - actions
    torch.testing.assert_close(moved, torch.full_like(moved, 1 / copies), atol=1e-5, rtol=0)


def test_injection_is_cyclic_and_extraction_leaves_a_broken_copy_out() -> None:
    frame = inject(torch.arange(5.0)[None], (1, 3, 4))
    assert frame.flatten().tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    frame.view(-1)[10:] = 1e6
    assert extract(frame, (5,)).tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(BadInput, match="chunk_length"):
        inject(torch.zeros(1, 13), (1, 3, 4))


def test_value_is_a_constant_frame() -> None:
    value = torch.tensor([0.0, 0.25, 1.0])
    frame = inject_value(value, (2, 3, 3))
    assert [sorted(set(sample.flatten().tolist())) for sample in frame] == [[-1.0], [-0.5], [1.0]]
    torch.testing.assert_close(extract_value(frame), value)
    assert extract_value(torch.full((1, 2, 3, 3), 7.0)).item() == 1


def test_roles_follow_from_the_frames_that_are_given() -> None:
    layout = layout_for("libero")
    assert [sum(layout.known(role)) for role in ("policy", "world_model", "value")] == [4, 5, 8]


def test_what_the_policy_sees_is_one_causal_video(objective: CosmosPolicyObjective, folder: Path) -> None:
    """A blank frame, then four equal ones an item, black where the item is no picture; two samples at once."""
    layout, tokenizer = objective.config.layout, load_tokenizer(folder)
    generator = torch.Generator().manual_seed(0)
    front, hand = (torch.randint(0, 256, (2, SIDE, SIDE, 3), generator=generator).byte() for _ in range(2))
    video = torch.zeros(2, 13, SIDE, SIDE, 3, dtype=torch.uint8)
    video[:, 5:9], video[:, 9:] = front[:, None], hand[:, None]
    latents = tokenizer.encode(video.numpy())
    encoder = PictureEncoder(tokenizer, layout, SIDE)
    for _ in range(2):  # the memory of the black frames is as it was
        seen = encoder.encode({Frame("image", "front"): front, Frame("image", "hand"): hand})
        assert sorted(seen) == [0, 2, 3]
        for index, latent in seen.items():
            torch.testing.assert_close(latent, latents[:, index], rtol=1e-4, atol=1e-5)
    assert (seen[2][0] - seen[2][1]).abs().max() > 1e-3


def test_inference_levels_are_the_published_ones() -> None:
    assert [round(level, 1) for level in levels(5)] == [80.0, 42.3, 21.0, 9.6, 4.0]


def test_training_noise_follows_the_published_distribution() -> None:
    sigma = torch.stack([draw_sigma(9, torch.Generator().manual_seed(seed)) for seed in range(3000)]) / 3
    generator = torch.Generator().manual_seed(1)
    lognormal = (np.log(4) + 1.2 * torch.randn(70_000, generator=generator)).exp()
    published = torch.cat([lognormal, 1 + 84 * torch.rand(30_000, generator=generator)])
    for q in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert sigma.quantile(q).item() == pytest.approx(published.quantile(q).item(), rel=0.12)


def test_batch_holds_what_the_layout_says(
    objective: CosmosPolicyObjective, dataset: EpisodeDataset, folder: Path
) -> None:
    layout, chunks = objective.config.layout, ChunkDataset.load(dataset, range(2))
    rows = np.array([1, 4, 9])
    x0, weight = objective._latents(rows)
    shape = x0.shape[1], *x0.shape[3:]
    actions = extract(x0[:, :, layout.index("action")], (CHUNK, 3))
    restored = objective.statistics["action"].restore(actions.numpy())
    assert restored[0].round(4).tolist() == [[0, frame, 0.5] for frame in (1, 2, 3, 4)]
    # the second begins two frames before its episode's end
    known = inject(torch.tensor([[True] * 6 + [False] * 6]).float(), shape)[0]
    assert torch.equal(weight[1, :, layout.index("action")], known)
    assert weight[[0, 2]].min() == 1
    proprio = torch.from_numpy(objective.statistics["observation.state"].normalise(chunks.proprio))
    now, then = (extract(x0[:, :, layout.index("proprio", future=future)], (2,)) for future in (False, True))
    torch.testing.assert_close(now, proprio[rows])
    torch.testing.assert_close(then, proprio[[5, 5, 13]])
    value = extract_value(x0[:, :, layout.index("value")])
    torch.testing.assert_close(value, torch.tensor([1.0, 1.0, 0.99]))
    # pictures stand at their own index of one causal video
    images = torch.from_numpy(chunks.images(np.array([1, 5])))
    video = torch.zeros(1, 1 + 4 * 7, SIDE, SIDE, 3, dtype=torch.uint8)
    for index, picture in ((2, images[0, 0]), (3, images[0, 1]), (6, images[1, 0]), (7, images[1, 1])):
        video[:, 4 * index - 3 : 4 * index + 1] = picture
    latents = load_tokenizer(folder).encode(video.numpy())[0]
    for index in (0, 2, 3, 6, 7):
        torch.testing.assert_close(x0[0, :, index], latents[index])
    assert (latents[2] - latents[6]).abs().max() > 1e-3


def test_loss_is_that_of_the_velocity_where_nothing_is_given(objective: CosmosPolicyObjective) -> None:
    position = BatchPosition.of(0, 0, 3)
    batch = objective.batch(position)
    assert (
        batch.x0.shape[0] == 6 and torch.equal(batch.x0[0], batch.x0[1]) and not torch.equal(batch.x0[1], batch.x0[2])
    )
    loss, _ = objective.loss(objective.model, batch, position)
    t = (batch.sigma / (1 + batch.sigma)).view(-1, 1, 1, 1, 1)
    given = torch.zeros_like(t).expand(-1, 1, batch.x0.shape[2], 1, 1).clone()
    given[:, :, : objective.config.layout.given] = 1
    noised = batch.x0 + batch.sigma.view_as(t) * batch.noise
    velocity = objective.model(
        hidden_states=given * batch.x0 + (1 - given) * (1 - t) * noised,
        timestep=(1 - given) * t,
        encoder_hidden_states=batch.prompts,
        condition_mask=given.expand(-1, 1, -1, 2, 2),
        padding_mask=torch.zeros(1, 1, 2, 2),
        fps=None,
        return_dict=False,
    )[0]
    counted = (batch.weight * (1 - given)).bool()
    expected = 10 * ((velocity - (batch.noise - batch.x0))[counted] ** 2).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)


def test_batches_depend_on_the_place_alone_and_roles_on_their_shares(
    params: BasePolicy, dataset: EpisodeDataset, objective: CosmosPolicyObjective
) -> None:
    mixed = make(changed(params, roles={"policy": 0.5, "world_model": 0.25, "value": 0.25}), dataset)
    first, again = mixed.batch(BatchPosition.of(0, 3, 8)), mixed.batch(BatchPosition.of(0, 3, 8))
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert set(first.mask.flatten(1).sum(1).tolist()) == {4, 5, 8}
    assert set(objective.batch(BatchPosition.of(0, 3, 8)).mask.flatten(1).sum(1).tolist()) == {4}


def test_predicts_clipped_chunks_by_the_contract(saved: Path) -> None:
    policy = load_policy(saved)
    assert isinstance(policy, Policy)
    chunks = policy.predict([observation(0), observation(1, INSTRUCTIONS[1])], [7, 8])
    assert chunks.shape == (2, CHUNK, 3) and chunks.dtype == np.float32 and np.abs(chunks).max() <= 1
    np.testing.assert_allclose(policy.predict([observation(0)], [7])[0], chunks[0], atol=1e-5)
    assert np.abs(policy.predict([observation(0)], [9]) - chunks[:1]).max() > 1e-5
    # a dimension that never moved comes back as its one value
    assert (chunks[..., 2] == 0.5).all()
    seen = policy.foresee([observation(0)], [7])
    assert seen.proprio.shape == (1, 2) and 0 <= seen.value[0] <= 1 and seen.latents.shape == (1, 16, 9, 2, 2)


def test_sampling_follows_the_second_order_steps(objective: CosmosPolicyObjective) -> None:
    """Against a numerical integral: x relaxes to the line through the last two estimates, in time -log(sigma)."""
    start = 0.3

    class Network(nn.Module):
        """Its estimate of x0 is log(sigma) + x / 10."""

        def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
            t = timestep[:, :, -1:]
            return ((hidden_states - torch.log(t / (1 - t)) - hidden_states / (1 - t) / 10) / t,)

    config, shape = objective.config, (1, 16, 9, 2, 2)
    clean = torch.full(shape, 5.0)
    made = sample(Network(), torch.full(shape, start), clean, config, torch.zeros(1, 1, 16))
    sigmas = levels(5)
    x, before = 80 * start, None
    for sigma, following in itertools.pairwise(sigmas):
        now = -np.log(sigma), np.log(sigma) + x / 10
        slope = 0.0 if before is None else (now[1] - before[1]) / (now[0] - before[0])
        time = np.linspace(now[0], -np.log(following), 20001)
        x = x * following / sigma + np.trapezoid(np.exp(time - time[-1]) * (now[1] + slope * (time - now[0])), time)
        before = now
    assert made[:, :, config.layout.given :].unique().item() == pytest.approx(np.log(4) + x / 10, rel=1e-4)
    assert made[:, :, : config.layout.given].unique().tolist() == [5.0]


def test_learns_and_the_same_training_gives_the_same_files(
    params: BasePolicy, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    written = []
    for name in ("one", "two"):
        objective = make(params, dataset)
        optimizer, losses = torch.optim.AdamW(objective.model.parameters(), 3e-3), []
        for step in range(12):
            position = BatchPosition.of(0, step, 4)
            loss, _ = objective.loss(objective.model, objective.batch(position), position)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        (tmp_path / name).mkdir()
        objective.save_policy(tmp_path / name, objective.model.state_dict())
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.*")})
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert written[0] == written[1]


def test_weights_of_our_world_model_are_where_it_starts(
    params: BasePolicy, dataset: EpisodeDataset, tmp_path: Path
) -> None:
    world_model = build_transformer(params.cosmos_policy, 16, 16, seed=5)
    world_model.save_pretrained(tmp_path / "transformer")
    started = make(changed(params, weights=str(tmp_path)), dataset).model
    for key, value in world_model.state_dict().items():
        assert torch.equal(started.state_dict()[key], value)


def test_adapters_are_merged_into_what_is_saved(params: BasePolicy, dataset: EpisodeDataset, tmp_path: Path) -> None:
    objective = make(changed(params, tuning="lora"), dataset)
    trained = [name for name, value in objective.model.named_parameters() if value.requires_grad]
    assert trained and all("lora" in name for name in trained)
    with torch.no_grad():
        for value in objective.model.parameters():
            value += 0.1 * value.requires_grad
    objective.save_policy(tmp_path, objective.model.state_dict())
    plain, batch = load_policy(tmp_path).network, objective.batch(BatchPosition.of(0, 0, 1))
    ours, theirs = (
        objective.loss(network, batch, BatchPosition.of(0, 0, 1))[0] for network in (objective.model, plain)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    untrained = make(params, dataset).model
    assert abs(objective.loss(untrained, batch, BatchPosition.of(0, 0, 1))[0] - ours) > 1e-3


def test_same_architecture_as_the_released_checkpoints(params: BasePolicy) -> None:
    """Cosmos-Predict2-2B and no new parameters: 1,956,413,440."""
    from accelerate import init_empty_weights

    size = {"heads": 16, "head_dim": 128, "layers": 28, "adaln_lora_dim": 256, "patch_size": 2}
    full = changed(params, **size, parameters=1_956_413_440)
    with init_empty_weights():
        network = build_transformer(full.cosmos_policy, channels=16, text_dim=1024, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_956_413_440


def test_prompts_are_read_and_no_code_runs(tmp_path: Path) -> None:
    tensor = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    array = np.arange(20, dtype=np.float32).reshape(5, 4)
    (tmp_path / "t5.pkl").write_bytes(pickle.dumps({"push": tensor, "lift": array}))
    read = read_nvidia_prompts(tmp_path / "t5.pkl")
    assert np.array_equal(read["lift"], array) and np.array_equal(read["push"], tensor[0].float().numpy())

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    for content in ({"push": Evil()}, torch.nn.Linear(1, 1)):
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(BadInput, match="nothing of it was run"):
            read_nvidia_prompts(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions_min": [-1] * 7, "actions_max": [1] * 7}, "the 3 of this interface"),
        ({"proprio_min": None}, "proprio_min"),
        ({"actions_min": [2, 2, 2]}, "min <= max"),
    ],
)
def test_statistics_of_another_robot_are_refused(tmp_path: Path, change: dict[str, list[int]], message: str) -> None:
    values = {"actions_min": [-1] * 3, "actions_max": [1] * 3, "proprio_min": [0, 0], "proprio_max": [1, 1]} | change
    path = tmp_path / "dataset_statistics.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(BadInput, match=message):
        read_nvidia_statistics(path, {"action": 3, "observation.state": 2})


def test_what_does_not_fit_is_named(saved: Path, params: BasePolicy, dataset: EpisodeDataset) -> None:
    policy = load_policy(saved)
    small, nan, blind = observation(0), observation(0), observation(0)
    small.images["hand"] = small.images["hand"][:16]
    nan.proprio[0] = np.nan
    del blind.images["front"]
    for wrong, message in (
        (small, r"images.hand\n  found:    uint8 \(16, 32, 3\)"),
        (nan, "2 finite numbers"),
        (blind, "images.front"),
        (replace(observation(0), instruction="throw the cup"), "instruction"),
    ):
        with pytest.raises(BadInput, match=message):
            policy.predict([wrong], [0])
    with pytest.raises(BadInput, match=r"interface\n  found: .*'proprio': \('a', 'b'\)"):
        make(changed(params, interface="libero"), dataset)
    (saved / "statistics.json").unlink()
    with pytest.raises(BadInput, match=r"statistics\.json"):
        load_policy(saved)
