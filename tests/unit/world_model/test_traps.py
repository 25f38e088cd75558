"""What goes wrong silently with Cosmos-Predict2, against diffusers' own pipeline or an independent computation.

Beside these: the loss, conditioning latents and their timestep, and the network asked without a frame rate in
test_world_model; the posterior's mode, frame counts and sizes in test_tokenizer; the released second-order steps in
test_sampler; prompts in test_weights_tokenizer; the guardrail in test_guardrail.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import Sampler, Tokenizer, WorldModel, compose, parse_params
from world2act.world_model.imagining.sampler import sample, seeded_noise
from world2act.world_model.learning.loss import denoising_loss
from world2act.world_model.learning.preparation import describe
from world2act.world_model.parts.conditioning import conditioning_mask, denoise, network_inputs
from world2act.world_model.parts.text import TextEncoder, make_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer
from world2act.world_model.parts.transformer import build_transformer


def params() -> tuple[WorldModel, Tokenizer]:
    both = parse_params(compose("default", ROOT), "conf/profile/default.yaml")
    size = {"heads": 2, "head_dim": 16, "layers": 2, "adaln_lora_dim": 8, "patch_size": 2, "weights": None}
    return both.world_model.model_copy(update=size), both.tokenizer


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_transformer(params()[0], 16, 32, 0).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return make_text_encoder(["pick up the mug", "push it"], 32, 1, 12, seed=0)


@pytest.fixture(scope="module")
def vae() -> nn.Module:
    """Wan2.1's architecture made tiny, with its statistics, and a posterior with next to no spread."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4)
    with torch.no_grad():
        vae.quant_conv.weight[16:] = 0
        vae.quant_conv.bias[16:] = -30
    return vae


