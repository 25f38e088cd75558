"""base_policy: labelled demonstrations → artifacts/base_policy, a GR00T-family policy (docs/artifacts.md)."""

from world2act.params import Params
from world2act.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.storage import atomic_directory, sha256


def main(params: Params) -> Metrics:
    # simulator processes import this module once more: the heavy libraries stay inside
    from world2act.data.chunks import ChunkDataset
    from world2act.data.lerobot_v3 import EpisodeDataset
    from world2act.evaluation.check import check_against_random
    from world2act.policies.base import load_policy
    from world2act.policies.gr00t.objective import ImitationObjective
    from world2act.training.loop import train

    section, demos = params.base_policy, ARTIFACTS / "demos"
    dataset = EpisodeDataset.open(demos / "labelled")
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    objective = ImitationObjective(section, dataset, chunks, params.base.seed)
    trained = train(
        objective, section.training, name="base_policy", base=params.base, inputs=sha256(demos / "labelled")
    )
    if not is_main():
        return {}
    with atomic_directory(ARTIFACTS / "base_policy") as directory:
        objective.save_policy(directory, trained.ema)
        (directory / "raw").mkdir()
        objective.save_policy(directory / "raw", trained.weights)
        metrics = check_against_random(
            load_policy(directory), demos / "initial_states.parquet", params, directory / "check.parquet"
        )
    return {
        **metrics,
        "parameters": sum(value.numel() for value in trained.ema.values()),
        "training_frames": len(chunks),
    }


if __name__ == "__main__":
    run_stage("base_policy", main)
