"""films: tokenizer, world model and rollouts → reports/films, mp4 and PNG strips for people to look at."""

from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, REPORTS, Metrics, run_stage
from world2act.core.storage import atomic_directory, read_json, read_parquet
from world2act.data.latent_cache import open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.films.heldout import Studio, film_heldout
from world2act.films.reconstruction import show_reconstructions
from world2act.films.rollouts import film_rollouts
from world2act.world_model.imagining.recorded_clips import make_imagination
from world2act.world_model.imagining.world_model import load_world_model
from world2act.world_model.parts.clips import usable_clips
from world2act.world_model.parts.guardrail import open_guardrail
from world2act.world_model.parts.tokenizer import load_tokenizer


def main(params: Params) -> Metrics:
    episodes, cache = EpisodeDataset.open(ARTIFACTS / "demos/video_only"), open_latents(ARTIFACTS / "latents")
    tokenizer, world_model = load_tokenizer(ARTIFACTS / "tokenizer"), load_world_model(ARTIFACTS / "world_model")
    guardrail = open_guardrail(read_json(ARTIFACTS / "world_model/config.json"))
    skills = read_parquet(ARTIFACTS / "skills/skills.parquet").to_pylist()
    recorded = [row for row in skills if row["dataset"] == "video_only" and row["subset"] == "heldout"]
    heldout = usable_clips(cache, "heldout", world_model.max_latents).clips
    imagination = make_imagination(world_model, cache, params.judge.sampler)
    studio = Studio(imagination, cache, tokenizer, episodes, guardrail, params.base.seed)
    with atomic_directory(REPORTS / "films") as directory:
        show_reconstructions(directory / "tokenizer", tokenizer, episodes, recorded)
        film_heldout(directory / "world_model", studio, heldout)
        film_rollouts(directory / "rollouts", ARTIFACTS / "rollouts", tokenizer, guardrail, episodes.fps)
        return {"films": len(list(directory.rglob("*.mp4"))), "strips": len(list(directory.rglob("*.png")))}


if __name__ == "__main__":
    run_stage("films", main)