def ask(network: nn.Module, fps: int | None) -> Tensor:
    """One pass over five latents; the same inputs at every call."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(1, 16, 5, 4, 4, generator=generator)
    inputs = network_inputs(x0, torch.ones(1), x0, conditioning_mask(1, x0))
    embeds = torch.randn(1, 3, 32, generator=generator)
    return network(**inputs, encoder_hidden_states=embeds, fps=fps, return_dict=False)[0]


def test_no_frame_rate_is_twenty_four_and_sixteen_stretches_time(network: nn.Module) -> None:
    assert torch.equal(ask(network, None), ask(network, 24))
    assert not torch.allclose(ask(network, None), ask(network, 16), atol=1e-4)


def test_the_position_code_counts_latents(network: nn.Module) -> None:
    """Against the formula: time is the first third of the angles, and a latent is one unit of it."""
    values, dim = torch.zeros(1, 16, 5, 4, 4), 16 - 2 * (16 // 6 * 2)
    frequencies = 10000.0 ** -(torch.arange(0, dim, 2)[: dim // 2].float() / dim)

    def angles(fps: int | None) -> Tensor:
        cos, _ = network.rope(values, fps=fps)
        return cos.view(5, 4, -1)[:, 0, : dim // 2]

    latents = torch.arange(5.0)[:, None]
    assert torch.allclose(angles(None), (latents * frequencies).cos(), atol=1e-6)
    assert torch.allclose(angles(16), (1.5 * latents * frequencies).cos(), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (3, 7), (54, 96), (1, 1), (100, 20)])
@pytest.mark.parametrize("given", [(4, 4), (432, 768), (64, 64)])
def test_the_padding_mask_is_resized_as_torchvision_would(
    network: nn.Module, given: tuple[int, int], size: tuple[int, int]
) -> None:
    from diffusers.models.transformers import transformer_cosmos

    resize = transformer_cosmos.transforms.functional.resize
    mask = torch.rand(1, 1, *given, generator=torch.Generator().manual_seed(0))
    nearest = transformer_cosmos.transforms.InterpolationMode.NEAREST
    rows, columns = ([i * have // want for i in range(want)] for have, want in zip(given, size, strict=True))
    assert torch.equal(resize(mask, list(size), interpolation=nearest), mask[:, :, rows][:, :, :, columns])


def run_pipeline(
    network: nn.Module, vae: nn.Module, text: TextEncoder, frames: np.ndarray, **options: object
) -> tuple[Tensor, list[tuple[dict[str, Tensor], Tensor]]]:
    """diffusers' own pipeline over given first frames: x0 as its last step estimates it, and every call of the network.

    Its last "step" stays where it is, so its latents end at sigma 0.002; x0 is read off the last call here.
    """
    from diffusers import Cosmos2VideoToWorldPipeline, FlowMatchEulerDiscreteScheduler

    class NoChecker:
        def to(self, _: object) -> None:
            pass

        def check_text_safety(self, _: str) -> bool:
            return True

    pipeline = Cosmos2VideoToWorldPipeline(
        text.model, text.tokenizer, network, vae, FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), NoChecker()
    )
    pipeline.set_progress_bar_config(disable=True)
    calls: list[tuple[dict[str, Tensor], Tensor]] = []
    handle = network.register_forward_hook(
        lambda _, __, inputs, output: calls.append((inputs, output[0])), with_kwargs=True
    )
    latents = pipeline(
        video=[Image.fromarray(frame) for frame in frames],
        prompt="pick up the mug",
        height=32,
        width=32,
        num_frames=17,
        max_sequence_length=12,
        output_type="latent",
        return_dict=False,
        **options,
    )[0]
    handle.remove()
    return latents, calls


@pytest.mark.parametrize("given", [1, 2])
@pytest.mark.parametrize("guidance", [0.0, 7.0])
def test_imagination_is_that_of_the_diffusers_pipeline(
    network: nn.Module, vae: nn.Module, text: TextEncoder, given: int, guidance: float
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4 * (given - 1) + 1, 32, 32, 3), np.uint8)
    noise = seeded_noise((16, 5, 4, 4), [3])
    theirs, calls = run_pipeline(
        network,
        vae,
        text,
        frames,
        num_inference_steps=6,
        guidance_scale=guidance,
        fps=24,
        latents=noise,
        negative_prompt_embeds=torch.zeros(1, 12, 32),
    )
    conditioning = VideoTokenizer(vae).encode(frames[None]).transpose(1, 2)
    ours = sample(
        network,
        conditioning,
        text.embed(["pick up the mug"]),
        torch.zeros(1, 12, 32),
        latents=5,
        seeds=[3],
        sampler=Sampler(steps=6, order=1, guidance=guidance),
    )
    sides = 2 if guidance else 1
    assert len(calls) == 6 * sides
    for inputs, _ in calls:
        assert torch.allclose(inputs["hidden_states"][:, :, :given], conditioning, atol=1e-4)
        assert torch.allclose(inputs["timestep"][:, :, :given], torch.tensor(1e-4 / (1 + 1e-4)))
        assert inputs["condition_mask"][0, 0, :, 0, 0].tolist() == [1.0] * given + [0.0] * (5 - given)
    t = 0.002 / 1.002
    estimates = [(1 - t) * theirs - t * output for _, output in calls[-sides:]]
    x0 = estimates[0] + guidance * (estimates[0] - estimates[-1])
    assert torch.allclose(ours[:, :, given:], x0[:, :, given:], atol=2e-3), (ours - x0).abs().max()
    assert torch.equal(ours[:, :, :given], conditioning)


def test_the_pipelines_own_frame_rate_imagines_something_else(
    network: nn.Module, vae: nn.Module, text: TextEncoder
) -> None:
    frames, noise = np.zeros((1, 32, 32, 3), np.uint8), seeded_noise((16, 5, 4, 4), [3])
    options = {"num_inference_steps": 6, "guidance_scale": 0.0, "latents": noise}
    default, native = (run_pipeline(network, vae, text, frames, **options, **fps)[0] for fps in ({}, {"fps": 24}))
    assert (default - native).abs().max() > 1e-3, "far above the rounding of a float32, whatever the weights"


def test_prompts_are_embedded_as_in_the_pipeline(network: nn.Module, vae: nn.Module, text: TextEncoder) -> None:
    _, calls = run_pipeline(
        network, vae, text, np.zeros((1, 32, 32, 3), np.uint8), num_inference_steps=1, guidance_scale=0.0
    )
    assert torch.equal(calls[0][0]["encoder_hidden_states"], text.embed(["pick up the mug"]))


def test_without_a_checker_the_pipeline_cannot_even_be_made(network: nn.Module, vae: nn.Module) -> None:
    from diffusers import Cosmos2VideoToWorldPipeline, FlowMatchEulerDiscreteScheduler

    with pytest.raises(ImportError, match="cosmos_guardrail"):
        Cosmos2VideoToWorldPipeline(None, None, network, vae, FlowMatchEulerDiscreteScheduler(), None)


def test_the_pipeline_floors_frames_that_we_refuse(vae: nn.Module) -> None:
    video = torch.zeros(1, 3, 8, 32, 32)
    assert vae.encode(video).latent_dist.mode().shape[2] == 2  # of eight frames, three were lost
    for shape in ((1, 8, 32, 32, 3), (1, 5, 32, 36, 3), (1, 5, 28, 32, 3)):
        with pytest.raises(BadInput):
            VideoTokenizer(vae).encode(np.zeros(shape, np.uint8))


def test_sizes_that_sixteen_does_not_divide_are_refused(vae: nn.Module) -> None:
    """Eight of the VAE, two of the transformer's patches."""
    own = parse_params(compose("cosmos-predict2-2b", ROOT), "").world_model

    def describe_frames(height: int, width: int) -> dict[str, object]:
        return describe(own, SimpleNamespace(latent_shape=VideoTokenizer(vae).latent_shape(height, width)), [])

    assert describe_frames(480, 480)["target"] == describe_frames(432, 768)["target"] == "latent"
    for size in ((480, 840), (472, 480)):
        with pytest.raises(BadInput, match="patch_size"):
            describe_frames(*size)


def test_latents_have_the_published_statistics_taken_off(vae: nn.Module) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 5, 32, 32, 3), np.uint8)
    video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    mean, std = (torch.tensor(vae.config[name]).view(16, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    assert (mean[0].item(), std[0].item()) == pytest.approx((-0.7571, 2.8184))
    expected = (vae.encode(video).latent_dist.mean[0] - mean) / std
    assert torch.allclose(VideoTokenizer(vae).encode(frames)[0].transpose(0, 1), expected, atol=1e-6)


@pytest.mark.parametrize("given", [1, 2])
def test_a_network_of_ones_gives_the_loss_that_the_formula_gives(given: int) -> None:
    """A constant velocity of 1 against noise - x0, by numpy and without the library's preconditioning."""

    class Ones(nn.Module):
        def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor]:
            return (torch.ones_like(hidden_states),)

    x0, noise = (torch.randn(4, 16, 6, 4, 4, dtype=torch.float64) for _ in range(2))
    sigma, mask = torch.tensor([0.1, 1.0, 30.0, 200.0], dtype=torch.float64), conditioning_mask(given, x0)
    estimate = denoise(Ones(), x0 + sigma.view(-1, 1, 1, 1, 1) * noise, sigma, x0, mask, torch.zeros(4, 1, 8))
    velocity = 10 * np.square(1 - (noise - x0).numpy()[:, :, given:]).mean()
    assert denoising_loss(estimate, x0, sigma, mask).item() == pytest.approx(velocity, rel=1e-9)
