"""The world model's objective and conditioning, each against an independent computation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.latent_caches import write_latents
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import Sampler, WorldModel, compose, parse_params
from world2act.data.latent_cache import LatentCache, open_latents
from world2act.training.objective import BatchPosition
from world2act.world_model.imagining.sampler import sample
from world2act.world_model.learning.loss import DenoisingObjective, denoising_loss, draw_sigma
from world2act.world_model.learning.preparation import describe
from world2act.world_model.parts.clips import usable_clips
from world2act.world_model.parts.conditioning import LatentSpace, conditioning_mask, denoise, denoised, network_inputs
from world2act.world_model.parts.transformer import build_transformer, load_transformer


def tiny(**changes: object) -> WorldModel:
    own = parse_params(compose("default", ROOT), "conf/profile/default.yaml").world_model
    return own.model_copy(update={"heads": 2, "head_dim": 16, "layers": 2, "max_latents": 6, **changes})


def position(step: int = 0, rank: int = 0, batch_size: int = 4, seed: int = 0) -> BatchPosition:
    return BatchPosition.of(seed, step, 2 * batch_size, rank=rank, ranks=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    """Twelve clips of two skills and three lengths, latents (T, 16, 4, 4) that drift away from the first."""
    directory, rng = tmp_path_factory.mktemp("latents"), np.random.default_rng(0)
    skills, clips = [], []
    for i in range(12):
        length, prompt = (3, 4, 6)[i % 3], ("lift", "reach")[i % 2]
        skills.append(
            {
                "dataset": "video_only",
                "episode_index": i,
                "subset": "heldout" if i >= 8 else "train",
                "task": "toy",
                "instruction": "do it",
                "skill_index": 0,
                "skill_count": 1,
                "start": 0,
                "end": 4 * (length - 1),
                "raw_end": 0,
                "prompt": prompt,
                "provider": "schema",
            }
        )
        first = rng.normal(size=(1, 16, 4, 4))
        clips.append(
            (i, first + np.arange(length)[:, None, None, None] * (0.1 + 0.1 * first) * (1 if prompt == "lift" else -1))
        )
    write_latents(directory, skills, clips, (16, 4, 4), ["lift", "reach", ""], rng.normal(size=(3, 4, 8)), {})
    return open_latents(directory)


def objective(cache: LatentCache, space: LatentSpace | None = None, **changes: object) -> DenoisingObjective:
    options = {"conditioning_latents": [1], "text_dropout": 0.0, "high_sigma_share": 0.05, "seed": 0} | changes
    network = build_transformer(tiny(), 16, 8, 0)
    return DenoisingObjective(network, cache, cache.select("video_only", "train"), space or LatentSpace(), **options)


def test_the_loss_is_ten_times_the_velocity_error() -> None:
    x0, noise, output = (torch.randn(8, 4, 5, 2, 2, dtype=torch.float64) for _ in range(3))
    sigma = torch.rand(8, dtype=torch.float64) * 20 + 0.1
    mask = conditioning_mask(1, x0)
    noised = x0 + sigma.view(-1, 1, 1, 1, 1) * noise
    loss = denoising_loss(denoised(output, noised, sigma, x0, mask), x0, sigma, mask)
    assert loss.item() == pytest.approx(10 * (output - (noise - x0))[:, :, 1:].square().mean().item(), rel=1e-9)


def test_conditioning_latents_stay_out_of_the_loss() -> None:
    x0, estimate, sigma = torch.randn(2, 4, 5, 2, 2), torch.randn(2, 4, 5, 2, 2), torch.tensor([1.0, 5.0])
    mask = conditioning_mask(2, x0)
    spoiled = estimate.clone()
    spoiled[:, :, :2] += 100
    assert torch.equal(denoising_loss(estimate, x0, sigma, mask), denoising_loss(spoiled, x0, sigma, mask))
    # neither sum nor mean: the same as if the clip had no conditioning latents at all
    rest = denoising_loss(estimate[:, :, 2:], x0[:, :, 2:], sigma, torch.zeros(2, 1, 3, 1, 1))
    assert denoising_loss(estimate, x0, sigma, mask).item() == pytest.approx(rest.item(), rel=1e-6)


def test_network_inputs_as_in_the_diffusers_pipeline() -> None:
    x0, sigma = torch.randn(2, 4, 3, 2, 2), torch.tensor([2.0, 80.0])
    noised, mask = x0 + 3 * torch.randn_like(x0), conditioning_mask(1, x0)
    inputs = network_inputs(noised, sigma, x0, mask)
    for i, level in enumerate((2.0, 80.0)):
        t = level / (level + 1)
        assert torch.equal(inputs["hidden_states"][i, :, 0], x0[i, :, 0])
        assert torch.allclose(inputs["hidden_states"][i, :, 1:], noised[i, :, 1:] * (1 - t), atol=1e-6)
        assert inputs["timestep"][i].flatten().tolist() == pytest.approx([1e-4 / (1 + 1e-4), t, t])
    assert inputs["timestep"].shape == (2, 1, 3, 1, 1) and inputs["condition_mask"].shape == (2, 1, 3, 2, 2)
    assert inputs["condition_mask"][:, :, 0].min() == 1 and inputs["condition_mask"][:, :, 1:].max() == 0


def test_the_network_is_asked_without_a_frame_rate() -> None:
    class Recorder(nn.Module):
        def forward(self, hidden_states: Tensor, fps: int | None, **_: object) -> tuple[Tensor]:
            self.fps = fps
            return (hidden_states,)

    recorder, x0 = Recorder(), torch.randn(1, 4, 3, 2, 2)
    denoise(recorder, x0, torch.ones(1), x0, conditioning_mask(1, x0), torch.zeros(1, 2, 8))
    assert recorder.fps is None


def test_frames_of_one_clip_get_their_own_timesteps() -> None:
    network = build_transformer(tiny(), 16, 8, 0).eval()
    x0, mask = torch.randn(1, 16, 3, 4, 4), torch.zeros(1, 1, 3, 1, 1)
    inputs = network_inputs(x0, torch.tensor([1.0]), x0, mask) | {
        "encoder_hidden_states": torch.randn(1, 4, 8),
        "return_dict": False,
    }
    outputs = []
    for shift in (0.0, 0.3):
        inputs["timestep"] = torch.full((1, 1, 3, 1, 1), 0.5)
        inputs["timestep"][:, :, 2] += shift
        outputs.append(network(**inputs)[0])
    assert not torch.allclose(outputs[0][:, :, 2], outputs[1][:, :, 2], atol=1e-5)


def test_training_noise_levels_follow_the_stated_distribution() -> None:
    sigma = draw_sigma(200_000, 9, 0.0, torch.Generator().manual_seed(0))
    assert sigma.median().item() == pytest.approx(3, rel=0.02)  # the square root of 9
    assert sigma.log().std().item() == pytest.approx(1, rel=0.02)
    high = draw_sigma(200_000, 9, 0.05, torch.Generator().manual_seed(0))
    assert ((high >= 200) & (high <= 1e5)).float().mean().item() == pytest.approx(0.05, abs=0.003)
    tail = draw_sigma(200_000, 9, 1.0, torch.Generator().manual_seed(0)).log10()
    assert tail.mean().item() == pytest.approx((np.log10(200) + 5) / 2, abs=0.01)


def test_change_is_inverted_and_shows_the_scene() -> None:
    latents, scale = torch.randn(2, 3, 5, 2, 2), torch.tensor([0.5, 1.0, 2.0])
    mean, std = torch.randn(3, 2, 2), torch.rand(3, 2, 2) + 0.5
    statistics = {"change_scale": scale.tolist(), "first_mean": mean.tolist(), "first_std": std.tolist()}
    space = LatentSpace.of({"target": "change", "prediction": "clean", **statistics})
    values = space.to_network(latents)
    assert torch.allclose(values[:, :, 0], (latents[:, :, 0] - mean) / std, atol=1e-6)
    assert torch.allclose(values[:, 2, 3], (latents[:, 2, 3] - latents[:, 2, 0]) / 2)
    assert torch.allclose(space.to_latents(values), latents, atol=1e-6)
    released = LatentSpace.of({"target": "latent", "prediction": "velocity"})
    assert torch.equal(released.to_network(latents), latents) and torch.equal(released.to_latents(latents), latents)


def test_changes_have_unit_variance_in_every_channel(cache: LatentCache) -> None:
    clips = usable_clips(cache, "train", 6).clips
    config = describe(tiny(target="change"), cache, clips)
    space = LatentSpace.of(config)
    changes = [
        space.to_network(torch.from_numpy(np.array(cache.latents(c))).transpose(0, 1)[None])[0, :, 1:] for c in clips
    ]
    assert torch.cat([c.transpose(0, 1) for c in changes]).square().mean((0, 2, 3)) == pytest.approx(
        np.ones(16), rel=1e-3
    )


def test_scenes_have_unit_variance_in_every_value_that_they_change(cache: LatentCache) -> None:
    clips = usable_clips(cache, "train", 6).clips
    space = LatentSpace.of(describe(tiny(target="change"), cache, clips))
    first = np.stack([cache.latents(clip)[0] for clip in clips])
    values = space.to_network(torch.from_numpy(first)[:, :, None])[:, :, 0]
    assert torch.allclose(values.mean(0), torch.zeros(16, 4, 4), atol=1e-5)
    assert torch.allclose(values.std(0, correction=0), torch.ones(16, 4, 4), atol=1e-5)
    alone = LatentSpace.of(describe(tiny(target="change"), cache, clips[:1]))
    assert alone.to_network(torch.from_numpy(first[1:2])[:, :, None]).isfinite().all()


def test_patches_must_tile_the_latents(cache: LatentCache) -> None:
    with pytest.raises(BadInput, match=r"(?s)patch_size.*3.*a divisor of 4 and 4"):
        describe(tiny(patch_size=3), cache, usable_clips(cache, "train", 6).clips)


def test_a_clean_prediction_is_the_estimate_itself() -> None:
    x0, output, noised, sigma = *torch.randn(3, 2, 4, 5, 2, 2), torch.tensor([0.5, 80.0])
    mask = conditioning_mask(1, x0)
    estimate = denoised(output, noised, sigma, x0, mask, "clean")
    assert torch.equal(estimate[:, :, 1:], output[:, :, 1:]) and torch.equal(estimate[:, :, 0], x0[:, :, 0])


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_objective_and_imagination_read_the_output_alike(cache: LatentCache, prediction: str) -> None:
    class Answer(nn.Module):
        """Says what a perfect network would, of clips that all are zero behind their first latent."""

        def forward(self, hidden_states: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
            # hidden states are (1 - t) * sigma * noise = t * noise, and the velocity is the noise
            return (0 * hidden_states if prediction == "clean" else hidden_states / timestep,)

    own = objective(cache, LatentSpace(prediction=prediction))
    own.model = Answer()
    batch = own.batch(position())
    batch.x0[:, :, 1:] = 0
    assert own.loss(own.model, batch, position())[1]["x0_error"] < 1e-6
    imagined = sample(
        Answer(),
        batch.x0[:, :, :1],
        batch.prompt_embeds,
        batch.prompt_embeds[:1],
        latents=4,
        seeds=range(len(batch.x0)),
        sampler=Sampler(steps=3, order=1, guidance=0.0),
        prediction=prediction,
    )
    assert imagined[:, :, 1:].abs().max() < 1e-3


def test_no_clip_is_cut_or_padded(cache: LatentCache) -> None:
    drawn = {tuple(objective(cache).batch(position(step)).x0.shape[2:3]) for step in range(40)}
    assert drawn == {(3,), (4,), (6,)}
    usable = usable_clips(cache, "train", 4)
    assert {clip.latents for clip in usable.clips} == {3, 4} and usable.discarded == 2
    with pytest.raises(BadInput, match="max_latents"):
        usable_clips(cache, "train", 2)


def test_batches_hold_training_clips_with_their_own_prompts(cache: LatentCache) -> None:
    batch = objective(cache).batch(position(3, batch_size=16))
    train = cache.select("video_only", "train")
    for x0, embeds in zip(batch.x0, batch.prompt_embeds, strict=True):
        source = next(c for c in train if np.allclose(cache.latents(c)[0], x0[:, 0].numpy(), atol=1e-6))
        assert np.array_equal(embeds.numpy(), cache.prompt_embeds[source.prompt_row])


def test_a_batch_depends_on_its_place_alone_and_ranks_agree_on_the_length(cache: LatentCache) -> None:
    own = objective(cache)
    one, again, other = own.batch(position(5)), own.batch(position(5)), own.batch(position(5, rank=1))
    assert torch.equal(one.noise, again.noise) and torch.equal(one.sigma, again.sigma)
    assert one.x0.shape == other.x0.shape and not torch.equal(one.noise, other.noise)


@pytest.mark.parametrize(("ranks", "parts"), [(1, 1), (2, 1), (1, 4), (4, 2)])
def test_a_step_sees_the_same_samples_on_any_number_of_ranks(cache: LatentCache, ranks: int, parts: int) -> None:
    own = objective(cache, text_dropout=0.5, conditioning_latents=[1, 2])
    whole = own.batch(BatchPosition.of(7, 3, 8))
    positions = [
        BatchPosition.of(7, 3, 8, rank=rank, ranks=ranks, part=part, parts=parts)
        for part in range(parts)
        for rank in range(ranks)
    ]
    shares = [own.batch(position) for position in positions]
    for key in vars(whole):
        assert torch.equal(torch.cat([getattr(share, key) for share in shares]), getattr(whole, key)), key
    assert len({float(sigma) for sigma in whole.sigma}) == 8
    assert [clip for position in positions for clip in own.choose(position)] == own.choose(BatchPosition.of(7, 3, 8))


def test_a_share_of_the_prompts_is_dropped(cache: LatentCache) -> None:
    own = objective(cache, text_dropout=0.2)
    nothing = torch.from_numpy(np.array(cache.prompt_embeds[cache.no_prompt]))
    dropped = [
        torch.isclose(e, nothing).all().item()
        for step in range(50)
        for e in own.batch(position(step, batch_size=40, seed=step)).prompt_embeds
    ]
    assert np.mean(dropped) == pytest.approx(0.2, abs=0.03)


def test_two_trainings_give_the_same_weights_and_learn(cache: LatentCache) -> None:
    space = LatentSpace.of(describe(tiny(), cache, usable_clips(cache, "train", 6).clips))

    def run() -> tuple[dict[str, Tensor], list[float]]:
        own = objective(cache, space)
        optimizer = torch.optim.AdamW(own.model.parameters(), lr=3e-3)

        def held_out() -> float:
            """Of batches that no step sees: one step's loss says more of its noise levels than of the network."""
            with torch.no_grad():
                positions = [position(step, seed=step, batch_size=8) for step in range(100, 108)]
                return float(np.mean([float(own.loss(own.model, own.batch(here), here)[0]) for here in positions]))

        losses = [held_out()]
        for step in range(30):
            here = position(step, seed=step, batch_size=8)
            loss, _ = own.loss(own.model, own.batch(here), here)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return own.model.state_dict(), [*losses, held_out()]

    (first, (before, after)), (second, _) = run(), run()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert after < 0.8 * before


def test_weights_are_loaded_by_strict_keys(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    network = build_transformer(tiny(), 16, 8, 0)
    network.save_pretrained(tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), load_transformer(tmp_path).state_dict().values(), strict=True)
    )
    weights = next(tmp_path.glob("*.safetensors"))
    state = load_file(weights)
    save_file({key: value for key, value in state.items() if key != "proj_out.weight"}, weights)
    with pytest.raises(BadInput, match=r"proj_out\.weight"):
        load_transformer(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="a whole CosmosTransformer3DModel"):
        load_transformer(tmp_path)
