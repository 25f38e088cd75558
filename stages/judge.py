"""judge: artifacts/world_model, held-out clips → metrics/judge: how well the world model imagines."""

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, DRY_RUN, METRICS, Metrics, is_dry_run, is_main, run_stage
from world2act.core.storage import atomic_directory, sha256, write_json
from world2act.core.tables import write_rows
from world2act.data.latent_cache import open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.training.ranks import initialise
from world2act.world_model.imagining.recorded_clips import make_imagination
from world2act.world_model.imagining.world_model import load_world_model
from world2act.world_model.judging.lpips import load_lpips
from world2act.world_model.judging.quality import Subject, measure, summarise
from world2act.world_model.judging.rows import ChainRow, HeldoutRow, PositionRow
from world2act.world_model.parts.clips import usable_clips
from world2act.world_model.parts.tokenizer import load_tokenizer


def main(params: Params) -> Metrics:
    if is_dry_run():
        remedy = f"leave {DRY_RUN} out: this stage trains nothing, and has no dry run"
        raise BadInput("the command line", "", DRY_RUN, "no option for stages.judge", remedy)
    rank, ranks = initialise()
    cache, world_model = open_latents(ARTIFACTS / "latents"), load_world_model(ARTIFACTS / "world_model")
    subject = Subject(
        make_imagination(world_model, cache, params.judge.sampler),
        load_tokenizer(ARTIFACTS / "tokenizer"),
        cache,
        {name: EpisodeDataset.open(ARTIFACTS / "demos" / name) for name in ("labelled", "video_only")},
        usable_clips(cache, "train", world_model.max_latents).clips,
        usable_clips(cache, "heldout", world_model.max_latents).clips,
        params.judge,
        params.base.seed,
        load_lpips(params.judge.lpips) if params.judge.lpips else None,
    )
    quality = measure(subject, rank=rank, ranks=ranks)
    if not is_main():
        return {}
    with atomic_directory(METRICS / "judge/tables") as directory:
        write_rows(directory / "heldout.parquet", HeldoutRow, (HeldoutRow(**row) for row in quality.clips))
        write_rows(directory / "chains.parquet", ChainRow, (ChainRow(**row) for row in quality.chains))
        write_rows(directory / "positions.parquet", PositionRow, (PositionRow(**row) for row in quality.positions))
        judged = sha256(ARTIFACTS / "world_model/transformer")
        write_json(
            directory / "judged.json", {"world_model_sha256": judged, "sampler": params.judge.sampler.model_dump()}
        )
    return summarise(quality)


if __name__ == "__main__":
    run_stage("judge", main)
