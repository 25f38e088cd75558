"""The latent cache: what is written is what is read, and a cache that does not hold together is refused."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.helpers.latent_caches import write_latents
from world2act.core.errors import BadInput
from world2act.core.storage import read_json, read_parquet, sha256, write_json, write_parquet
from world2act.core.tables import schema_of
from world2act.data.array_store import ArrayStore
from world2act.data.latent_cache import Clip, Prompt, open_latents
from world2act.data.latent_index import content_key, reusable

SHAPE = (3, 2, 2)
KEY = "ab" * 32


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


def write(directory: Path) -> Path:
    clips = [(i, np.full((length, *SHAPE), i, np.float32)) for i, length in ((2, 4), (0, 3), (1, 2))]
    embeds = np.random.default_rng(0).normal(size=(3, 5, 8))
    write_latents(directory, SKILLS, clips, SHAPE, ["lift", "reach", ""], embeds, {})
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write(tmp_path)


def clip_file(cache: Path, row: int) -> Path:
    opened = open_latents(cache)
    return opened.clip_store.path(opened.clips[row].key)


def edit(cache: Path, index: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = read_parquet(cache / f"{index}.parquet").to_pylist()
    change(rows)
    write_parquet(cache / f"{index}.parquet", rows, schema_of({"clips": Clip, "prompts": Prompt}[index]))


def test_every_clip_comes_back_whatever_order_it_came_in(cache: Path) -> None:
    opened = open_latents(cache)
    assert [len(opened.latents(clip)) for clip in opened.clips] == [3, 2, 4]
    assert [float(opened.latents(clip).mean()) for clip in opened.clips] == [0, 1, 2]
    assert [opened.prompts[clip.prompt_row] for clip in opened.clips] == ["reach", "lift", "reach"]
    assert opened.latent_shape == SHAPE and opened.prompts[opened.no_prompt] == ""
    embeds = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    np.testing.assert_array_equal(opened.prompt_embeds, embeds)
    assert not opened.prompt_embeds.flags.writeable and not opened.latents(opened.clips[0]).flags.writeable


def test_latents_are_mapped_and_hold_no_file_open(tmp_path: Path) -> None:
    """A clip is not read before it is looked at, and thousands may be in use, whatever the limit of open files."""
    store, size = ArrayStore(tmp_path), 8 * 2**20
    store.put(KEY, np.ones(size, np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    views = [store.get(KEY, (size,)) for _ in range(50)]
    open_files = psutil.Process().num_fds()
    views += [store.get(KEY, (size,)) for _ in range(50)]
    assert psutil.Process().num_fds() == open_files
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100 * size * 4 / 2**16
    assert views[99][-1] == 1


def test_clips_are_chosen_by_dataset_and_subset(cache: Path) -> None:
    opened = open_latents(cache)
    assert [clip.episode_index for clip in opened.select("video_only", "heldout")] == [1]
    with pytest.raises(BadInput, match="labelled/heldout"):
        opened.select("labelled", "heldout")


def test_the_same_content_gives_the_same_bytes(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert sha256(write(tmp_path_factory.mktemp("again"))) == sha256(cache)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_file_that_is_cut_or_gone_is_named_when_the_cache_is_opened(cache: Path, damage: str) -> None:
    path = clip_file(cache, 1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    else:
        path.unlink()
    with pytest.raises(BadInput, match=path.name):
        open_latents(cache)


def test_a_file_of_another_shape_is_refused(cache: Path) -> None:
    path = clip_file(cache, 1)
    np.save(path, np.zeros((2, 2, 3, 2), np.float32))
    opened = open_latents(cache)
    with pytest.raises(BadInput, match=path.name):
        opened.latents(opened.clips[1])


def test_an_index_that_does_not_hold_together_is_refused(cache: Path) -> None:
    edit(cache, "clips", lambda rows: rows[0].update(end=12))
    with pytest.raises(BadInput, match=r"clips\.parquet: row 0"):
        open_latents(cache)
    edit(cache, "clips", lambda rows: rows[0].update(end=8, prompt_row=0))
    with pytest.raises(BadInput, match=r"clips\.parquet: row 0"):
        open_latents(cache)


@pytest.mark.parametrize("key", ["../../../../etc/passwd", "AB" * 32, KEY + "0", ""])
def test_a_key_names_no_other_file(cache: Path, key: str) -> None:
    edit(cache, "clips", lambda rows: rows[1].update(key=key))
    with pytest.raises(BadInput, match="64 hexadecimal digits"):
        open_latents(cache)


def test_prompts_must_end_with_the_empty_one(cache: Path) -> None:
    edit(cache, "prompts", lambda rows: rows.reverse())
    with pytest.raises(BadInput, match="an empty last prompt"):
        open_latents(cache)


def test_a_cache_of_an_older_layout_is_refused(cache: Path) -> None:
    meta = read_json(cache / "meta.json")
    write_json(cache / "meta.json", {"vae_sha256": meta["encoding"]["vae_sha256"]})
    with pytest.raises(BadInput, match="encoding"):
        open_latents(cache)


def test_a_pickle_is_never_read(cache: Path) -> None:
    opened = open_latents(cache)
    path = opened.prompt_store.path(opened.stored_prompts[0].key)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=path.name):
        open_latents(cache)


def test_numbers_that_are_not_finite_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="2 of 4 numbers are not finite"):
        ArrayStore(tmp_path).put(KEY, np.array([1, np.nan, np.inf, 2], np.float32))
    assert not list(tmp_path.rglob("*.npy*"))


def test_a_store_takes_an_array_without_copying_it(tmp_path: Path) -> None:
    old, new = ArrayStore(tmp_path / "old"), ArrayStore(tmp_path / "new")
    old.put(KEY, np.arange(6, dtype=np.float32).reshape(2, 3))
    new.take(KEY, old)
    assert new.path(KEY).samefile(old.path(KEY)) and new.shape(KEY) == (2, 3)
    new.put(KEY, np.zeros((2, 3), np.float32))
    assert old.get(KEY, (2, 3)).sum() == 15, "writing to one store changed another"


def test_only_whole_files_that_the_index_names_are_used_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened, other = open_latents(cache), "0" * 64
    keys = [clip.key for clip in opened.clips]
    assert reusable(cache, "clips", [*keys[:2], other], verify=True) == set(keys[:2])
    path = opened.clip_store.path(keys[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    opened.clip_store.path(keys[2]).unlink()
    assert reusable(cache, "clips", keys, verify=True) == {keys[1]}
    said = capsys.readouterr().out
    assert "2 damaged or missing" in said and keys[0] in said and keys[2] in said
    assert reusable(cache, "clips", keys, verify=False) == set(keys[:2])
    (cache / "clips.parquet").write_bytes(b"")
    assert reusable(cache, "clips", keys, verify=True) == reusable(cache / "none", "clips", keys, verify=True) == set()


def test_a_key_is_of_every_part_and_of_where_parts_end() -> None:
    keys = {
        content_key({"batch_size": batch}, parts)
        for batch in (1, 2)
        for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [b"abc"], [b"abc", b""], [])
    }
    assert len(keys) == 12


def test_reading_needs_no_model_library() -> None:
    code = "import sys, world2act.data.latent_cache; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
