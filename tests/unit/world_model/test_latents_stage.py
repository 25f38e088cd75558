"""The latents stage with a tiny VAE: each content encoded once, the same bytes whatever was encoded before."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stages import latents
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import Latents, Params, compose, load_params
from world2act.core.storage import read_json, sha256, write_json, write_parquet
from world2act.core.tables import schema_of
from world2act.data.episodes import Episode, encode
from world2act.data.features import image_feature
from world2act.data.latent_cache import open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.skill_table import SkillRow
from world2act.data.tiling import read_frames
from world2act.gates.latents import tables
from world2act.processes.dvc_command import stage_environment
from world2act.world_model.parts import encoding
from world2act.world_model.parts.text import make_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, make_vae

SIZE, CAMERAS = 16, ("wrist", "front")
BOUNDS = {0: (0, 8, 20), 1: (0, 4, 8), 2: (0, 12, 16)}
WEIGHTS = Path("artifacts/tokenizer/vae/diffusion_pytorch_model.safetensors")


def write_episodes(numbers: Sequence[int]) -> None:
    """Artifacts of episodes by their numbers, which decide what they show, and of their skills, two each."""
    features = {f"observation.images.{name}": image_feature(SIZE, SIZE) for name in CAMERAS}
    for dataset in ("labelled", "video_only"):
        path = Path("artifacts/demos") / dataset
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        cameras = [{"name": name} for name in CAMERAS]
        with DatasetWriter(path, features=features, fps=20, robot_type="arm", extra={"cameras": cameras}) as writer:
            for number in numbers:
                pictures = np.random.default_rng([number, len(dataset)]).integers(
                    0, 256, (2, 21, SIZE, SIZE, 3), np.uint8
                )
                images = dict(zip(CAMERAS, pictures, strict=True))
                writer.add(encode(Episode("toy", "do it", number, images, {})))
            writer.set_splits({"train": range(len(numbers))})
    rows = [
        {
            "dataset": dataset,
            "episode_index": index,
            "subset": "train",
            "task": "toy",
            "instruction": "do it",
            "skill_index": k,
            "skill_count": 2,
            "start": start,
            "end": end,
            "raw_end": end,
            "provider": "schema",
            "prompt": ("reach", "lift", "push")[(number + k) % 3],
        }
        for dataset in ("labelled", "video_only")
        for index, number in enumerate(numbers)
        for k, (start, end) in enumerate(zip(BOUNDS[number % 3], BOUNDS[number % 3][1:], strict=False))
    ]
    write_parquet("artifacts/skills/skills.parquet", rows, schema_of(SkillRow))


def make_workspace(path: Path, numbers: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> Params:
    path.mkdir(parents=True)
    monkeypatch.chdir(path)
    values = compose("tiny", ROOT)
    values["latents"]["batch_size"] = 4
    Path("params.yaml").write_text(yaml.safe_dump(values))
    params = load_params()
    own = params.tokenizer.model_copy(update={"base_dim": 4, "dim_mult": [1, 2, 2], "patch_size": 2})
    make_vae(own, 0).save_pretrained("artifacts/tokenizer/vae")
    make_text_encoder(["reach", "lift", "push"], 32, 1, own.text_length, 0).save(Path("artifacts/tokenizer"))
    write_episodes(numbers)
    return params


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    return make_workspace(tmp_path / "one", range(5), monkeypatch)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of clips of every batch that goes through the VAE."""
    counts: list[int] = []
    through = encoding.encode

    def count(tokenizer: VideoTokenizer, clips: np.ndarray, batch_size: int) -> np.ndarray:
        counts.append(len(clips))
        return through(tokenizer, clips, batch_size)

    monkeypatch.setattr(encoding, "encode", count)
    return counts


def run(params: Params, encoded: list[int]) -> int:
    """Run the stage. Returns: how many clips it encoded."""
    encoded.clear()
    latents.main(params)
    assert not Path("runs/latents/clips").exists()
    return sum(encoded)


