"""The latent cache: what is written is what is read, and a cache that does not hold together is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world2act.data.latent_cache import open_latents, write_latents
from world2act.errors import BadInput

SHAPE = (3, 2, 2)


def skill(dataset: str, episode: int, start: int, end: int, prompt: str, subset: str = "train") -> dict[str, Any]:
    return {
        "dataset": dataset,
        "episode_index": episode,
        "subset": subset,
        "task": "toy",
        "instruction": "do it",
        "skill_index": 0,
        "skill_count": 1,
        "start": start,
        "end": end,
        "raw_end": end,
        "prompt": prompt,
        "provider": "schema",
    }


SKILLS = [
    skill("labelled", 0, 0, 8, "reach"),
    skill("video_only", 0, 4, 8, "lift"),
    skill("video_only", 1, 0, 12, "reach", "heldout"),
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    clips = [(i, np.full((length, *SHAPE), i, np.float32)) for i, length in ((2, 4), (0, 3), (1, 2))]
    write_latents(
        tmp_path, SKILLS, clips, SHAPE, ["lift", "reach", ""], rng.normal(size=(3, 5, 8)), {"latent_shape": list(SHAPE)}
    )
    return tmp_path


def test_every_clip_comes_back_whatever_order_it_came_in(cache: Path) -> None:
    opened = open_latents(cache)
    assert [len(opened.latents(clip)) for clip in opened.clips] == [3, 2, 4]
    assert [float(opened.latents(clip).mean()) for clip in opened.clips] == [0, 1, 2]
    assert [opened.prompts[clip.prompt_row] for clip in opened.clips] == ["reach", "lift", "reach"]
    assert opened.latent_shape == SHAPE and opened.prompts[opened.no_prompt] == ""
    assert isinstance(opened.latents(opened.clips[0]), np.memmap)


def test_clips_are_chosen_by_dataset_and_subset(cache: Path) -> None:
    opened = open_latents(cache)
    assert [clip.episode_index for clip in opened.select("video_only", "heldout")] == [1]
    with pytest.raises(BadInput, match="labelled/heldout"):
        opened.select("labelled", "heldout")


def test_a_truncated_array_is_refused(cache: Path) -> None:
    array = cache / "latents.npy"
    array.write_bytes(array.read_bytes()[:-40])
    with pytest.raises(BadInput, match=r"latents\.npy"):
        open_latents(cache)


def test_clips_that_do_not_cover_the_array_are_refused(cache: Path) -> None:
    np.save(cache / "latents.npy", np.zeros((10, *SHAPE), np.float32))
    with pytest.raises(BadInput, match="10 latents"):
        open_latents(cache)


def test_prompts_must_end_with_the_empty_one(cache: Path) -> None:
    (cache / "prompts.json").write_text(json.dumps(["lift", "reach", "push"]))
    with pytest.raises(BadInput, match="last prompt empty"):
        open_latents(cache)


def test_a_pickle_is_never_read(cache: Path) -> None:
    np.save(cache / "prompt_embeds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="prompt_embeds"):
        open_latents(cache)


def test_reading_needs_no_model_library() -> None:
    code = "import sys, world2act.data.latent_cache; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
