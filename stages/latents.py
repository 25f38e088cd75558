"""latents: skill clips, prompts, VAE, text encoder → artifacts/latents, the memory-mapped cache.

Clips that the last cache or a killed run has encoded are not encoded again; `--shard K/N` encodes a share of the rest.
"""

import shutil
from collections.abc import Container, Mapping
from dataclasses import dataclass

from world2act.core.params import Params
from world2act.core.sharding import run_shares
from world2act.core.stage import ARTIFACTS, RUNS, Metrics
from world2act.core.storage import atomic_directory
from world2act.core.tables import read_rows
from world2act.data.array_store import ArrayStore
from world2act.data.latent_cache import CacheMeta
from world2act.data.latent_index import clip_keys, reusable, write_index
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.data.tiling import Layout, layout_of
from world2act.world_model.parts.encoding import (
    Row,
    batches_of_clips,
    describe_encoding,
    describe_text,
    length_of,
    prompt_keys,
    store_clips,
    store_prompts,
)
from world2act.world_model.parts.text import load_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, load_tokenizer

LAST, MODELS = ARTIFACTS / "latents", ARTIFACTS / "tokenizer"
SCRATCH = ArrayStore(RUNS / "latents" / "clips")


@dataclass(frozen=True)
class Work:
    """The rows of skills.parquet and their keys, and how to encode them."""

    skills: list[SkillRow]
    keys: list[str]
    datasets: dict[str, EpisodeDataset]
    tokenizer: VideoTokenizer
    encoding: dict[str, object]

    @property
    def layout(self) -> Layout:
        return layout_of(next(iter(self.datasets.values())))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        self.tokenizer.latent_shape(*self.layout.view_size)  # no latent may span two views
        return self.tokenizer.latent_shape(*self.layout.frame_size)


def read_work(params: Params) -> Work:
    skills = read_rows(ARTIFACTS / "skills" / "skills.parquet", SkillRow)
    names = sorted({skill.dataset for skill in skills})
    datasets = {name: EpisodeDataset.open(ARTIFACTS / "demos" / name) for name in names}
    encoding = describe_encoding(MODELS, params.latents.batch_size)
    keys = clip_keys(datasets, map(vars, skills), encoding)
    return Work(skills, keys, datasets, load_tokenizer(MODELS), encoding)


def share(params: Params, first: int, count: int) -> str:
    work = read_work(params)
    missing = clips_without(work, reusable(LAST, "clips", work.keys, verify=False))
    batches = batches_of_clips(missing, params.latents.batch_size)[first::count]
    shard = {key: missing[key] for batch in batches for key in batch}
    return f"encoded {encode(work, shard, params)} of {len(shard)} clips, the others had been encoded before"


def main(params: Params) -> Metrics:
    work = read_work(params)
    reused = reusable(LAST, "clips", work.keys, verify=True)
    encoded = encode(work, clips_without(work, reused), params)
    text = describe_text(MODELS, params.tokenizer.text_length)
    prompts = prompt_keys(text, [*sorted({skill.prompt for skill in work.skills}), ""])
    known = reusable(LAST, "prompts", prompts.values(), verify=True)
    unknown = {prompt: key for prompt, key in prompts.items() if key not in known}
    with atomic_directory(LAST) as directory:
        clips, texts = ArrayStore(directory / "clips"), ArrayStore(directory / "prompts")
        for key in sorted(set(work.keys)):
            clips.take(key, ArrayStore(LAST / "clips") if key in reused else SCRATCH)
        for key in sorted(known):
            texts.take(key, ArrayStore(LAST / "prompts"))
        if unknown:
            store_prompts(texts, load_text_encoder(MODELS, params.tokenizer.text_length), unknown)
        meta: CacheMeta = {
            "encoding": work.encoding,
            "text": text,
            "latent_shape": list(work.latent_shape),
            "text_shape": [params.tokenizer.text_length, texts.shape(prompts[""])[1]],
            "views": work.layout.to_json(),
        }
        write_index(directory, [vars(skill) for skill in work.skills], work.keys, prompts, meta)
    shutil.rmtree(SCRATCH.folder, ignore_errors=True)  # at worst, the next run deletes them
    print(f"latents: encoded {encoded} of {len(set(work.keys))} clips, {len(unknown)} of {len(prompts)} prompts")
    lengths = [length_of(vars(skill)) for skill in work.skills]
    return {
        "clips": len(lengths),
        "latents": sum(lengths),
        "prompts": len(prompts) - 1,
        "shortest_clip": min(lengths),
        "longest_clip": max(lengths),
    }


def clips_without(work: Work, encoded: Container[str]) -> dict[str, Row]:
    """Key → row of the clips that are not in `encoded`; clips with the same content occur once."""
    return {key: vars(skill) for key, skill in zip(work.keys, work.skills, strict=True) if key not in encoded}


def encode(work: Work, clips: Mapping[str, Row], params: Params) -> int:
    """Encode the clips that no earlier run has encoded. Returns how many there were."""
    shape = work.latent_shape
    missing = {key: row for key, row in clips.items() if not SCRATCH.holds(key, (length_of(row), *shape))}
    store_clips(SCRATCH, work.tokenizer, work.datasets, missing, params.latents.batch_size)
    return len(missing)


if __name__ == "__main__":
    run_shares("latents", share, main)
