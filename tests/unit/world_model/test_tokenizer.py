"""The video tokenizer and the text encoder: causality, the grid of 4, the posterior's mode, nothing cut silently."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import Tokenizer, compose, parse_params
from world2act.training.objective import BatchPosition
from world2act.world_model.learning.reconstruction import ReconstructionObjective, measure_latents
from world2act.world_model.parts.encoding import batches_of_clips, encode
from world2act.world_model.parts.text import load_text_encoder, make_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, load_tokenizer, make_vae, to_video


def tiny(**changes: object) -> Tokenizer:
    own = parse_params(compose("default", ROOT), "conf/profile/default.yaml").tokenizer
    return own.model_copy(update={"base_dim": 4, "dim_mult": [1, 2, 2], "patch_size": 2, **changes})


def videos(count: int, frames: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, frames, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    return VideoTokenizer(make_vae(tiny(), 0))


def test_shapes(tokenizer: VideoTokenizer) -> None:
    latents = tokenizer.encode(videos(2, 9))
    assert latents.shape == (2, 3, *tokenizer.latent_shape(16, 16)) == (2, 3, 16, 2, 2)
    restored = tokenizer.decode(latents)
    assert restored.shape == (2, 9, 16, 16, 3) and restored.dtype == np.uint8


def test_latents_do_not_see_later_frames(tokenizer: VideoTokenizer) -> None:
    video = videos(1, 13)
    whole = tokenizer.encode(video)
    for frames in (1, 5, 9):
        assert torch.allclose(tokenizer.encode(video[:, :frames]), whole[:, : 1 + (frames - 1) // 4], atol=1e-5)
    changed = video.copy()
    changed[:, 9:] = 255 - changed[:, 9:]
    assert torch.allclose(tokenizer.encode(changed)[:, :3], whole[:, :3], atol=1e-5)
    assert not torch.allclose(tokenizer.encode(changed)[:, 3], whole[:, 3], atol=1e-2)


def test_encoding_takes_the_mode_of_the_posterior(tokenizer: VideoTokenizer) -> None:
    video = videos(1, 5)
    mean = tokenizer.vae.encode(to_video(video)).latent_dist.mean.transpose(1, 2)
    torch.manual_seed(1)
    first = tokenizer.encode(video)
    torch.manual_seed(2)
    assert torch.equal(first, tokenizer.encode(video)) and torch.equal(first, mean)


@pytest.mark.parametrize(("frames", "size", "key"), [(8, 16, "4k"), (5, 20, "multiples of 8")])
def test_what_the_vae_would_cut_off_is_refused(tokenizer: VideoTokenizer, frames: int, size: int, key: str) -> None:
    with pytest.raises(BadInput, match=key):
        tokenizer.encode(videos(1, frames, size))


def test_measured_statistics_normalise_latents() -> None:
    vae, episodes = make_vae(tiny(), 0), list(videos(6, 13))
    measure_latents(vae, episodes)
    latents = VideoTokenizer(vae).encode(np.stack(episodes)).transpose(1, 2).flatten(2).transpose(0, 1).flatten(1)
    assert latents.mean(1).abs().max() < 1e-3 and (latents.std(1) - 1).abs().max() < 1e-3


def test_a_batch_depends_on_its_place_alone() -> None:
    objective = ReconstructionObjective(
        make_vae(tiny(), 0), list(videos(3, 20)), ["a", "b", "a"], tiny(clip_frames=9, image_share=0.5), 10
    )
    first, again, other = (objective.batch(BatchPosition.of(seed, 5, 4)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (4, 3, 9, 16, 16) and first[1].shape == (4, 16, 3, 2, 2)
    images = objective.batch(BatchPosition.of(1, 4, 4))
    assert images[0].shape == (16, 3, 1, 16, 16) and images[1].shape == (16, 16, 1, 2, 2)


def test_what_differs_from_the_tasks_picture_weighs_more() -> None:
    scene = np.full((2, 20, 16, 16, 3), 90, np.uint8)
    scene[1] = 180
    scene[0, 3, 4:6, 4:6] = 250
    objective = ReconstructionObjective(
        make_vae(tiny(), 0), list(scene), ["a", "b"], tiny(clip_frames=17, image_share=0.0, foreground_weight=9.0), 1
    )
    video, _, weights = objective.batch(BatchPosition.of(0, 0, 16))
    bright = (video > 0.9).all(1, keepdim=True)
    assert bright.any() and weights.mean().item() == pytest.approx(1)
    assert (
        torch.allclose(weights[bright], 10 * weights[~bright].max())
        and weights[~bright].min() == weights[~bright].max()
    )


def test_an_untrained_vae_is_a_per_frame_model() -> None:
    vae, video = VideoTokenizer(make_vae(tiny(), 3)), videos(1, 9)
    latents = vae.encode(video)
    for k, frame in ((0, 0), (1, 4), (2, 8)):
        assert torch.allclose(latents[:, k], vae.encode(video[:, frame : frame + 1])[:, 0], atol=1e-5)


def test_batches_hold_the_shortest_clips_first() -> None:
    clips = {name: {"start": 3, "end": 3 + 4 * k} for name, k in (("d", 1), ("a", 5), ("c", 2), ("b", 2), ("e", 2))}
    assert batches_of_clips(clips, 2) == [["d"], ["b", "c"], ["e"], ["a"]] and batches_of_clips({}, 3) == []


@pytest.mark.parametrize("frames", [5, 17])
def test_a_clips_bytes_do_not_depend_on_its_batch(tokenizer: VideoTokenizer, frames: int) -> None:
    """In a batch of one size: neither on the other clips, nor on the place in it, nor on how full it is."""
    clips = videos(6, frames)
    alone = np.concatenate([encode(tokenizer, clips[i : i + 1], 4) for i in range(6)])
    for order in ([0, 1, 2, 3], [3, 5, 0, 4], [5, 2], [4, 1, 3]):
        np.testing.assert_array_equal(encode(tokenizer, clips[order], 4), alone[order])
    assert np.allclose(alone, tokenizer.encode(clips), atol=1e-5)
    assert np.allclose(alone[:, 0], tokenizer.encode(clips[:, :1])[:, 0], atol=1e-5), "latent 0 saw more than a frame"


def test_a_vae_with_other_keys_is_refused(tmp_path: Path, tokenizer: VideoTokenizer) -> None:
    from safetensors.torch import load_file, save_file

    tokenizer.vae.save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("quant_conv.weight")
    save_file(state, weights)
    with pytest.raises(BadInput, match=r"quant_conv\.weight"):
        load_tokenizer(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="a whole AutoencoderKLWan"):
        load_tokenizer(tmp_path)
    with pytest.raises(BadInput, match=r"no config\.json"):
        load_tokenizer(tmp_path / "missing")


def test_prompts_are_embedded_apart_and_padded_with_zeros(tmp_path: Path) -> None:
    made = make_text_encoder(["pick up the mug", "push the mug"], 32, 1, 12, seed=0)
    made.save(tmp_path)
    opened = load_text_encoder(tmp_path, 12)
    embeds = opened.embed(["pick up the mug", "push the mug", "", "an unseen sentence"[:10]])
    assert torch.equal(embeds, made.embed(["pick up the mug", "push the mug", "", "an unseen sentence"[:10]]))
    assert embeds[2].abs().max() == 0  # no prompt
    assert embeds[0, :5].abs().sum(-1).min() > 0 and embeds[0, 5:].abs().max() == 0  # four words and the end of text
    assert (embeds[0] - embeds[1]).norm() > 1
    assert torch.equal(
        make_text_encoder(["pick up the mug", "push the mug"], 32, 1, 12, seed=0).embed(["x"]), made.embed(["x"])
    )


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="text_length"):
        make_text_encoder(["a"], 32, 1, 4, seed=0).embed(["a much longer prompt"])


def test_a_truncated_text_encoder_is_refused(tmp_path: Path) -> None:
    make_text_encoder(["a"], 32, 1, 4, seed=0).save(tmp_path)
    weights = tmp_path / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="a whole T5EncoderModel"):
        load_text_encoder(tmp_path, 4)
