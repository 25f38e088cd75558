"""Generation: skills chained through decoded and encoded frames, and imagination that a batch does not change."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from world2act.errors import BadInput
from world2act.params import Sampler, compose, parse_params
from world2act.world_model.generation import WorldModel, imagine_skills, load_world_model, make_world_model
from world2act.world_model.rollouts import sampler_seed
from world2act.world_model.tokenizer import VideoTokenizer, make_vae
from world2act.world_model.transformer import build_transformer

ROOT = Path(__file__).parents[1]
CONFIG = {
    "target": "change",
    "prediction": "velocity",
    "change_scale": [0.5] * 16,
    "first_mean": np.zeros((16, 4, 4)).tolist(),
    "first_std": np.ones((16, 4, 4)).tolist(),
    "skill_latents": {"lift": 3, "place": 2},
    "max_latents": 4,
}
OPTIONS = {"sampler": Sampler(steps=3, order=1, guidance=1.0)}


@pytest.fixture(scope="module")
def parts() -> tuple[WorldModel, VideoTokenizer, dict[str, torch.Tensor]]:
    params = parse_params(compose("default", ROOT), "conf/profile/default.yaml")
    vae = make_vae(params.tokenizer.model_copy(update={"base_dim": 4, "dim_mult": [1, 2, 2], "patch_size": 2}), 0)
    network = build_transformer(
        params.world_model.model_copy(update={"heads": 2, "head_dim": 16, "layers": 2}), 16, 8, 0
    )
    generator = torch.Generator().manual_seed(0)
    embeds = {prompt: torch.randn(4, 8, generator=generator) for prompt in ("lift", "place", "")}
    return make_world_model(network.requires_grad_(False), CONFIG), VideoTokenizer(vae), embeds


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_the_last_frame_of_a_skill_conditions_the_next(parts: tuple) -> None:
    world_model, tokenizer, embeds = parts
    chains = [["lift", "place"], ["place"], ["lift", "lift", "place"]]
    seeds = [[sampler_seed(0, i, k) for k in range(len(chain))] for i, chain in enumerate(chains)]
    imagined = imagine_skills(world_model, tokenizer, frames(3), chains, embeds, seeds, batch_size=2, **OPTIONS)
    assert [[len(clip) for clip in skills] for skills in imagined] == [[3, 2], [2], [3, 3, 2]]
    for i, skills in enumerate(imagined):
        first = tokenizer.encode(frames(3)[i : i + 1, None])[0, 0]
        assert torch.allclose(skills[0][0], first, atol=1e-5)
        for earlier, later in pairwise(skills):
            last_frame = tokenizer.decode(earlier[None])[:, -1:]
            assert torch.allclose(later[0], tokenizer.encode(last_frame)[0, 0], atol=1e-2)


def test_a_rollout_does_not_depend_on_the_others(parts: tuple) -> None:
    world_model, tokenizer, embeds = parts
    chains, seeds = [["lift", "place"]] * 3, [[11, 12], [21, 22], [31, 32]]
    together = imagine_skills(world_model, tokenizer, frames(3), chains, embeds, seeds, batch_size=3, **OPTIONS)
    alone = imagine_skills(
        world_model, tokenizer, frames(3)[1:2], chains[:1], embeds, seeds[1:2], batch_size=3, **OPTIONS
    )
    assert torch.allclose(together[1][0], alone[0][0], atol=1e-4)
    again = imagine_skills(world_model, tokenizer, frames(3), chains, embeds, seeds, batch_size=3, **OPTIONS)
    assert all(
        torch.equal(a, b) for one, two in zip(together, again, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_what_the_model_was_not_trained_on_is_refused(parts: tuple) -> None:
    world_model, tokenizer, embeds = parts
    with pytest.raises(BadInput, match="'dance'"):
        world_model.skill_length("dance")
    conditioning = tokenizer.encode(frames(1)[:, None])[:, 0]
    with pytest.raises(BadInput, match="max_latents"):
        world_model.imagine(conditioning, embeds["lift"][None], embeds[""], latents=5, seeds=[0], **OPTIONS)


def test_seeds_of_imagined_skills_differ() -> None:
    seeds = {sampler_seed(base, rollout, skill) for base in range(3) for rollout in range(20) for skill in range(5)}
    assert len(seeds) == 300


def test_a_saved_world_model_imagines_the_same(parts: tuple, tmp_path: Path) -> None:
    from world2act.storage import write_json

    world_model, tokenizer, embeds = parts
    world_model.network.save_pretrained(tmp_path / "transformer")
    write_json(tmp_path / "config.json", CONFIG)
    conditioning = tokenizer.encode(frames(2)[:, None])[:, 0]
    made = [
        model.imagine(conditioning, embeds["lift"].expand(2, -1, -1), embeds[""], latents=4, seeds=[1, 2], **OPTIONS)
        for model in (world_model, load_world_model(tmp_path))
    ]
    assert torch.equal(*made) and made[0].shape == (2, 4, 16, 4, 4) and torch.equal(made[0][:, 0], conditioning)
