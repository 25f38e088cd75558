"""The sampler against independent computations, and a sample's independence of its batch."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from world2act.world_model import sampler
from world2act.world_model.sampler import karras_sigmas, sample, seeded_noise


class Oracle(nn.Module):
    """Knows x0: gives the velocity noise - x0 of whatever it is shown, and counts how often it is asked."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0, self.calls = x0, 0

    def forward(self, hidden_states: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
        self.calls += 1
        t = timestep.clamp(min=1e-3)
        return ((hidden_states - self.x0) / t,)


class Blend(nn.Module):
    """A network that mixes its inputs, prompt included, within each sample alone."""

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> tuple[Tensor]:
        text = encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1, 1)
        return (torch.tanh(hidden_states.mean(2, keepdim=True) + hidden_states * timestep + text),)


def test_levels_are_evenly_spaced_in_the_seventh_root() -> None:
    sigmas = karras_sigmas(35)
    roots = sigmas.double() ** (1 / 7)
    assert sigmas[0].item() == pytest.approx(80, rel=1e-5) and sigmas[-1].item() == pytest.approx(0.002, rel=1e-4)
    assert torch.allclose(roots.diff(), (roots[-1] - roots[0]) / 34, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_network_that_knows_the_clip_gives_the_clip(steps: int) -> None:
    x0 = torch.randn(2, 3, 5, 4, 4)
    made = sample(
        Oracle(x0),
        x0[:, :, :1],
        torch.zeros(2, 1, 1),
        torch.zeros(1, 1, 1),
        latents=5,
        seeds=[1, 2],
        steps=steps,
        guidance=0.0,
    )
    assert torch.allclose(made, x0, atol=1e-3)


def test_conditioning_latents_come_out_as_they_went_in() -> None:
    first = torch.randn(2, 3, 2, 4, 4)
    made = sample(
        Blend(), first, torch.randn(2, 4, 8), torch.zeros(1, 4, 8), latents=6, seeds=[1, 2], steps=4, guidance=3.0
    )
    assert torch.equal(made[:, :, :2], first)


def test_euler_steps_follow_the_ordinary_differential_equation() -> None:
    network, first, embeds = Blend(), torch.randn(1, 3, 1, 4, 4), torch.randn(1, 4, 8)
    made = sample(network, first, embeds, torch.zeros(1, 4, 8), latents=3, seeds=[7], steps=5, guidance=0.0)
    x = seeded_noise((3, 3, 4, 4), [7]) * 80
    levels = [float(s) for s in karras_sigmas(5)] + [0.0]
    for sigma, following in pairwise(levels):  # dx/dsigma = (x - denoised(x)) / sigma
        t = sigma / (1 + sigma)
        shown = (1 - t) * x
        shown[:, :, :1] = first
        times = torch.full((1, 1, 3, 1, 1), t)
        times[:, :, :1] = 1e-4 / (1 + 1e-4)
        denoised = (1 - t) * x - t * network(shown, times, embeds)[0]
        denoised[:, :, :1] = first
        x = x + (following - sigma) * (x - denoised) / sigma
    assert torch.allclose(made, x, atol=1e-3)


def test_guidance_zero_asks_the_network_once_a_step() -> None:
    x0 = torch.randn(1, 3, 3, 4, 4)
    for guidance, calls in ((0.0, 6), (2.0, 12)):
        oracle = Oracle(x0)
        sample(
            oracle,
            x0[:, :, :1],
            torch.zeros(1, 1, 1),
            torch.zeros(1, 1, 1),
            latents=3,
            seeds=[0],
            steps=6,
            guidance=guidance,
        )
        assert oracle.calls == calls


def test_guidance_pushes_away_from_the_empty_prompt() -> None:
    first, embeds, nothing = torch.randn(1, 3, 1, 4, 4), torch.randn(1, 4, 8), torch.zeros(1, 4, 8)
    options = {"latents": 3, "seeds": [3], "steps": 1}
    with_prompt, without = (sample(Blend(), first, e, nothing, guidance=0.0, **options) for e in (embeds, nothing))
    guided = sample(Blend(), first, embeds, nothing, guidance=2.0, **options)
    assert torch.allclose(guided, with_prompt + 2 * (with_prompt - without), atol=1e-4)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    first, embeds = torch.randn(3, 3, 1, 4, 4), torch.randn(3, 4, 8)
    options = {"latents": 4, "steps": 4, "guidance": 1.0}
    together = sample(Blend(), first, embeds, torch.zeros(1, 4, 8), seeds=[5, 6, 7], **options)
    for i, seed in enumerate([5, 6, 7]):
        alone = sample(Blend(), first[i : i + 1], embeds[i : i + 1], torch.zeros(1, 4, 8), seeds=[seed], **options)
        assert torch.allclose(together[i], alone[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_noise_is_the_seeds_alone() -> None:
    assert torch.equal(seeded_noise((2, 3), [4, 9])[1], seeded_noise((2, 3), [9])[0])
    assert sampler.SIGMA_MAX == 80 and sampler.SIGMA_MIN == 0.002
