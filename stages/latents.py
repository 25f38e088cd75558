"""latents: skill clips, prompts, VAE, text encoder → artifacts/latents, the memory-mapped cache."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from world2act.data.latent_cache import open_latents, write_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.params import Params
from world2act.sharding import Arrays, run_sharded
from world2act.stage import ARTIFACTS, Metrics
from world2act.storage import atomic_directory, read_parquet, sha256
from world2act.world_model.encoding import batches_of_clips, encode_clips
from world2act.world_model.text import load_text_encoder
from world2act.world_model.tokenizer import load_tokenizer


def plan(params: Params) -> list[list[int]]:
    return batches_of_clips(read_skills(), params.latents.batch_size)


def compute(params: Params, batches: Sequence[list[int]]) -> Iterator[Arrays]:
    skills, tokenizer = read_skills(), load_tokenizer(ARTIFACTS / "tokenizer")
    datasets = open_datasets(skills)
    for rows in batches:
        latents = encode_clips(tokenizer, datasets, [skills[row] for row in rows])
        yield {str(row): clip for row, clip in zip(rows, latents, strict=True)}


def assemble(params: Params, encoded: Iterable[Arrays]) -> Metrics:
    skills, models = read_skills(), ARTIFACTS / "tokenizer"
    video_only = open_datasets(skills)["video_only"]
    height, width = video_only.features[f"observation.images.{video_only.cameras[0]}"]["shape"][:2]
    shape = load_tokenizer(models).latent_shape(height, width)
    prompts = [*sorted({row["prompt"] for row in skills}), ""]
    embeds = load_text_encoder(models, params.tokenizer.text_length).embed(prompts).numpy()
    meta = {
        "vae_sha256": sha256(models / "vae"),
        "text_encoder_sha256": sha256(models / "text_encoder"),
        "latent_shape": list(shape),
        "frame_size": [height, width],
    }
    clips = ((int(row), latents) for batch in encoded for row, latents in batch.items())
    with atomic_directory(ARTIFACTS / "latents") as directory:
        write_latents(directory, skills, clips, shape, prompts, embeds, meta)
        lengths = [clip.latents for clip in open_latents(directory).clips]
    return {
        "clips": len(lengths),
        "latents": sum(lengths),
        "prompts": len(prompts) - 1,
        "shortest_clip": min(lengths),
        "longest_clip": max(lengths),
    }


def read_skills() -> list[dict[str, Any]]:
    return read_parquet(ARTIFACTS / "skills" / "skills.parquet").to_pylist()


def open_datasets(skills: Sequence[dict[str, Any]]) -> dict[str, EpisodeDataset]:
    return {
        name: EpisodeDataset.open(ARTIFACTS / "demos" / name) for name in sorted({row["dataset"] for row in skills})
    }


if __name__ == "__main__":
    run_sharded("latents", plan, compute, assemble)
