from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.gr00t_policies import tiny_network, tiny_processor
from world2act.core.errors import BadInput
from world2act.policies.base import Policy, load_policy
from world2act.policies.gr00t.action_head import ActionHead
from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.model import Gr00tModel, Inputs
from world2act.policies.gr00t.policy import save_pretrained
from world2act.sims.base import Observation

INSTRUCTIONS = ["slide the window open", "pick up the hammer and drive the nail into the block"]
TINY = tiny_network(state_dim=5, action_dim=3, horizon=4)
CAMERAS = ("front", "wrist")


def observation(seed: int, instruction: str = INSTRUCTIONS[0]) -> Observation:
    generator = np.random.default_rng(seed)
    images = {name: generator.integers(0, 255, (32, 32, 3), dtype=np.uint8) for name in CAMERAS}
    return Observation(images, generator.normal(size=5).astype(np.float32), instruction, np.zeros(0, np.float32))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    processor = tiny_processor(
        TINY,
        cameras=CAMERAS,
        image_size=32,
        instructions=INSTRUCTIONS,
        slot=1,
        actions=np.array([[-1] * 3, [1] * 3]),
        proprio=np.array([[-2] * 5, [2] * 5]),
    )
    save_pretrained(tmp_path, TINY, Gr00tModel(TINY, seed=3).state_dict(), processor)
    return tmp_path


def test_same_architecture_as_the_published_checkpoint() -> None:
    """3,286,610,368 parameters: ours, plus what an imitation policy does not use."""
    config = NetworkConfig(
        VisionLanguageSizes(1152, 27, 16, 4304, 14, 16, 2048, 16, 16, 8, 128, 6144, 1e6, 151680, 151669),
        ActionHeadSizes(32, 32, 48, 1024, 32, 1024, state_dim=128, action_dim=128, horizon=50),
    )
    with torch.device("meta"):
        model = Gr00tModel(config)
    assert sum(p.numel() for p in model.action_head.parameters()) == 1_418_624_000
    language_head, mask_token = 151680 * 2048, 1536
    d, mlp = 1152, 4304
    pooling_head = d + (3 * d * d + 3 * d) + (d * d + d) + 2 * d + (d * mlp + mlp) + (mlp * d + d)
    assert sum(p.numel() for p in model.parameters()) + language_head + mask_token + pooling_head == 3_286_610_368


def test_predicts_clipped_chunks_by_the_contract(saved: Path) -> None:
    policy = load_policy(saved)
    assert isinstance(policy, Policy)
    chunks = policy.predict([observation(0), observation(1, INSTRUCTIONS[1])], [7, 8])
    assert chunks.shape == (2, 4, 3) and chunks.dtype == np.float32
    assert np.abs(chunks).max() <= 1


def test_a_sample_does_not_depend_on_the_rest_of_its_batch(saved: Path) -> None:
    policy = load_policy(saved)
    alone = policy.predict([observation(0)], [7])
    crowd = policy.predict([observation(2, INSTRUCTIONS[1]), observation(0), observation(3)], [1, 7, 2])
    np.testing.assert_allclose(crowd[1], alone[0], atol=1e-5)
    assert np.abs(policy.predict([observation(0)], [8]) - alone).max() > 1e-3


def test_the_noise_the_instruction_and_every_image_matter(saved: Path) -> None:
    policy = load_policy(saved)
    here = policy.predict([observation(0)], [7])
    other_words = policy.predict([observation(0, INSTRUCTIONS[1])], [7])
    moved = observation(0)
    moved.images["wrist"] = 255 - moved.images["wrist"]
    assert np.abs(here - other_words).max() > 1e-5
    assert np.abs(here - policy.predict([moved], [7])).max() > 1e-5


def test_each_embodiment_has_weights_of_its_own() -> None:
    head = ActionHead(TINY.action_head, 8)
    *observed, noisy, times = _head_inputs()
    first, second = (head(head.context(*observed, slot), noisy, times) for slot in (0, 1))
    assert (first - second).abs().max() > 1e-3
    second.sum().backward()
    assert head.action_decoder.layer1.W.grad[0].abs().max() == 0 < head.action_decoder.layer1.W.grad[1].abs().max()


