"""Quality on held-out clips: every measure against an independent computation, and the one of 1 rank against 2."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.latent_caches import write_latents
from tests.helpers.lpips_reference import draw
from tests.helpers.paths import ROOT
from tests.helpers.ranks import run_ranks
from world2act.core.errors import BadInput
from world2act.core.params import Sampler, compose, parse_params
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.latent_cache import LatentCache, open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.training.ranks import gather_rows, initialise
from world2act.world_model.imagining.imagination import Imagination, Skill
from world2act.world_model.imagining.recorded_clips import clip_seed, episodes_of
from world2act.world_model.imagining.world_model import WorldModel
from world2act.world_model.judging.baselines import STRENGTHS, Ridge, SkillBaselines
from world2act.world_model.judging.chains import correlation, error
from world2act.world_model.judging.drift import summarise_chains
from world2act.world_model.judging.image_metrics import picture_metrics
from world2act.world_model.judging.lpips import convert, load_lpips
from world2act.world_model.judging.object_position import fit_probes, summarise_positions
from world2act.world_model.judging.quality import Quality, Subject, in_turn, measure, summarise
from world2act.world_model.parts.conditioning import LatentSpace
from world2act.world_model.parts.tokenizer import VideoTokenizer, make_vae

SIDE, CHANNELS, EPISODES, HELD, SEED = 32, 16, 16, 4, 0
SKILLS = ((0, 8), (8, 20))


class Knowing(Imagination):
    """Imagines what happened where it is given the clip's own first latent, and that latent for ever elsewhere."""

    def __init__(self, cache: LatentCache) -> None:
        nobody = WorldModel(nn.Identity(), LatentSpace(), {}, 100, (1,))
        super().__init__(nobody, {}, Sampler(steps=1, order=1, guidance=0.0), 1)
        self.truths: dict[int, np.ndarray]
        draws = itertools.product(cache.clips, range(10))
        object.__setattr__(self, "truths", {clip_seed(SEED, clip, k): cache.latents(clip) for clip, k in draws})

    def skills(self, conditioning: Sequence[Tensor], skills: Sequence[Skill]) -> list[Tensor]:
        truths = [torch.from_numpy(np.array(self.truths[skill.seed])) for skill in skills]
        return [
            truth if torch.equal(truth[:1], first) else first.expand_as(truth)
            for truth, first in zip(truths, conditioning, strict=True)
        ]


def make_subject(root: Path, heldout: int = HELD) -> Subject:
    """Episodes of one task and two skills, whose latents hold the object's position, and a tiny untrained VAE."""
    params = parse_params(compose("default", ROOT), "test")
    rng, skills, clips, episodes = np.random.default_rng(0), [], [], []
    mixing = rng.normal(size=(4, CHANNELS * 4))
    for index in range(EPISODES):
        place = rng.uniform(-0.2, 0.2, 2) + np.linspace(0, 0.1, 21)[:, None]
        scene = np.column_stack([place, np.full(21, 0.02), place[:, 0], np.full(21, 0.3)]).astype(np.float32)
        frames = rng.integers(0, 256, (21, SIDE, SIDE, 3), np.uint8)
        episodes.append(Episode("toy", "do it", index, {"front": frames}, {"observation.environment_state": scene}))
        for skill, (start, end) in enumerate(SKILLS):
            skills.append(
                {
                    "dataset": "video_only",
                    "episode_index": index,
                    "task": "toy",
                    "instruction": "do it",
                    "subset": "train" if index < EPISODES - heldout else "heldout",
                    "skill_index": skill,
                    "skill_count": 2,
                    "start": start,
                    "end": end,
                    "raw_end": end,
                    "prompt": f"part {skill}",
                    "provider": "schema",
                }
            )
            count = 1 + (end - start) // 4
            first = 0.3 * (np.arange(count) == 0)  # a first latent is of another kind than those behind it
            known = np.column_stack([place[start : end + 1 : 4], np.ones(count), first])
            clips.append((known @ mixing).reshape(-1, CHANNELS, 2, 2).astype(np.float32))
    names = ["object_x_m", "object_y_m", "object_z_m", "target_x_m", "weight_kg"]
    features = {
        "observation.images.front": image_feature(SIDE, SIDE),
        "observation.environment_state": array_feature(names),
    }
    (root / "video_only").mkdir(parents=True)
    with DatasetWriter(root / "video_only", features=features, fps=20, robot_type="toy", extra={}) as writer:
        for episode in episodes:
            writer.add(encode(episode))
        writer.set_splits({"train": range(EPISODES - heldout), "heldout": range(EPISODES - heldout, EPISODES)})
    (root / "latents").mkdir()
    prompts = ["part 0", "part 1", ""]
    write_latents(root / "latents", skills, enumerate(clips), (CHANNELS, 2, 2), prompts, rng.normal(size=(3, 4, 8)), {})
    cache = open_latents(root / "latents")
    return Subject(
        Knowing(cache),
        VideoTokenizer(make_vae(params.tokenizer, 0)),
        cache,
        {"video_only": EpisodeDataset.open(root / "video_only")},
        cache.select("video_only", "train"),
        cache.select("video_only", "heldout"),
        params.judge,
        SEED,
        None,
    )


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return make_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def measured(subject: Subject, one_thread: None) -> Quality:
    return measure(subject)


