"""Stage 2: the residual policy acts in the real simulator, and its actions are drawn towards what was imagined.

Reward-free: nothing here reads whether a task succeeded, and no gradient passes through the simulator.
Source: World2Act (arXiv 2603.10422) §3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from world2act.bridge.contrast import Negatives, info_nce, similarity
from world2act.core.errors import BadInput
from world2act.core.seeds import derive
from world2act.post_training.residual.policy import ResidualPolicy
from world2act.sims.pool import EnvironmentPool
from world2act.training.objective import BatchPosition
from world2act.training.ranks import gather


@dataclass(frozen=True)
class Imagined:
    """One initial state and the video tokens of what the world model imagined from it.

    Attributes:
        tokens: float32 (T, D): B_v of the imagined latents of all skills, conditioning latents left out, so that
            token c represents the consequence of the policy's chunk c.
    """

    task: str
    seed: int
    tokens: Tensor


@dataclass(frozen=True)
class Rollouts:
    """E episodes of T chunks, padded; chunk c of row e is real while c < lengths[e]."""

    base_actions: Tensor  # float32 (E, T, M, A)
    proprio: Tensor  # float32 (E, T, P), normalised
    image: Tensor  # uint8 (E, T, H, W, 3)
    targets: Tensor  # float32 (E, T, D)
    lengths: Tensor  # int64 (E,)


class ResidualObjective:
    """Bidirectional InfoNCE between imagined video tokens and the tokens of executed chunks.

    Positive: the same environment. Hard negatives: the same task from other initial states.

    Args:
        slots: the task of every environment of all ranks; this rank's pool holds its share, in order.
        base_directory: the saved base policy, which is copied into the post-trained one.
    """

    def __init__(
        self,
        policy: ResidualPolicy,
        pool: EnvironmentPool,
        slots: Sequence[str],
        imagined: Sequence[Imagined],
        *,
        temperature: float,
        hard_ratio: float,
        updates_per_rollout: int,
        seed: int,
        base_directory: Path,
    ) -> None:
        self.model = policy.model
        self._policy, self._pool, self._slots, self._base = policy, pool, list(slots), base_directory
        self._temperature, self._updates, self._seed = temperature, updates_per_rollout, seed
        self._negatives = Negatives(
            self._slots, hard_ratio, len(self._slots) - 1, "params.yaml: post_train.training.batch_size"
        )
        self._states = {task: [state for state in imagined if state.task == task] for task in set(slots)}
        for task, states in self._states.items():
            if len(states) < self._slots.count(task):
                raise BadInput(
                    "artifacts/rollouts/rollouts.parquet",
                    task,
                    f"{len(states)} imagined initial states",
                    f"at least the {self._slots.count(task)} environments of this task",
                    "raise demos.post_training_per_task",
                )
        self._longest = max(len(state.tokens) for state in imagined)
        self._rollouts: Rollouts | None = None

    def batch(self, position: BatchPosition) -> tuple[Rollouts, Tensor, Tensor]:
        """All ranks' rollouts, and this rank's anchors among them with their negatives."""
        if position.step % self._updates == 0:
            self._rollouts = _gather_rollouts(self._collect(position))
        if self._rollouts is None:
            raise RuntimeError("a run can only continue at the start of a rollout: checkpoint_every must be a multiple")
        anchors = torch.arange(position.batch_size) + position.rank * position.batch_size
        return self._rollouts, anchors, self._negatives.draw(anchors, position.generators())

    def loss(
        self, model: nn.Module, batch: tuple[Rollouts, Tensor, Tensor], position: BatchPosition
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        rollouts, anchors, negatives = batch
        real = torch.arange(self._longest, device=position.device) < rollouts.lengths[:, None]
        base_actions = rollouts.base_actions[real]
        residual = model(base_actions, rollouts.proprio[real], rollouts.image[real])
        tokens = self._tokens(base_actions + residual, real)
        rows = anchors.to(position.device), negatives.to(position.device)
        contrastive = info_nce(rollouts.targets, tokens, rollouts.lengths, rollouts.lengths, *rows, self._temperature)
        with torch.no_grad():
            cosine = similarity(rollouts.targets, tokens, rollouts.lengths, rollouts.lengths).mean()
            base_cosine = similarity(
                rollouts.targets, self._tokens(base_actions, real), rollouts.lengths, rollouts.lengths
            ).mean()
        return contrastive, {"cosine": cosine, "cosine_base": base_cosine, "residual": residual.detach().abs().mean()}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """See `world2act.post_training.contract.PostTraining`."""
        self.model.load_state_dict(weights)
        self._policy.save_pretrained(directory, self._base)

    def _tokens(self, actions: Tensor, real: Tensor) -> Tensor:
        # the environment executes clipped actions; the gradient still has to find its way back into the box
        executed = actions + (actions.clamp(-1, 1) - actions).detach()
        bridge = self.model.bridge
        tokens = bridge.action_adapter(bridge.normalise(executed))
        return tokens.new_zeros(*real.shape, tokens.shape[-1]).masked_scatter(real[..., None], tokens)

    def _collect(self, position: BatchPosition) -> Rollouts:
        first = position.rank * position.batch_size
        states = self._choose(position.step // self._updates)[first : first + position.batch_size]
        observations = self._pool.reset({slot: state.seed for slot, state in enumerate(states)})
        base_actions = np.zeros(
            (len(states), self._longest, self._policy.chunk_length, self._policy.action_dim), np.float32
        )
        proprio = torch.zeros(len(states), self._longest, len(observations[0].proprio))
        image = torch.zeros(
            len(states), self._longest, *observations[0].images[self._policy.camera].shape, dtype=torch.uint8
        )
        targets = torch.zeros(len(states), self._longest, states[0].tokens.shape[-1])
        for slot, state in enumerate(states):
            targets[slot, : len(state.tokens)] = state.tokens
        for chunk in range(self._longest):
            active = [slot for slot, state in enumerate(states) if chunk < len(state.tokens)]
            seen = [observations[slot] for slot in active]
            base = self._policy.base_chunks(
                seen, [derive(self._seed, "noise", position.step, states[slot].seed, chunk) for slot in active]
            )
            base_actions[active, chunk] = base
            seen_proprio, seen_image = self._policy.inputs(seen, torch.device("cpu"))
            proprio[active, chunk], image[active, chunk] = seen_proprio, seen_image
            executed = self._policy.correct(seen, base)
            results = self._pool.step(dict(zip(active, executed, strict=True)), stop_at_success=False)
            observations |= {slot: result.observation for slot, result in results.items()}
        lengths = torch.tensor([len(state.tokens) for state in states])
        device = position.device
        return Rollouts(
            torch.from_numpy(base_actions).to(device),
            proprio.to(device),
            image.to(device),
            targets.to(device),
            lengths.to(device),
        )

    def _choose(self, round_: int) -> list[Imagined]:
        """Initial states of all slots in this round: distinct within a task, each used equally often."""
        chosen: dict[str, list[Imagined]] = {}
        for task, states in self._states.items():
            count, first = self._slots.count(task), round_ * self._slots.count(task)
            per_epoch = len(states) // count * count
            epoch, offset = divmod(first, per_epoch)
            order = np.random.default_rng(derive(self._seed, "epoch", epoch, task)).permutation(len(states))
            chosen[task] = [states[i] for i in order[offset : offset + count]]
        return [chosen[task].pop() for task in self._slots]


def _gather_rollouts(local: Rollouts) -> Rollouts:
    return Rollouts(*map(gather, (local.base_actions, local.proprio, local.image, local.targets, local.lengths)))
