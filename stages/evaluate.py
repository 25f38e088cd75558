"""evaluate: policies on the same test initial states → artifacts/evaluate and its rates (docs/artifacts.md)."""

from world2act.evaluation.records import describe_protocol, summarise, write_episodes, write_success_table
from world2act.evaluation.rollout import read_initial_states, roll_out, tasks_of_slots
from world2act.evaluation.videos import film
from world2act.params import Params
from world2act.policies.base import load_policy
from world2act.policies.random import RandomPolicy
from world2act.sims.base import load_simulator
from world2act.sims.pool import EnvironmentPool
from world2act.stage import ARTIFACTS, METRICS, Metrics, run_stage
from world2act.storage import atomic_directory, write_json

INCUMBENT, CANDIDATE = "base", "post_train"


def main(params: Params) -> Metrics:
    demos, section = params.demos, params.evaluate
    states = read_initial_states(ARTIFACTS / "demos/initial_states.parquet", "test")
    saved = {INCUMBENT: ARTIFACTS / "base_policy", CANDIDATE: ARTIFACTS / "post_train"}
    policies = {name: load_policy(directory) for name, directory in saved.items()}
    policies["random"] = RandomPolicy(policies[INCUMBENT].chunk_length, policies[INCUMBENT].action_dim)
    options = {"camera": demos.camera, "image_size": demos.image_size, "settle_steps": demos.settle_steps}
    slots = tasks_of_slots(states, section.environments)
    with (
        atomic_directory(ARTIFACTS / "evaluate") as directory,
        EnvironmentPool(demos.simulator, slots, workers=params.base.workers, **options) as pool,
    ):
        results = {name: roll_out(policy, pool, states, section.max_steps) for name, policy in policies.items()}
        for name, policy in policies.items():
            write_episodes(
                directory / "episodes" / name, results[name], describe_protocol(params, policy, saved.get(name))
            )
        fps = load_simulator(demos.simulator).EMBODIMENT.control_hz // 2
        for name in saved:
            film(
                directory / "videos",
                name,
                results[name],
                pool,
                per_task=section.videos_per_task,
                size=section.video_size,
                fps=fps,
            )
        summary = summarise(results, section.confidence, incumbent=INCUMBENT, candidate=CANDIDATE)
        write_json(directory / "summary.json", summary)
        write_success_table(METRICS / "evaluate/success.csv", summary)
    difference = summary["difference"]["pooled"]
    return {
        **{f"success_{name}": figures["pooled"]["rate"] for name, figures in summary["policies"].items()},
        **{f"difference_{key}": difference[key] for key in ("low", "high")},
        "difference": difference["difference"],
        "promote": summary["promotion"]["promote"],
        "episodes": len(states),
        "errors": sum(figures["errors"] for figures in summary["policies"].values()),
    }


if __name__ == "__main__":
    run_stage("evaluate", main)