@pytest.mark.parametrize(("rows", "columns"), [(12, 6), (12, 30)])
def test_ridge_is_chosen_as_by_refits_that_leave_one_out(rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    inputs, queries = rng.normal(size=(rows, columns)), rng.normal(size=(5, columns))
    targets = inputs @ rng.normal(size=(columns, 3)) + 0.5 * rng.normal(size=(rows, 3)) + 2

    def fit(x: np.ndarray, y: np.ndarray, at: np.ndarray, strength: float) -> np.ndarray:
        centred = x - x.mean(0)
        weights = np.linalg.solve(centred.T @ centred + strength * np.eye(columns), centred.T @ (y - y.mean(0)))
        return y.mean(0) + (at - x.mean(0)) @ weights

    def left_out(strength: float) -> float:
        keep = [np.arange(rows) != i for i in range(rows)]
        errors = [fit(inputs[k], targets[k], inputs[i], strength) - targets[i] for i, k in enumerate(keep)]
        return float(np.square(errors).mean())

    singular = np.linalg.svd(inputs - inputs.mean(0), compute_uv=False)
    spanned = np.square(singular[singular > 1e-6]).mean()
    best = min(STRENGTHS * spanned, key=left_out)
    assert np.allclose(Ridge(inputs, targets).predict(queries), fit(inputs, targets, queries, best), atol=1e-6)


def test_ridge_without_anything_to_learn_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    alike, targets = np.ones((6, 4)), rng.normal(size=(6, 2))
    for inputs, known in ((alike, targets), (alike[:1], targets[:1]), (rng.normal(size=(2, 4)), targets[:2])):
        assert np.allclose(Ridge(inputs, known).predict(np.zeros((1, 4))), known.mean(0))


def test_baselines_of_a_skill() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(length, 2, 3, 3)).astype(np.float32) for length in (3, 5, 4)]
    query = clips[1][0] + 0.01
    (found,) = SkillBaselines(clips, [clip[0] for clip in clips]).predict([query], [6])
    assert np.array_equal(found["first_frame"], np.broadcast_to(query, (6, 2, 3, 3)))
    assert np.allclose(found["nearest"], np.concatenate([clips[1], clips[1][-1:]]))
    mean = [np.mean([clip[k] for clip in clips if len(clip) > k], axis=0) for k in (0, 1, 2, 3, 4, 4)]
    assert np.allclose(found["skill_mean"], mean)
    assert found["ridge"].shape == (6, 2, 3, 3) and np.array_equal(found["ridge"][5], found["ridge"][4])


