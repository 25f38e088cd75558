"""base_policy: labelled demonstrations → artifacts/base_policy, of the family in params.yaml (docs/artifacts.md)."""

from world2act.core.params import Params
from world2act.core.seeds import derive
from world2act.core.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.core.storage import atomic_directory
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.evaluation.check import check_against_random
from world2act.policies.base import family_summary, load_policy
from world2act.policies.card import Card, write_card
from world2act.policies.dataset import describe_robot
from world2act.policies.imitation import make_objective, train_policy
from world2act.policies.lerobot import write_lerobot


def main(params: Params) -> Metrics:
    section, demos = params.base_policy, ARTIFACTS / "demos"
    dataset = EpisodeDataset.open(demos / "labelled")
    objective, chunks = make_objective(section, dataset, derive(params.base.seed, "base_policy"))
    trained = train_policy(section, objective, params.base)
    if not is_main():
        return {}
    with atomic_directory(ARTIFACTS / "base_policy") as directory:
        folders = {directory: trained.ema}
        if section.training.ema_decay:
            folders[directory / "raw"] = trained.weights
        for folder, weights in folders.items():
            folder.mkdir(exist_ok=True)
            objective.save_policy(folder, weights)
            describe_robot(dataset).write(folder)
        metrics = {
            **check_against_random(
                load_policy(directory), demos / "initial_states.parquet", params, directory / "check.parquet"
            ),
            "parameters": sum(value.numel() for value in trained.ema.values()),
            "training_frames": len(chunks),
        }
        write_lerobot(directory)
        summary = family_summary(section.family)
        write_card(directory, params, Card(summary, section.settings(), ["demos"], metrics, objective.reads))
    return metrics


if __name__ == "__main__":
    run_stage("base_policy", main)