def test_blocks_attend_words_first_and_images_next_and_never_padding() -> None:
    head = ActionHead(TINY.action_head, 8)
    features, image_mask, mask, state, noisy, times = _head_inputs()

    def seen(block: int) -> list[bool]:
        """Which tokens of the first prompt the gradient of a block's output reaches."""
        features.grad = None
        outputs: list[Tensor] = []
        hook = head.model.transformer_blocks[block].attn1.register_forward_hook(lambda *_: outputs.append(_[-1]))
        head(head.context(features.requires_grad_(), image_mask, mask, state, 0), noisy, times)
        hook.remove()
        outputs[0][0].sum().backward()
        return (features.grad[0].abs().sum(-1) > 0).tolist()

    tokens = [True] * 6
    assert seen(0) == [False, *tokens[:2], False, False, False], "words"
    features, image_mask, mask, state, noisy, times = _head_inputs()
    for block in head.model.transformer_blocks[:2]:
        torch.nn.init.zeros_(block.attn1.to_out[0].weight)
    assert seen(2) == [False, False, False, *tokens[:3]], "images"


def test_chunks_of_one_observation_do_not_see_one_another() -> None:
    head = ActionHead(TINY.action_head, 8)
    *observed, noisy, times = _head_inputs()
    context = head.context(*observed, 0)
    together = head(context, noisy, times)
    for k in range(noisy.shape[1]):
        alone = head(context, noisy[:, k : k + 1], times[:, k : k + 1])
        torch.testing.assert_close(together[:, k : k + 1], alone)


def test_sampling_follows_the_flow_in_euler_steps() -> None:
    model = Gr00tModel(TINY, seed=1).eval()
    inputs, noise = _inputs(), torch.randn(2, 4, 3)
    actions = noise
    with torch.no_grad():
        for t in (0.0, 0.25, 0.5, 0.75):
            actions = actions + 0.25 * model(inputs, actions[:, None], torch.full((2, 1), t))[:, 0]
    torch.testing.assert_close(model.sample(inputs, noise), actions)


def test_patches_keep_their_place_through_pixel_unshuffle() -> None:
    """Of an image that is wider than high; a token is four patches, channel by channel, as in NVIDIA's source."""
    model = Gr00tModel(TINY, seed=1).backbone["model"]
    vision, seen = {}, {}
    encoder = model.vision_model["vision_model"]
    encoder.register_forward_hook(lambda _, args, out: vision.update(last=out.last_hidden_state))
    encoder.embeddings.patch_embedding.register_forward_hook(lambda _, args, out: seen.update(inputs=args[0]))
    image = torch.rand(1, 3, 32, 48)
    tokens = model.vision(image)
    grid = vision["last"].reshape(4, 6, -1)
    places = [(row, column) for row in range(2) for column in range(3)]
    expected = torch.stack([grid[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten(0, 1).T.flatten() for r, c in places])
    torch.testing.assert_close(tokens[0], expected)
    torch.testing.assert_close(seen["inputs"][0, 6 + 2], image[0, :, 8:16, 16:24].permute(1, 2, 0).flatten())
    assert tokens.shape[1] == len(places)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = Gr00tModel(TINY, seed=5).state_dict()
    torch.manual_seed(2)
    two = Gr00tModel(TINY, seed=5).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    three = Gr00tModel(TINY, seed=6).state_dict()
    assert any(not torch.equal(one[key], three[key]) for key in one)


@pytest.mark.parametrize(
    "fault", ["truncated", "no statistics", "no tokenizer", "other sizes", "unknown key", "no weights"]
)
def test_a_damaged_policy_is_named(saved: Path, fault: str) -> None:
    file = saved / "model.safetensors"
    match fault:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-1000])
        case "no statistics":
            (saved / "statistics.json").unlink()
        case "no tokenizer":
            (saved / "tokenizer/tokenizer.json").unlink()
        case "other sizes":
            text = (saved / "config.json").read_text()
            (saved / "config.json").write_text(text.replace('"hidden_dim": 16', '"hidden_dim": 24'))
        case "unknown key":
            text = (saved / "config.json").read_text()
            (saved / "config.json").write_text(text.replace('"sampler_steps"', '"samplersteps"'))
        case "no weights":
            file.unlink()
    with pytest.raises(BadInput):
        load_policy(saved)


def _inputs() -> Inputs:
    """Two prompts: eight image tokens, and words before and after them."""
    prompt = torch.tensor([[1, 2, *[19] * 8, 3, 4]] * 2)
    pixels = torch.randn(2, 2, 3, 32, 32)
    return Inputs(pixels, prompt, torch.ones_like(prompt, dtype=torch.bool), torch.randn(2, 1, 5), 1)


def _head_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Padding, two words, three image tokens."""
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor([[False, False, False, True, True, True]] * 2)
    mask = torch.tensor([[False, True, True, True, True, True]] * 2)
    features, state = torch.randn(2, 6, 8, generator=generator), torch.randn(2, 1, 5, generator=generator)
    noisy, times = torch.randn(2, 3, 4, 3, generator=generator), torch.rand(2, 3, generator=generator)
    return features, images, mask, state, noisy, times
