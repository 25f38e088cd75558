"""latents: skill clips, prompts, VAE, text encoder → artifacts/latents, the memory-mapped cache."""

from world2act.data.latent_cache import open_latents, write_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.params import Params
from world2act.stage import ARTIFACTS, Metrics, run_stage
from world2act.storage import atomic_directory, read_parquet, sha256
from world2act.world_model.encoding import encode_clips
from world2act.world_model.text import load_text_encoder
from world2act.world_model.tokenizer import load_tokenizer


def main(params: Params) -> Metrics:
    skills = read_parquet(ARTIFACTS / "skills" / "skills.parquet").to_pylist()
    datasets = {
        name: EpisodeDataset.open(ARTIFACTS / "demos" / name) for name in sorted({row["dataset"] for row in skills})
    }
    models = ARTIFACTS / "tokenizer"
    tokenizer, text_encoder = load_tokenizer(models), load_text_encoder(models, params.tokenizer.text_length)
    prompts = [*sorted({row["prompt"] for row in skills}), ""]
    height, width = datasets["video_only"].features[f"observation.images.{datasets['video_only'].cameras[0]}"]["shape"][
        :2
    ]
    shape = tokenizer.latent_shape(height, width)
    meta = {
        "vae_sha256": sha256(models / "vae"),
        "text_encoder_sha256": sha256(models / "text_encoder"),
        "latent_shape": list(shape),
        "frame_size": [height, width],
    }
    with atomic_directory(ARTIFACTS / "latents") as directory:
        clips = encode_clips(tokenizer, datasets, skills, params.latents.batch_size)
        write_latents(directory, skills, clips, shape, prompts, text_encoder.embed(prompts).numpy(), meta)
        cache = open_latents(directory)
        lengths = [clip.latents for clip in cache.clips]
        return {
            "clips": len(lengths),
            "latents": sum(lengths),
            "prompts": len(prompts) - 1,
            "shortest_clip": min(lengths),
            "longest_clip": max(lengths),
        }


if __name__ == "__main__":
    run_stage("latents", main)
