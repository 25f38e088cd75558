"""The GR00T network against transformers' own models and against its published equations, written out by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM, Siglip2VisionConfig, Siglip2VisionModel

from tests.helpers.gr00t_checkpoint import write_checkpoint
from world2act.core.storage import read_json
from world2act.policies.gr00t.checkpoint import load_checkpoint
from world2act.policies.gr00t.configuration import NetworkConfig
from world2act.policies.gr00t.model import Gr00tModel, Inputs

SLOT = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(folder: Path) -> Gr00tModel:
    return load_checkpoint(folder).eval()


def make_inputs(config: NetworkConfig) -> Inputs:
    """Two prompts of two images, 56 x 28 pixels and so two tokens each; the second prompt is padded in front."""
    generator = torch.Generator().manual_seed(1)
    image = config.vision_language.image_token
    prompt = torch.tensor([[13, 14, image, image, 15, image, image, 16], [0, 0, 17, image, image, image, image, 18]])
    mask = torch.ones_like(prompt, dtype=torch.bool)
    mask[1, :2] = False
    pixels = torch.randn(2, 2, 3, 56, 28, generator=generator)
    return Inputs(pixels, prompt, mask, torch.randn(2, 1, config.action_head.state_dim, generator=generator), SLOT)


def part(model: Gr00tModel, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in model.state_dict().items() if key.startswith(prefix)}


def test_features_are_those_of_transformers_models_by_nvidias_names(folder: Path, model: Gr00tModel) -> None:
    """One prompt at a time and without its padding; images cut, joined and put into the prompt token by token."""
    eagle = read_json(folder / "tokenizer/config.json")
    vision = Siglip2VisionModel(Siglip2VisionConfig(**eagle["vision_config"], vision_use_head=False)).eval()
    vision.load_state_dict(part(model, "backbone.model.vision_model.vision_model."))
    text = eagle["text_config"] | {"num_hidden_layers": read_json(folder / "config.json")["select_layer"]}
    theta = {"rope_type": "default", "rope_theta": text.pop("rope_theta")}
    language = Qwen3ForCausalLM(Qwen3Config(**text, rope_parameters=theta)).eval()
    missing = language.load_state_dict(part(model, "backbone.model.language_model."), strict=False)
    assert missing == (["lm_head.weight"], [])
    inputs = make_inputs(model.config)
    with torch.no_grad():
        features = model.backbone["model"](inputs.pixels, inputs.prompt, inputs.mask)
        for row in range(2):
            tokens = [token for image in inputs.pixels[row] for token in image_tokens(model, vision, image)]
            ids = inputs.prompt[row, inputs.mask[row]]
            embedded = language.get_input_embeddings()(ids)
            for place in (ids == model.config.vision_language.image_token).nonzero().flatten():
                embedded[place] = tokens.pop(0)
            assert not tokens
            output = language(inputs_embeds=embedded[None], output_hidden_states=True)
            torch.testing.assert_close(features[row, inputs.mask[row]], output.hidden_states[-1][0])
    assert features.isfinite().all(), "of padding, too: a zero weight times NaN is NaN"


def image_tokens(model: Gr00tModel, vision: Siglip2VisionModel, image: Tensor) -> list[Tensor]:
    """Patches row by row, each pixel by pixel with its three colours; tokens of 2 x 2 patches, channel by channel."""
    rows, columns = image.shape[1] // 14, image.shape[2] // 14
    cut = [image[:, 14 * r : 14 * r + 14, 14 * c : 14 * c + 14] for r in range(rows) for c in range(columns)]
    patches = torch.stack([patch.permute(1, 2, 0).flatten() for patch in cut])[None]
    hidden = vision(patches, torch.ones(1, rows * columns), torch.tensor([[rows, columns]])).last_hidden_state[0]
    grid = hidden.unflatten(0, (rows, columns))
    norm, first, _, second = model.backbone["model"].mlp1
    tokens = []
    for r in range(0, rows, 2):
        for c in range(0, columns, 2):
            joined = torch.stack([grid[r, c], grid[r, c + 1], grid[r + 1, c], grid[r + 1, c + 1]], 1).flatten()
            normed = F.layer_norm(joined, joined.shape, norm.weight, norm.bias)
            tokens.append(F.linear(F.gelu(F.linear(normed, first.weight, first.bias)), second.weight, second.bias))
    return tokens


def test_velocity_is_what_the_published_equations_say(model: Gr00tModel) -> None:
    inputs, generator = make_inputs(model.config), torch.Generator().manual_seed(3)
    noisy, times = torch.randn(2, 3, 12, 10, generator=generator), torch.rand(2, 3, generator=generator)
    image_mask = inputs.prompt == model.config.vision_language.image_token
    with torch.no_grad():
        velocity = model(inputs, noisy, times)
        features = model.backbone["model"](inputs.pixels, inputs.prompt, inputs.mask)
        for row in range(2):
            seen = (features[row], image_mask[row] & inputs.mask[row], ~image_mask[row] & inputs.mask[row])
            for k in range(3):
                expected = velocity_by_hand(model, *seen, inputs.state[row], noisy[row, k], times[row, k].item())
                torch.testing.assert_close(velocity[row, k], expected, atol=1e-5, rtol=1e-4)


def velocity_by_hand(
    model: Gr00tModel, features: Tensor, images: Tensor, words: Tensor, state: Tensor, noisy: Tensor, time: float
) -> Tensor:
    """Of one chunk, from the state_dict alone. Source: gr00t_n1d6.py, dit.py and the rest of NVIDIA's Isaac-GR00T."""
    w = part(model, "action_head.")

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def own(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.W"][SLOT] + w[f"{name}.b"][SLOT]

    def norm(x: Tensor, eps: float = 1e-5) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()

    def silu(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    bucket, width = int(time * 1000), w["position_embedding.weight"].shape[1]
    angles = [bucket * 10000 ** (-i / (width // 2)) for i in range(width // 2)]
    code = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles]).expand(len(noisy), -1)
    actions = own("action_encoder.W1", noisy)
    actions = own("action_encoder.W3", silu(own("action_encoder.W2", torch.cat([actions, code], 1))))
    actions = actions + w["position_embedding.weight"][: len(noisy)]
    x = torch.cat([own("state_encoder.layer2", own("state_encoder.layer1", state).clamp(0)), actions])
    angles = [bucket * math.exp(-math.log(10000) * i / 127) for i in range(128)]
    t = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    embedder = "model.timestep_encoder.timestep_embedder"
    t = linear(f"{embedder}.linear_2", silu(linear(f"{embedder}.linear_1", t)))
    context = norm(features) * w["vlln.weight"] + w["vlln.bias"]
    for index, heads in enumerate([4] * 4):
        block = f"model.transformer_blocks.{index}"
        scale, shift = linear(f"{block}.norm1.linear", silu(t)).chunk(2)
        queries = norm(x) * (1 + scale) + shift
        source = queries if index % 2 else context[words if index == 0 else images]
        q, k, v = (
            linear(f"{block}.attn1.to_{name}", of).unflatten(1, (heads, -1)).transpose(0, 1)
            for name, of in (("q", queries), ("k", source), ("v", source))
        )
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + linear(f"{block}.attn1.to_out.0", (weights @ v).transpose(0, 1).flatten(1))
        x = x + linear(f"{block}.ff.net.2", F.gelu(linear(f"{block}.ff.net.0.proj", norm(x)), approximate="tanh"))
    shift, scale = linear("model.proj_out_1", silu(t)).chunk(2)
    x = linear("model.proj_out_2", norm(x, 1e-6) * (1 + scale) + shift)
    return own("action_decoder.layer2", own("action_decoder.layer1", x).clamp(0))[1:]


def test_training_drops_at_random_and_acting_does_not(model: Gr00tModel) -> None:
    inputs, noisy, times = make_inputs(model.config), torch.randn(2, 1, 12, 10), torch.rand(2, 1)
    with torch.no_grad():
        assert torch.equal(model(inputs, noisy, times), model(inputs, noisy, times))
        model.train()
        assert not torch.equal(model(inputs, noisy, times), model(inputs, noisy, times))


def test_recomputed_activations_give_the_same_gradients(folder: Path, model: Gr00tModel) -> None:
    inputs, noisy, times = make_inputs(model.config), torch.randn(2, 1, 12, 10), torch.rand(2, 1)
    sparing = load_checkpoint(folder)
    sparing.enable_gradient_checkpointing()
    calls: list[str] = []
    layer = sparing.backbone["model"].language_model.model.layers[0].self_attn
    for module in (sparing.action_head.model.transformer_blocks[0], layer):
        module.register_forward_pre_hook(lambda module, *_: calls.append(type(module).__name__))
    for network in (model, sparing):
        torch.manual_seed(0)
        network.train()(inputs, noisy, times).square().sum().backward()
    for one, two in zip(model.parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    assert sorted(calls) == ["Block", "Block", "Qwen3Attention", "Qwen3Attention"]
