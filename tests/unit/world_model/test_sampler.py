"""The sampler against independent computations, and a sample's independence of its batch."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from world2act.core.params import Sampler
from world2act.world_model.imagining import sampler
from world2act.world_model.imagining.sampler import karras_sigmas, sample, seeded_noise


def settings(steps: int, order: int = 1, guidance: float = 0.0) -> Sampler:
    return Sampler(steps=steps, order=order, guidance=guidance)


class Oracle(nn.Module):
    """Knows x0: gives the velocity noise - x0 of whatever it is shown, and keeps the size of each batch."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0, self.batches = x0, []

    def forward(self, hidden_states: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
        self.batches.append(len(hidden_states))
        t = timestep.clamp(min=1e-3)
        return ((hidden_states - self.x0) / t,)


class Gaussian(nn.Module):
    """The perfect denoiser of data N(1, 0.5^2): E[x0 | x] = (s^2 x + sigma^2 m) / (s^2 + sigma^2)."""

    mean, std = 1.0, 0.5

    def forward(self, hidden_states: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
        sigma = (timestep / (1 - timestep)).double()
        noised = hidden_states * (1 + sigma)
        x0 = (self.std**2 * noised + sigma**2 * self.mean) / (self.std**2 + sigma**2)
        return ((noised - x0) / sigma - x0,)

    def end(self, noise: Tensor) -> Tensor:
        """Where the ODE leads from 80 * noise: (x - m) / sqrt(s^2 + sigma^2) stays as it is; then a clean pass."""
        start, end = (self.std**2 + level**2 for level in (sampler.SIGMA_MAX, sampler.SIGMA_MIN))
        x = self.mean + (sampler.SIGMA_MAX * noise - self.mean) * (end / start) ** 0.5
        return (self.std**2 * x + sampler.SIGMA_MIN**2 * self.mean) / end


class Blend(nn.Module):
    """A network that mixes its inputs, prompt included, within each sample alone."""

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> tuple[Tensor]:
        text = encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1, 1)
        return (torch.tanh(hidden_states.mean(2, keepdim=True) + hidden_states * timestep + text),)


def test_levels_are_evenly_spaced_in_the_seventh_root() -> None:
    sigmas = karras_sigmas(35)
    roots = sigmas ** (1 / 7)
    assert sigmas[0].item() == pytest.approx(80, rel=1e-9) and sigmas[-1].item() == pytest.approx(0.002, rel=1e-9)
    assert torch.allclose(roots.diff(), (roots[-1] - roots[0]) / 34, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_network_that_knows_the_clip_gives_the_clip(steps: int, order: int) -> None:
    x0, text = torch.randn(2, 3, 5, 4, 4), torch.zeros(2, 1, 1)
    made = sample(Oracle(x0), x0[:, :, :1], text, text[:1], latents=5, seeds=[1, 2], sampler=settings(steps, order))
    assert torch.allclose(made, x0, atol=1e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_the_error_falls_with_the_order_of_the_sampler(order: int) -> None:
    network, first, text = Gaussian(), torch.ones(1, 2, 1, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 1)
    exact = network.end(seeded_noise((2, 3, 4, 4), [5]).double())[:, :, 1:]
    errors = []
    for steps in (65, 129, 257):  # 64, 128 and 256 steps and a clean pass
        made = sample(network, first, text, text, latents=3, seeds=[5], sampler=settings(steps, order))
        errors.append((made[:, :, 1:] - exact).square().mean().sqrt().item())
    assert errors[0] < 0.05
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_the_second_order_is_the_released_one() -> None:
    """Against the update as NVIDIA writes it, with phi functions of the exponential integrator."""
    network, first, embeds = Blend(), torch.randn(1, 3, 1, 4, 4), torch.randn(1, 4, 8)
    made = sample(network, first, embeds, torch.zeros(1, 4, 8), latents=3, seeds=[7], sampler=settings(6, 2))
    levels = karras_sigmas(6)
    x, earlier = seeded_noise((3, 3, 4, 4), [7]) * 80, None
    for i, sigma in enumerate(levels):
        t = sigma.float() / (1 + sigma.float())
        shown, times = (1 - t) * x, torch.full((1, 1, 3, 1, 1), t.item())
        shown[:, :, :1], times[:, :, :1] = first, 1e-4 / (1 + 1e-4)
        x0 = (1 - t) * x - t * network(shown, times, embeds)[0]
        x0[:, :, :1] = first
        if i == 5:
            break
        h = sigma.log() - levels[i + 1].log()
        phi1 = torch.expm1(-h) / -h
        phi2 = (phi1 - 1) / -h
        if earlier is None:
            x = x + (levels[i + 1] - sigma).float() * (x - x0) / sigma.float()
        else:
            c2 = (sigma.log() - levels[i - 1].log()) / h
            x = ((-h).exp() * x + h * ((phi1 - phi2 / c2) * x0 + phi2 / c2 * earlier)).float()
        earlier = x0
    assert torch.allclose(made, x0, atol=1e-4)


def test_conditioning_latents_come_out_as_they_went_in() -> None:
    first, embeds = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 4, 8)
    for order in (1, 2):
        options = {"latents": 6, "seeds": [1, 2], "sampler": settings(4, order, guidance=3.0)}
        assert torch.equal(sample(Blend(), first, embeds, torch.zeros(1, 4, 8), **options)[:, :, :2], first)


def test_euler_steps_follow_the_ordinary_differential_equation() -> None:
    network, first, embeds = Blend(), torch.randn(1, 3, 1, 4, 4), torch.randn(1, 4, 8)
    made = sample(network, first, embeds, torch.zeros(1, 4, 8), latents=3, seeds=[7], sampler=settings(5))
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


def test_a_step_is_one_pass_with_and_without_guidance() -> None:
    for clips, guidance, rows in ((3, 0.0, 3), (3, 2.0, 6), (1, 0.0, 2), (1, 2.0, 2)):
        x0, text = torch.randn(3, 3, 4, 4).expand(clips, -1, -1, -1, -1), torch.zeros(clips, 1, 1)
        oracle, seeds = Oracle(x0[:1]), list(range(clips))
        sample(oracle, x0[:, :, :1], text, text[:1], latents=3, seeds=seeds, sampler=settings(6, guidance=guidance))
        assert oracle.batches == [rows] * 6


def test_guidance_pushes_away_from_the_empty_prompt() -> None:
    first, embeds, nothing = torch.randn(1, 3, 1, 4, 4), torch.randn(1, 4, 8), torch.zeros(1, 4, 8)
    options = {"latents": 3, "seeds": [3]}
    with_prompt, without = (
        sample(Blend(), first, text, nothing, sampler=settings(1), **options) for text in (embeds, nothing)
    )
    guided = sample(Blend(), first, embeds, nothing, sampler=settings(1, guidance=2.0), **options)
    assert torch.allclose(guided, with_prompt + 2 * (with_prompt - without), atol=1e-4)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    first, embeds = torch.randn(3, 3, 1, 4, 4), torch.randn(3, 4, 8)
    options = {"latents": 4, "sampler": settings(4, 2, guidance=1.0)}
    together = sample(Blend(), first, embeds, torch.zeros(1, 4, 8), seeds=[5, 6, 7], **options)
    for i, seed in enumerate([5, 6, 7]):
        alone = sample(Blend(), first[i : i + 1], embeds[i : i + 1], torch.zeros(1, 4, 8), seeds=[seed], **options)
        assert torch.allclose(together[i], alone[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_noise_is_the_seeds_alone() -> None:
    assert torch.equal(seeded_noise((2, 3), [4, 9])[1], seeded_noise((2, 3), [9])[0])
    assert sampler.SIGMA_MAX == 80 and sampler.SIGMA_MIN == 0.002
