"""post_train: artifacts/{demos,rollouts,bridge,base_policy} → artifacts/post_train, the residual policy of stage 2."""

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.seeds import derive
from world2act.core.stage import ARTIFACTS, Metrics, is_main, run_stage
from world2act.core.storage import atomic_directory, sha256


def main(params: Params) -> Metrics:
    # simulator processes import this module once more: the heavy libraries stay inside
    import numpy as np
    import torch

    from world2act.bridge.adapters import Bridge
    from world2act.data.lerobot_v3 import EpisodeDataset
    from world2act.policies.base import load_policy
    from world2act.policies.card import write_card
    from world2act.policies.dataset import describe_robot
    from world2act.policies.lerobot import write_lerobot
    from world2act.policies.residual import ResidualPolicy
    from world2act.policies.residual.history import write_history
    from world2act.policies.residual.model import ResidualModel
    from world2act.policies.residual.objective import PostTrainObjective
    from world2act.policies.residual.targets import read_targets
    from world2act.policies.robot import RobotDescription
    from world2act.sims.pool import EnvironmentPool
    from world2act.training.loop import train
    from world2act.training.ranks import initialise

    settings, demos, training = params.post_train, params.demos, params.post_train.training
    rank, ranks = initialise()
    if training.checkpoint_every % settings.updates_per_rollout:
        raise BadInput(
            "params.yaml",
            "post_train.training.checkpoint_every",
            training.checkpoint_every,
            f"a multiple of updates_per_rollout, {settings.updates_per_rollout}",
            "a run continues only where a rollout begins",
        )
    if training.accumulation > 1:
        found, remedy = training.accumulation, "lower batch_size, or raise base.ranks"
        raise BadInput("params.yaml", "post_train.training.accumulation", found, "1: a rollout is acted whole", remedy)
    RobotDescription.of_simulator(demos).check(ARTIFACTS / "base_policy")
    bridge = Bridge.from_pretrained(ARTIFACTS / "bridge")
    imagined = read_targets(ARTIFACTS / "rollouts", bridge, settings.max_chunks)
    labelled = EpisodeDataset.open(ARTIFACTS / "demos/labelled")
    proprio = np.concatenate(
        [labelled.columns(i, ["observation.state"])["observation.state"] for i in labelled.splits["train"]]
    )
    seed = derive(params.base.seed, "post_train")
    torch.manual_seed(derive(seed, "residual"))
    model = ResidualModel(
        bridge, proprio_dim=proprio.shape[1], image_size=demos.image_size, layers=settings.layers, heads=settings.heads
    )
    policy = ResidualPolicy(
        load_policy(ARTIFACTS / "base_policy"),
        model,
        demos.cameras[0].name,
        torch.from_numpy(proprio.mean(0)),
        torch.from_numpy(proprio.std(0)),
    )
    slots = [demos.tasks[i % len(demos.tasks)] for i in range(training.batch_size)]
    own = np.array_split(slots, ranks)[rank].tolist()
    with EnvironmentPool(
        demos.simulator,
        own,
        workers=max(1, params.base.workers // ranks),
        cameras=demos.cameras,
        image_size=demos.image_size,
        settle_steps=demos.settle_steps,
    ) as pool:
        objective = PostTrainObjective(
            policy,
            pool,
            slots,
            imagined,
            temperature=settings.temperature,
            hard_ratio=settings.hard_ratio,
            updates_per_rollout=settings.updates_per_rollout,
            seed=seed,
        )
        inputs = "".join(sha256(ARTIFACTS / name) for name in ("rollouts", "bridge", "base_policy"))
        trained = train(objective, training, name="post_train", base=params.base, inputs=inputs)
    if not is_main():
        return {}
    model.load_state_dict(trained.ema)
    with atomic_directory(ARTIFACTS / "post_train") as directory:
        policy.save_pretrained(directory, ARTIFACTS / "base_policy")
        describe_robot(labelled).write(directory)
        metrics = write_history(directory / "history.parquet")
        write_lerobot(directory)
        write_card(directory, params, ["demos", "rollouts", "bridge", "base_policy"], metrics)
    return metrics


if __name__ == "__main__":
    run_stage("post_train", main)