def test_pictures_against_a_plain_computation() -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (3, 40, 40, 3), np.uint8)
    noisy = np.clip(real + rng.normal(0, 20, real.shape), 0, 255).astype(np.uint8)
    found = picture_metrics(noisy, real, None)
    mse = np.square(noisy.astype(float) - real).mean((1, 2, 3))
    assert found["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / mse))) and "lpips" not in found
    assert picture_metrics(real, real, None) == {"psnr": 100.0, "ssim": 1.0}
    assert picture_metrics(255 - real, real, None)["ssim"] < found["ssim"] < 1


def write_lpips(folder: Path) -> Path:
    features, channels, _ = draw()
    extra = {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save({name: torch.from_numpy(value) for name, value in features.items()} | extra, folder / "alexnet.pth")
    torch.save({name: torch.from_numpy(value) for name, value in channels.items()}, folder / "alex.pth")
    convert(folder / "alexnet.pth", folder / "alex.pth", folder / "lpips.safetensors")
    return folder / "lpips.safetensors"


def test_lpips_gives_the_numbers_of_the_package(tmp_path: Path) -> None:
    network, (_, _, pictures) = load_lpips(write_lpips(tmp_path)), draw()
    reference = json.loads((ROOT / "tests/helpers/lpips_numbers.json").read_text())
    assert network.distance(*pictures).tolist() == pytest.approx(reference["distance"], rel=1e-5)
    assert picture_metrics(*pictures, network)["lpips"] == pytest.approx(np.mean(reference["distance"]), rel=1e-5)


def test_lpips_refuses_other_weights_and_pickles(tmp_path: Path) -> None:
    path = write_lpips(tmp_path)
    with pytest.raises(BadInput, match=r"lin0\.model\.1\.weight"):
        convert(tmp_path / "alexnet.pth", tmp_path / "alexnet.pth", path)
    torch.save({"weights": Path("x")}, tmp_path / "pickle.pth")
    with pytest.raises(BadInput, match="a file of tensors alone"):
        convert(tmp_path / "pickle.pth", tmp_path / "alex.pth", path)
    from safetensors.torch import load_file, save_file

    save_file({name: tensor for name, tensor in load_file(path).items() if name != "channels.3"}, tmp_path / "cut")
    with pytest.raises(BadInput, match=r"channels\.3"):
        load_lpips(tmp_path / "cut")


def test_quality_of_a_world_model_that_is_right(subject: Subject, measured: Quality) -> None:
    for row, clip in zip(measured.clips, subject.heldout, strict=True):
        latents = subject.cache.latents(clip).astype(np.float64)
        assert row["error_model"] == row["error_one_sample"] == 0 and row["correlation"] == pytest.approx(1, abs=1e-6)
        assert row["error_first_frame"] == pytest.approx(np.square(latents[1:] - latents[:1]).mean())
        same = [subject.cache.latents(c) for c in subject.train if c.prompt == clip.prompt]
        assert row["error_skill_mean"] == pytest.approx(np.square(np.mean(same, axis=0)[1:] - latents[1:]).mean())
        assert row["error_ridge"] < 1e-6 < row["error_nearest"]
        other = next(
            c for c in subject.heldout[subject.heldout.index(clip) + 2 :] + subject.heldout if c.prompt == clip.prompt
        )
        first = subject.cache.latents(other)[0]
        assert row["error_shuffled"] == pytest.approx(np.square(first - latents[1:]).mean(), rel=1e-5)
        assert row["psnr_model"] == row["psnr_reconstruction"] and row["lpips_model"] is None
        frames = subject.datasets["video_only"].frames(clip.episode_index, "front")[clip.start : clip.end + 1 : 4]
        mse = np.square(frames[1:].astype(float) - frames[0]).mean((1, 2, 3))
        assert row["psnr_first_frame"] == pytest.approx(np.mean(10 * np.log10(255**2 / mse)))
    summary = summarise(measured)
    assert summary["error_first_frame"] == pytest.approx(np.mean([row["error_first_frame"] for row in measured.clips]))
    assert summary["position_end_model"] == summary["position_end_recorded"]


def test_pictures_are_of_a_bounded_number_of_clips_of_all_skills(subject: Subject) -> None:
    assert [clip.prompt for clip in in_turn(subject.heldout, 3)] == ["part 0", "part 1", "part 0"]
    few = replace(subject, settings=subject.settings.model_copy(update={"pictures": 3}))
    found = measure(few)
    assert sum(row["psnr_model"] is not None for row in found.clips) == 3
    assert len({row["episode_index"] for row in found.chains}) == 3


def test_a_lone_clip_has_no_control(tmp_path: Path) -> None:
    alone = make_subject(tmp_path, heldout=1)
    found = measure(alone)
    assert all(row["error_shuffled"] is row["correlation_shuffled"] is None for row in found.clips)
    assert "shuffled" not in {row["method"] for row in found.positions} and "error_shuffled" not in summarise(found)


def test_drift_and_jumps_of_chains(subject: Subject, measured: Quality) -> None:
    rows = {(row["episode_index"], row["skill_index"], row["method"]): row for row in measured.chains}
    for chain in episodes_of(subject.heldout):
        one, two = (subject.cache.latents(clip) for clip in chain)
        at = lambda skill, method: rows[chain[0].episode_index, skill, method]  # noqa: B023, E731
        assert all(at(0, method)["error"] == 0 for method in ("frame", "latent", "real start"))
        assert at(1, "real start")["error"] == 0 and at(1, "recorded")["error"] is None
        # this model stands still from any frame that is not the recorded one
        assert at(1, "latent")["error"] == pytest.approx(np.square(one[-1] - two[1:]).mean(), rel=1e-5)
        assert at(1, "latent")["jump_latents"] == 0 < at(1, "frame")["jump_latents"]
        assert at(1, "recorded")["jump_latents"] == pytest.approx(float(np.square(two[0] - one[-1]).mean()))
        before = subject.tokenizer.decode(torch.from_numpy(np.array(one)[None]))[0, -1].astype(float)
        after = subject.tokenizer.decode(torch.from_numpy(np.array(two)[None]))[0, 1]
        assert at(1, "recorded")["jump_frames"] == pytest.approx(np.sqrt(np.square(after - before).mean()), rel=1e-2)
        assert at(0, "frame")["jump_latents"] is None and at(1, "ridge")["jump_frames"] is None
        assert at(1, "ridge")["error"] < 1e-6, "the second skill can be told from the episode's first frame"
    summary = summarise_chains(measured.chains)
    assert summary["drift_real_start"] == {"0": 0.0, "1": 0.0} and summary["jump_latents"]["first_frame"] == 0
    assert "drift_recorded" not in summary


def test_error_and_correlation_leave_the_conditioning_latent_out() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 4, 3, 2, 2))
    spoiled = one.copy()
    spoiled[0] += 100
    assert error(one, other) == error(spoiled, other) and correlation(one, other) == correlation(spoiled, other)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one[1:].ravel(), other[1:].ravel())[0, 1])
    assert correlation(np.ones_like(one), other) == 0.0