def test_adding_ten_episodes_encodes_ten(
    params: Params, encoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(params, encoded) == 2 * 2 * 5
    before = sha256("artifacts/latents")
    assert run(params, encoded) == 0 and sha256("artifacts/latents") == before
    numbers = [0, 1, 2, *range(10, 20), 3, 4]  # they join the training part, and what is held out moves back
    write_episodes(numbers)
    assert run(params, encoded) == 2 * 2 * 10
    grown = sha256("artifacts/latents")
    write_episodes(range(5))
    assert run(params, encoded) == 0 and sha256("artifacts/latents") == before
    fresh = make_workspace(tmp_path / "two", numbers, monkeypatch)
    assert run(fresh, encoded) == 2 * 2 * 15
    assert sha256("artifacts/latents") == grown, "the bytes of a clip depend on what was encoded with it"


def test_a_prompt_is_embedded_once(params: Params, encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    run(params, encoded)
    cache = open_latents("artifacts/latents")
    assert cache.prompts == ("lift", "push", "reach", "")
    assert [prompt.tokens for prompt in cache.stored_prompts] == [2, 2, 2, 0], (
        "a word, the end of text; padding left out"
    )
    assert cache.prompt_embeds.shape == (4, params.tokenizer.text_length, 32)
    embed = latents.load_text_encoder("artifacts/tokenizer", params.tokenizer.text_length).embed(["push"]).numpy()
    np.testing.assert_array_equal(cache.prompt_embeds[1:2], embed)
    monkeypatch.setattr(latents, "load_text_encoder", lambda *_: pytest.fail("the text encoder was loaded"))
    write_episodes(range(7))
    run(params, encoded)


def test_latents_are_those_of_the_tiled_frames(params: Params, encoded: list[int]) -> None:
    run(params, encoded)
    cache, dataset = open_latents("artifacts/latents"), EpisodeDataset.open("artifacts/demos/video_only")
    tokenizer = latents.load_tokenizer("artifacts/tokenizer")
    assert cache.views.names == CAMERAS and cache.latent_shape == tokenizer.latent_shape(2 * SIZE, 2 * SIZE)
    for clip in cache.select("video_only", "train"):
        frames = read_frames(dataset, clip.episode_index, range(clip.start, clip.end + 1))
        alone = tokenizer.encode(frames[None])[0]
        torch.testing.assert_close(torch.tensor(cache.latents(clip)), alone, rtol=1e-4, atol=1e-5)


def test_shards_leave_nothing_to_encode(params: Params, encoded: list[int], tmp_path: Path) -> None:
    run(params, encoded)
    whole = sha256("artifacts/latents")
    Path("artifacts/latents").rename(tmp_path / "aside")
    encoded.clear()
    assert "encoded 8 of 8" in latents.share(params, 1, 3)
    assert "encoded 0 of 8" in latents.share(params, 1, 3)
    assert "encoded 8 of 8" in latents.share(params, 0, 3)
    assert run(params, encoded) == 4 and sha256("artifacts/latents") == whole


def test_a_run_that_was_killed_goes_on(params: Params, encoded: list[int], tmp_path: Path) -> None:
    run(params, encoded)
    whole = sha256("artifacts/latents")
    Path("artifacts/latents").rename(tmp_path / "aside")
    slow = "import time; from world2act.data.array_store import ArrayStore as S; put = S.put\n"
    slow += "S.put = lambda *a: (put(*a), time.sleep(0.1))\n"
    slow += "import runpy; runpy.run_module('stages.latents', run_name='__main__')\n"
    process = subprocess.Popen([sys.executable, "-c", slow], env=stage_environment() | {"PYTHONPATH": str(ROOT)})
    while len(list(Path("runs").rglob("*.npy"))) < 7:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(Path("runs").rglob("*.npy")))
    assert not Path("artifacts/latents").exists() and 7 <= there < 20
    assert run(params, encoded) == 20 - there and sha256("artifacts/latents") == whole


def test_another_vae_encodes_everything_again(params: Params, encoded: list[int]) -> None:
    run(params, encoded)
    before = {clip.key for clip in open_latents("artifacts/latents").clips}
    state = load_file(WEIGHTS)
    state["quant_conv.bias"] += 1e-3
    save_file(state, WEIGHTS)
    assert run(params, encoded) == 20
    assert before.isdisjoint(clip.key for clip in open_latents("artifacts/latents").clips)


def test_another_layout_or_batch_size_encodes_everything_again(params: Params, encoded: list[int]) -> None:
    run(params, encoded)
    for info in Path("artifacts/demos").glob("*/meta/info.json"):
        values = read_json(info)
        values["world2act"]["cameras"].reverse()
        write_json(info, values)
    assert run(params, encoded) == 20
    assert open_latents("artifacts/latents").views.names == CAMERAS[::-1]
    assert run(params.model_copy(update={"latents": Latents(batch_size=2)}), encoded) == 20


def test_what_is_damaged_is_encoded_again(
    params: Params, encoded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run(params, encoded)
    whole, cache = sha256("artifacts/latents"), open_latents("artifacts/latents")
    paths = [cache.clip_store.path(clip.key) for clip in cache.clips]
    content = bytearray(paths[0].read_bytes())
    content[200] ^= 1
    paths[0].write_bytes(content)
    paths[1].write_bytes(paths[1].read_bytes()[:-8])
    paths[2].unlink()
    assert run(params, encoded) == 3 and sha256("artifacts/latents") == whole
    said = capsys.readouterr().out
    assert "3 damaged or missing" in said and all(path.name in said for path in paths[:3])


def test_latents_that_are_not_numbers_are_refused(params: Params, encoded: list[int]) -> None:
    run(params, encoded)
    whole, state = sha256("artifacts/latents"), load_file(WEIGHTS)
    state["quant_conv.bias"][0] = float("nan")
    save_file(state, WEIGHTS)
    with pytest.raises(BadInput, match=r"not finite\n.*\n.*weights"):
        latents.main(params)
    assert sha256("artifacts/latents") == whole, "the last good cache is gone"


def test_the_gate_finds_what_was_encoded_from_other_frames(params: Params, encoded: list[int]) -> None:
    def clips() -> list[tuple[int, bool, bool]]:
        table = next(table for table in tables(Path("artifacts"), params) if table.name == "clips")
        return list(table.frame[["episode_index", "current", "intact"]].itertuples(index=False, name=None))

    run(params, encoded)
    assert all(current and intact for _, current, intact in clips())
    write_episodes([0, 1, 2, 3, 7])
    assert {(index, current) for index, current, _ in clips()} == {(i, i < 4) for i in range(5)}
    assert run(params, encoded) == 4
    assert all(current for _, current, _ in clips())


def test_views_that_are_no_whole_latents_are_refused(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SIZE", 12)
    write_episodes(range(2))
    with pytest.raises(BadInput, match="12x12"):
        latents.main(params)
