"""bridge: artifacts/{demos,latents,world_model} → artifacts/bridge, the shared space of video and action."""

import numpy as np
import torch

from world2act.bridge.adapters import Bridge
from world2act.bridge.imagined import imagine_pairs, pair_seeds
from world2act.bridge.objective import BridgeObjective
from world2act.bridge.pairs import Pairs
from world2act.bridge.retrieval import retrieval_ranks, summarise
from world2act.bridge.rows import RetrievalRow
from world2act.core.params import Params
from world2act.core.seeds import derive
from world2act.core.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.core.storage import atomic_directory
from world2act.core.tables import write_rows
from world2act.data.latent_cache import open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.training.loop import train
from world2act.training.ranks import initialise
from world2act.world_model.imagining.world_model import load_world_model


def main(params: Params) -> Metrics:
    settings, seed = params.bridge, derive(params.base.seed, "bridge")
    rank, ranks = initialise()
    demos, cache = EpisodeDataset.open(ARTIFACTS / "demos/labelled"), open_latents(ARTIFACTS / "latents")
    world_model = load_world_model(ARTIFACTS / "world_model")

    def actions(episode: int) -> np.ndarray:
        return demos.columns(episode, ["action"])["action"]

    def pairs(subset: str) -> Pairs:
        clips = cache.select("labelled", subset)
        return imagine_pairs(
            world_model,
            cache,
            clips,
            actions,
            seeds=pair_seeds(params.base.seed, subset, len(clips)),
            sampler=settings.sampler,
            rank=rank,
            ranks=ranks,
        )

    training, heldout = pairs("train"), pairs("heldout")
    torch.manual_seed(derive(seed, "adapters"))
    bridge = Bridge(cache.latent_shape[0], training.actions.shape[-1], settings.dim)
    bridge.fit_normalisation(training.actions, training.lengths)
    objective = BridgeObjective(
        bridge,
        training,
        temperature=settings.temperature,
        weight=settings.contrastive_weight,
        hard_ratio=settings.hard_ratio,
        negatives=settings.negatives,
        seed=seed,
    )
    trained = train(objective, settings.training, name="bridge", base=params.base)
    if not is_main():
        return {}
    bridge.load_state_dict(trained.ema)
    bridge = bridge.cpu().eval()
    ranked = retrieval_ranks(bridge, heldout)
    with atomic_directory(ARTIFACTS / "bridge") as directory:
        bridge.save_pretrained(directory)
        write_rows(directory / "heldout.parquet", RetrievalRow, ranked)
    return summarise(ranked)


if __name__ == "__main__":
    run_stage("bridge", main)
