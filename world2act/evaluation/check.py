"""A policy and uniform random actions from a few post-training initial states → check.parquet, success rates."""

from __future__ import annotations

from pathlib import Path

from world2act.core.errors import InfrastructureError
from world2act.core.params import Params
from world2act.core.tables import write_rows
from world2act.evaluation.rollout import EpisodeResult, read_initial_states, roll_out, tasks_of_slots
from world2act.evaluation.rows import CheckRow
from world2act.policies.base import Policy
from world2act.policies.random import RandomPolicy
from world2act.sims.pool import EnvironmentPool
from world2act.sims.rig import Rig

_SLOTS_PER_TASK = 2


def check_against_random(policy: Policy, initial_states: Path, params: Params, table: Path) -> dict[str, float | int]:
    """Run both policies from the same post-training initial states, and write `table`.

    Returns:
        success rates over the episodes without an infrastructure error, and the number of such errors.

    Raises:
        InfrastructureError: every episode of a policy ended in one.
    """
    demos = params.demos
    states = read_initial_states(initial_states, "post_training", params.base_policy.check_episodes_per_task)
    policies: dict[str, Policy] = {"base": policy, "random": RandomPolicy(policy.chunk_length, policy.action_dim)}
    slots = tasks_of_slots(states, _SLOTS_PER_TASK * len(demos.tasks))
    with EnvironmentPool(Rig.from_params(demos), slots, workers=params.base.workers) as pool:
        results = {name: roll_out(acting, pool, states, demos.max_steps) for name, acting in policies.items()}
    rows = [
        CheckRow(name, episode.task, episode.seed, episode.success, episode.steps, episode.error)
        for name, episodes in results.items()
        for episode in episodes
    ]
    write_rows(table, CheckRow, rows)
    rates = {f"success_{name}": success_rate(episodes) for name, episodes in results.items()}
    return {**rates, "episodes": len(states), "errors": sum(bool(row.error) for row in rows)}


def success_rate(results: list[EpisodeResult]) -> float:
    """The share of successes among the episodes without an infrastructure error.

    Raises:
        InfrastructureError: there is no such episode.
    """
    counted = [result.success for result in results if result.success is not None]
    if not counted:
        raise InfrastructureError(f"every episode failed in the simulator, the first with:\n{results[0].error}")
    return sum(counted) / len(counted)
