"""Films of imagined chains, and the commands that make one and convert the weights of LPIPS."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.helpers.paths import ROOT
from tests.unit.world_model.test_quality import write_lpips
from world2act.cli import app
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params
from world2act.films.chain import film_chain
from world2act.world_model.judging.lpips import load_lpips
from world2act.world_model.parts.guardrail import Guardrail
from world2act.world_model.parts.tokenizer import VideoTokenizer, make_vae

PROMPTS = ["reach for the mug", "push the mug under the machine and let go of it where nobody would look for it"]


class Strict:
    """A checker that refuses every video, and prompts with a hammer."""

    def check_text_safety(self, prompt: str) -> bool:
        return "hammer" not in prompt

    def check_video_safety(self, frames: np.ndarray) -> None:
        return None


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    return VideoTokenizer(make_vae(parse_params(compose("default", ROOT), "test").tokenizer, 0))


def film(folder: Path, tokenizer: VideoTokenizer, guardrail: Guardrail, **options: object) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    latents = [rng.normal(size=(length, 16, 2, 3)).astype(np.float32) for length in (3, 4)]
    settings = {"recorded": rng.integers(0, 256, (21, 32, 48, 3), np.uint8), "fps": 80} | options
    film_chain(folder / "mug-1", tokenizer, guardrail, PROMPTS, latents, **settings)
    with av.open(str(folder / "mug-1.mp4")) as container:
        assert container.streams.video[0].average_rate == 15
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_shows_recorded_above_imagined_frame_by_frame(tmp_path: Path, tokenizer: VideoTokenizer) -> None:
    frames = film(tmp_path, tokenizer, Guardrail(None))
    assert len(frames) == 1 + 4 * 2 + 4 * 3 and frames[0].shape[1] >= 256
    assert (tmp_path / "mug-1.png").stat().st_size > 1000
    words = [frame[20:78].astype(int) for frame in frames]
    assert np.abs(words[8] - words[9]).max() > 100, "the second prompt follows the first"
    bar = [int((frame[9:15, :, 0] < 60).sum()) for frame in frames]
    assert bar == sorted(bar) and bar[0] < bar[-1], "time moves on"


def test_a_rollout_has_nothing_recorded_and_may_begin_with_five_frames(
    tmp_path: Path, tokenizer: VideoTokenizer
) -> None:
    alone = film(tmp_path, tokenizer, Guardrail(None), recorded=None)
    five = film(tmp_path, tokenizer, Guardrail(None), recorded=None, given=5)
    assert len(alone) == 21 and len(five) == 17 and alone[0].shape == five[0].shape


def test_nothing_passes_the_guardrail_unseen(tmp_path: Path, tokenizer: VideoTokenizer) -> None:
    frames = film(tmp_path, tokenizer, Guardrail(Strict()))
    height = (frames[0].shape[0] - 80) // 2
    recorded, imagined = frames[5][80 : 80 + height], frames[5][80 + height :]
    assert imagined[30:-6].max() < 20 < recorded[30:-6].max()
    with pytest.raises(BadInput, match="refused by the guardrail"):
        film_chain(tmp_path / "x", tokenizer, Guardrail(Strict()), ["swing the hammer"], [], None, 20)


def test_the_same_film_has_the_same_bytes(tmp_path: Path, tokenizer: VideoTokenizer) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        film(tmp_path / name, tokenizer, Guardrail(None))
    assert (tmp_path / "one/mug-1.mp4").read_bytes() == (tmp_path / "two/mug-1.mp4").read_bytes()


def test_weights_of_lpips_are_converted_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lpips(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    done = CliRunner().invoke(app, ["convert-lpips", "alexnet.pth", "alex.pth", "weights/lpips.safetensors"])
    assert done.exit_code == 0 and "judge.lpips" in done.output
    assert len(load_lpips("weights/lpips.safetensors").state_dict()) == 15