def test_probe_reads_objects_and_nothing_else(subject: Subject, measured: Quality) -> None:
    (probe,) = fit_probes(subject.cache, subject.datasets, ["toy"]).values()
    assert probe.columns == (0, 1), "neither what stands still nor targets nor kilograms"
    read = summarise_positions(measured.positions)
    assert read["recorded"]["end"]["r2"] > 0.99 and read["recorded"]["end"]["error_cm"] < 0.5
    assert read["model"] == read["recorded"] and read["shuffled"]["end"]["r2"] < 0.5
    assert read["skill_mean"]["start"]["r2"] < 0.1 and read["first_frame"]["move"]["error_cm"] > 3


def test_positions_are_compared_within_a_skill() -> None:
    rng, rows, true, read = np.random.default_rng(0), [], [], []
    for index in range(30):
        skill = index % 2
        start = np.array([skill * 5.0, 0.0]) + rng.normal(size=2)
        seen = start + rng.normal(0, 0.5, 2)
        key = {
            "task": "toy",
            "skill_index": skill,
            "prompt": f"part {skill}",
            "episode_index": index,
            "method": "model",
        }
        rows += [key | {"when": when, "true_m": start.tolist(), "read_m": seen.tolist()} for when in ("start", "end")]
        true.append(start - [skill * 5.0, 0.0])
        read.append(seen - [skill * 5.0, 0.0])
    found = summarise_positions(rows)["model"]
    true, read, skills = np.array(true), np.array(read), np.arange(30) % 2
    deviation, other = (
        values - np.stack([values[skills == s].mean(0) for s in (0, 1)])[skills] for values in (true, read)
    )
    assert found["start"]["r2"] == pytest.approx(1 - np.square(read - true).sum() / np.square(deviation).sum())
    assert found["start"]["correlation"] == pytest.approx(np.corrcoef(deviation.ravel(), other.ravel())[0, 1])
    assert found["start"]["error_cm"] == pytest.approx(100 * np.linalg.norm(read - true, axis=1).mean())
    assert found["move"] == {"error_cm": 0.0, "r2": 0.0, "correlation": 0.0}


def test_recordings_without_object_positions_have_no_probe(subject: Subject) -> None:
    dataset = EpisodeDataset.open(subject.datasets["video_only"].path)
    dataset.features.pop("observation.environment_state")
    assert fit_probes(subject.cache, {"video_only": dataset}, ["toy"]) == {}


def rows_of_ranks(folder: Path) -> None:
    """A rank's share, and what all have together, into a file of its own."""
    rank, ranks = initialise()
    subject = make_subject(folder / f"rank-{rank}")
    own = measure(subject, rank=rank, ranks=ranks)
    none = gather_rows([{"rank": rank, "nothing": None}] * (3 * rank))
    assert none == [{"rank": 1, "nothing": None}] * 3
    (folder / f"rows-{rank}.json").write_text(json.dumps([own.clips, own.chains, own.positions]))


def test_two_ranks_share_the_clips_and_find_the_same(tmp_path: Path, measured: Quality) -> None:
    assert run_ranks(tmp_path, 2, rows_of_ranks, tmp_path) == ""
    found = [json.loads((tmp_path / f"rows-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    for rows, alone in zip(found[0], (measured.clips, measured.chains, measured.positions), strict=True):
        for row, other in zip(rows, alone, strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                assert value == other[key] or value == pytest.approx(other[key], rel=1e-6, abs=1e-6), (row, other)
