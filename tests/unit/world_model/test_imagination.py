"""Generation: skills chained through frames or latents, the same in every batch; and what it refuses."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.latent_time import latents_of
from world2act.core.params import Rollouts, Sampler, compose, parse_params
from world2act.core.seeds import derive
from world2act.core.storage import write_json
from world2act.world_model.imagining.imagination import imagine_rollouts, independent_rollouts
from world2act.world_model.imagining.step_cache import computed_once
from world2act.world_model.imagining.world_model import WorldModel, load_world_model, make_world_model
from world2act.world_model.parts.tokenizer import VideoTokenizer, make_vae
from world2act.world_model.parts.transformer import build_transformer

CONFIG = {
    "target": "change",
    "prediction": "velocity",
    "change_scale": [0.5] * 16,
    "first_mean": np.zeros((16, 4, 4)).tolist(),
    "first_std": np.ones((16, 4, 4)).tolist(),
    "skill_latents": {"lift": 3, "place": 2},
    "max_latents": 4,
    "conditioning_latents": [1, 2],
}
SAMPLER = Sampler(steps=3, order=2, guidance=1.0)
Parts = tuple[WorldModel, VideoTokenizer, dict[str, Tensor]]


@pytest.fixture(scope="module")
def parts() -> Parts:
    params = parse_params(compose("default", ROOT), "conf/profile/default.yaml")
    vae = make_vae(params.tokenizer.model_copy(update={"base_dim": 4, "dim_mult": [1, 2, 2], "patch_size": 2}), 0)
    size = {"weights": None, "parameters": None, "heads": 2, "head_dim": 16, "layers": 2}
    network = build_transformer(params.world_model.model_copy(update=size), 16, 8, 0)
    generator = torch.Generator().manual_seed(0)
    embeds = {prompt: torch.randn(4, 8, generator=generator) for prompt in ("lift", "place", "")}
    return make_world_model(network.requires_grad_(False), CONFIG), VideoTokenizer(vae), embeds


def frames(count: int, of_each: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, of_each, 32, 32, 3), np.uint8)


def settings(**changes: Any) -> Rollouts:
    return Rollouts(**{"sampler": SAMPLER, "feedback": "frame", "conditioning_frames": 1, "batch_size": 2} | changes)


def seeds_of(chains: list[list[str]]) -> list[list[int]]:
    return [[derive(0, i, k) for k in range(len(chain))] for i, chain in enumerate(chains)]


def imagine(parts: Parts, chains: list[list[str]], first: np.ndarray | None = None, **changes: Any) -> list:
    world_model, tokenizer, embeds = parts
    first = frames(len(chains)) if first is None else first
    return imagine_rollouts(world_model, tokenizer, first, chains, embeds, seeds_of(chains), settings(**changes))


@pytest.mark.parametrize("asked", [1, 5])
@pytest.mark.parametrize("feedback", ["frame", "latent"])
def test_the_end_of_a_skill_conditions_the_next(parts: Parts, feedback: str, asked: int) -> None:
    chains = [["lift", "place"], ["place"], ["lift", "lift", "place"]]
    imagined = imagine(parts, chains, feedback=feedback, conditioning_frames=asked)
    given = latents_of(asked)
    lengths = [[3, 1 + given], [2], [3, 2 + given, 1 + given]]
    assert [[len(clip) for clip in skills] for skills in imagined] == lengths
    tokenizer = parts[1]
    for i, skills in enumerate(imagined):
        assert torch.allclose(skills[0][0], tokenizer.encode(frames(3))[i, 0], atol=1e-5)
        for earlier, later in pairwise(skills):
            end = earlier[-given:]
            if feedback == "frame":  # through eight bits here: not the code under test, and near it
                end = tokenizer.encode(tokenizer.decode(earlier[None])[:, -asked:])[0]
            assert torch.allclose(later[:given], end, atol=0.02 if feedback == "frame" else 0)


def test_five_first_frames_are_two_latents(parts: Parts) -> None:
    (skills,) = imagine(parts, [["lift", "place"]], frames(1, 5), conditioning_frames=5)
    assert torch.allclose(skills[0][:2], parts[1].encode(frames(1, 5))[0], atol=1e-6)
    assert [len(clip) for clip in skills] == [4, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_a_rollout_does_not_depend_on_its_neighbours_in_a_batch(parts: Parts, batch_size: int) -> None:
    """Up to rounding: a processor may sum in another order for another size of batch.

    The largest difference was 1.4e-5 on one processor and 0 on another.
    """
    chains = [["lift", "place"], ["place"], ["lift", "lift", "place"], ["lift"], ["place", "lift"]]
    for one, other in zip(
        imagine(parts, chains, batch_size=5), imagine(parts, chains, batch_size=batch_size), strict=True
    ):
        assert all(torch.allclose(a, b, rtol=0, atol=1e-3) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shards", [2, 3])
def test_a_rollout_is_the_same_in_every_shard(parts: Parts, one_thread: None, shards: int) -> None:
    """To the bit: `run_sharded` computes the same batches, only in other processes."""
    world_model, tokenizer, embeds = parts
    chains = [["lift", "place"], ["place"], ["lift", "lift", "place"], ["place", "lift"], ["place"]]
    together, units = imagine(parts, chains), independent_rollouts(chains, settings().batch_size)
    assert len(units) > 1 and sorted(i for unit in units for i in unit) == list(range(5))
    for shard in range(shards):
        for unit in units[shard::shards]:
            first, seeds = frames(5)[unit], [seeds_of(chains)[i] for i in unit]
            apart = imagine_rollouts(
                world_model, tokenizer, first, [chains[i] for i in unit], embeds, seeds, settings()
            )
            for i, clips in zip(unit, apart, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(clips, together[i], strict=True))


def test_a_rollout_depends_on_its_seed(parts: Parts) -> None:
    world_model, tokenizer, embeds = parts
    one, other = imagine_rollouts(
        world_model, tokenizer, frames(1).repeat(2, 0), [["lift"]] * 2, embeds, [[1], [2]], settings()
    )
    assert torch.equal(one[0][0], other[0][0]) and not torch.allclose(one[0][1:], other[0][1:])


def test_what_is_computed_once_changes_nothing(parts: Parts) -> None:
    network, generator = parts[0].network, torch.Generator().manual_seed(1)
    latents, embeds = (torch.randn(*shape, generator=generator) for shape in ((2, 16, 3, 4, 4), (2, 4, 8)))
    inputs = {"condition_mask": torch.zeros(2, 1, 3, 4, 4), "padding_mask": torch.zeros(1, 1, 4, 4)}
    text = [block.attn2.to_k for block in network.transformer_blocks]
    calls: list[int] = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in text]

    def run(level: float, prompts: Tensor) -> Tensor:
        time = torch.tensor([1e-4, level, level]).view(1, 1, 3, 1, 1).expand(2, -1, -1, -1, -1)
        return network(latents, time, prompts, fps=None, return_dict=False, **inputs)[0]

    with torch.no_grad():
        plain = [run(level, embeds) for level in (0.9, 0.3)]
        calls.clear()
        with computed_once(network, 3):
            once = [run(level, embeds) for level in (0.9, 0.3)]
            assert len(calls) == len(text), "keys of the text were computed again"
            other = run(0.3, embeds * 2)
        again = run(0.9, embeds)
    for hook in hooks:
        hook.remove()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, once, strict=True))
    assert not torch.allclose(other, once[1], atol=1e-3), "another text was taken for the last one"
    assert torch.equal(again, plain[0]), "the network is not what it was"


@pytest.mark.parametrize("chain", [[], ["lift", ""], [" "]])
def test_a_rollout_without_prompts_is_refused(parts: Parts, chain: list[str]) -> None:
    with pytest.raises(BadInput, match="rollout 1: prompts"):
        imagine(parts, [["lift"], chain])


@pytest.mark.parametrize("count", [0, 2])
def test_prompts_for_another_number_of_rollouts_are_refused(parts: Parts, count: int) -> None:
    with pytest.raises(BadInput, match="the prompts"):
        imagine(parts, [["lift"]] * count, frames(1))


def test_an_unknown_skill_is_refused(parts: Parts) -> None:
    with pytest.raises(BadInput, match="'dance'"):
        parts[0].skill_length("dance")


def test_frame_counts_off_the_grid_are_refused(parts: Parts) -> None:
    for count in (2, 4, 6):
        with pytest.raises(BadInput, match="4k"):
            imagine(parts, [["lift"]], frames(1, count))


def test_more_conditioning_than_in_training_is_refused(parts: Parts) -> None:
    world_model, tokenizer, embeds = parts
    trained_on_one = make_world_model(world_model.network, CONFIG | {"conditioning_latents": [1]})
    with pytest.raises(BadInput, match="2 conditioning latents given"):
        imagine((trained_on_one, tokenizer, embeds), [["place", "place"]], conditioning_frames=5)
    with pytest.raises(BadInput, match="3 conditioning latents given"):
        imagine(parts, [["lift"]], frames(1, 9))


@pytest.mark.parametrize(
    ("conditioning", "latents", "message"),
    [
        (torch.zeros(1, 16, 4, 4), 3, "the shape"),
        (torch.zeros(1, 1, 8, 4, 4), 3, "the shape"),
        (torch.zeros(2, 1, 16, 4, 4), 3, "the shape"),
        (torch.full((1, 1, 16, 4, 4), float("nan")), 3, "not finite"),
        (torch.zeros(1, 1, 16, 4, 4), 5, "max_latents"),
        (torch.zeros(1, 2, 16, 4, 4), 2, "max_latents"),
    ],
)
def test_what_cannot_be_imagined_is_refused(parts: Parts, conditioning: Tensor, latents: int, message: str) -> None:
    world_model, _, embeds = parts
    with pytest.raises(BadInput, match=message):
        world_model.imagine(conditioning, embeds["lift"][None], embeds[""], latents=latents, seeds=[0], sampler=SAMPLER)


def test_imagination_that_is_not_a_number_is_refused(parts: Parts) -> None:
    world_model, _, embeds = parts
    weight = world_model.network.proj_out.weight
    kept = weight.clone()
    weight[0, 0] = float("inf")
    try:
        with pytest.raises(BadInput, match="artifacts/world_model"):
            world_model.imagine(
                torch.zeros(1, 1, 16, 4, 4), embeds["lift"][None], embeds[""], latents=3, seeds=[0], sampler=SAMPLER
            )
    finally:
        weight.copy_(kept)


def test_a_saved_world_model_imagines_the_same(parts: Parts, tmp_path: Path) -> None:
    world_model, tokenizer, embeds = parts
    world_model.network.save_pretrained(tmp_path / "transformer")
    write_json(tmp_path / "config.json", CONFIG)
    conditioning = tokenizer.encode(frames(2))
    options = {"latents": 4, "seeds": [1, 2], "sampler": SAMPLER}
    made = [
        model.imagine(conditioning, embeds["lift"].expand(2, -1, -1), embeds[""], **options)
        for model in (world_model, load_world_model(tmp_path))
    ]
    assert torch.equal(*made) and made[0].shape == (2, 4, 16, 4, 4) and torch.equal(made[0][:, :1], conditioning)
