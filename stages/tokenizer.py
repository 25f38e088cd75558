"""tokenizer: frames of video-only episodes, prompts → artifacts/tokenizer: the VAE, text encoder and tokenizer."""

from world2act.core.params import Params
from world2act.core.seeds import derive
from world2act.core.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.core.storage import atomic_directory, read_parquet
from world2act.data.frame_cache import FrameCache
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import layout_of
from world2act.training.loop import train
from world2act.world_model.learning.reconstruction import (
    ReconstructionObjective,
    measure_latents,
    measure_reconstruction,
)
from world2act.world_model.parts.text import import_text_encoder, make_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, import_vae, load_tokenizer, make_vae


def main(params: Params) -> Metrics:
    demos, section = ARTIFACTS / "demos" / "video_only", params.tokenizer
    seed = derive(params.base.seed, "tokenizer")
    skills = read_parquet(ARTIFACTS / "skills" / "skills.parquet").to_pylist()
    episodes = EpisodeDataset.open(demos)
    train_vae, make_text = (section.source == "train" and part is None for part in (section.vae, section.text_encoder))
    if train_vae:
        training = [e for e in episodes.episodes if e.subset == "train"]
        cache = FrameCache.open_tiled(episodes)
        frames = [cache.episode(e.index) for e in training]
        vae = make_vae(section, seed)
        VideoTokenizer(vae).latent_shape(*layout_of(episodes).view_size)  # no latent may span two views
        objective = ReconstructionObjective(vae, frames, [e.task for e in training], section, section.training.steps)
        trained = train(objective, section.training, name="tokenizer", base=params.base)
    if not is_main():
        return {}
    with atomic_directory(ARTIFACTS / "tokenizer") as directory:
        if train_vae:
            objective.model.load_state_dict(trained.ema)
            measure_latents(vae, frames)
        else:
            vae = import_vae(section)
        vae.save_pretrained(directory / "vae")
        if make_text:
            words = [row["prompt"] for row in skills] + [row["instruction"] for row in skills]
            text = make_text_encoder(words, section.text_dim, section.text_layers, section.text_length, seed)
        else:
            text = import_text_encoder(section)
        text.save(directory)
        heldout = [row for row in skills if row["dataset"] == "video_only" and row["subset"] == "heldout"]
        return measure_reconstruction(load_tokenizer(directory), episodes, heldout, directory)


if __name__ == "__main__":
    run_stage("tokenizer", main)
