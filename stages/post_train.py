"""post_train: the base policy and the method's inputs → artifacts/post_train, a better policy (docs/artifacts.md)."""

from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.core.storage import atomic_directory
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.card import Card, write_card
from world2act.policies.dataset import describe_robot
from world2act.policies.lerobot import write_lerobot
from world2act.policies.robot import RobotDescription
from world2act.post_training.contract import load_method
from world2act.post_training.description import describe_method
from world2act.post_training.history import write_history
from world2act.training.loop import train
from world2act.training.ranks import initialise


def main(params: Params) -> Metrics:
    section = params.post_train
    method, description = load_method(section.method), describe_method(section.method)
    initialise()
    RobotDescription.of_simulator(params.demos).check(ARTIFACTS / "base_policy")
    with method.make_objective(params, ARTIFACTS) as objective:
        trained = train(objective, section.training, name="post_train", base=params.base)
    if not is_main():
        return {}
    with atomic_directory(ARTIFACTS / "post_train") as directory:
        objective.save_policy(directory, trained.ema)
        describe_robot(EpisodeDataset.open(ARTIFACTS / "demos/labelled")).write(directory)
        metrics = write_history(directory / "history.parquet", description.HISTORY)
        write_lerobot(directory)
        card = Card(description.SUMMARY, section.settings(), description.READS, metrics)
        write_card(directory, params, card)
    return metrics


if __name__ == "__main__":
    run_stage("post_train", main)
