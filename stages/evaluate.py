"""evaluate: a set of policies, from the same initial states of the test set → artifacts/evaluate, success rates."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from world2act.core.params import Evaluate, Params
from world2act.core.params.evaluation import RANDOM
from world2act.core.sharding import Arrays, run_sharded
from world2act.core.stage import ARTIFACTS, METRICS, Metrics
from world2act.core.storage import atomic_directory
from world2act.evaluation.records import describe_protocol, episodes_from_arrays, episodes_to_arrays, write_episodes
from world2act.evaluation.rollout import (
    EpisodeResult,
    InitialState,
    read_initial_states,
    run_wave,
    tasks_of_slots,
    waves,
)
from world2act.evaluation.summary import summarise
from world2act.evaluation.videos import film
from world2act.policies.base import Policy, load_policy
from world2act.policies.random import RandomPolicy
from world2act.policies.robot import RobotDescription
from world2act.sims.checks import check_protocol
from world2act.sims.pool import EnvironmentPool
from world2act.sims.rig import Rig
from world2act.sims.simulator import load_simulator

Wave = dict[int, InitialState]


def plan(params: Params) -> list[tuple[str, Wave]]:
    check_protocol(params.demos, params.evaluate.max_steps)
    for directory in params.evaluate.policies.values():
        RobotDescription.of_simulator(params.demos).check(Path(directory))
    states = read_states()
    planned = waves(states, tasks_of_slots(states, params.evaluate.environments))
    return [(policy, wave) for policy in (*params.evaluate.policies, RANDOM) for wave in planned]


def compute(params: Params, units: Sequence[tuple[str, Wave]]) -> Iterator[Arrays]:
    policies = load_policies(params.evaluate)
    with make_pool(params, tasks_of_slots(read_states(), params.evaluate.environments)) as pool:
        for name, wave in units:
            yield episodes_to_arrays(run_wave(policies[name], pool, wave, params.evaluate.max_steps).values())


def assemble(params: Params, computed: Iterable[Arrays]) -> Metrics:
    states, section, policies = read_states(), params.evaluate, load_policies(params.evaluate)
    by_state: dict[str, dict[InitialState, EpisodeResult]] = {name: {} for name in policies}
    for (name, _), arrays in zip(plan(params), computed, strict=True):
        by_state[name] |= {InitialState(e.task, e.seed): e for e in episodes_from_arrays(arrays)}
    results = {name: [episodes[state] for state in states] for name, episodes in by_state.items()}
    fps = load_simulator(params.demos.simulator).embodiment.control_hz // 2
    with atomic_directory(ARTIFACTS / "evaluate") as directory:
        for name, policy in policies.items():
            protocol = describe_protocol(params, policy, folder_of(section, name))
            write_episodes(directory / "episodes" / name, results[name], protocol)
        with make_pool(params, sorted({state.task for state in states})) as pool:
            for name in section.policies:
                film(
                    directory / "videos",
                    name,
                    results[name],
                    pool,
                    per_task=section.videos_per_task,
                    size=section.video_size,
                    fps=fps,
                )
        summary = summarise(results, section.confidence, incumbent=section.incumbent, candidates=section.candidates)
        summary.write(directory / "summary.json")
        summary.write_table(METRICS / "evaluate/success.csv")
    return summary.metrics() | {"episodes": len(states)}


def read_states() -> list[InitialState]:
    return read_initial_states(ARTIFACTS / "demos/initial_states.parquet", "test")


def folder_of(section: Evaluate, name: str) -> Path | None:
    """The folder of a policy in the evaluation; None for the random one."""
    return None if name == RANDOM else Path(section.policies[name])


def load_policies(section: Evaluate) -> dict[str, Policy]:
    policies: dict[str, Policy] = {name: load_policy(directory) for name, directory in section.policies.items()}
    incumbent = policies[section.incumbent]
    policies[RANDOM] = RandomPolicy(incumbent.chunk_length, incumbent.action_dim)
    return policies


def make_pool(params: Params, slots: Sequence[str]) -> EnvironmentPool:
    return EnvironmentPool(Rig.from_params(params.demos), slots, workers=params.base.workers)


if __name__ == "__main__":
    run_sharded("evaluate", plan, compute, assemble)
