"""`--dry-run`: build what a training stage trains, take no step, write nothing, and print what it would take.

In: an `Objective` and its `Training`, on the ranks of the run. Out: text on rank 0's standard output.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import psutil
import torch
from torch import nn

from world2act.core.errors import BadInput
from world2act.core.params import Training
from world2act.core.stage import is_dry_run, is_main
from world2act.training.engine import build_engine, micro_batch, read_configuration
from world2act.training.full_state import begin_optimizer
from world2act.training.objective import BatchPosition, Objective
from world2act.training.optimizer import moments
from world2act.training.ranks import gather_rows

_FLOAT32 = 4
_SHOWN_STEPS = 2


@runtime_checkable
class Reads(Protocol):
    """An objective that can say which samples a batch holds without drawing it."""

    def reading(self, position: BatchPosition) -> list[tuple[str, int]]:
        """Name and bytes of what is read for each sample."""


Network = TypeVar("Network", bound=nn.Module)


def build_or_outline(build: Callable[[], Network], outline: Callable[[], Network], training: Training) -> Network:
    """The result of `build`; in a dry run on a machine whose memory cannot hold it, its outline: shapes without values.

    Args:
        outline: builds the same on the meta device, without reading weights.

    Raises:
        BadInput: as `build` and `outline` do.
    """
    if not is_dry_run():
        return build()
    with torch.device("meta"):
        shapes = outline()
    ranks = int(os.environ["WORLD_SIZE"])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    needed = here * sum(memory(shapes, training, ranks).values())
    return build() if needed < _free() else shapes


def must_train(tuning: str, key: str) -> None:
    """Raises `BadInput` in a dry run of what is not to be trained; `key` is where params.yaml says so."""
    if is_dry_run() and tuning == "none":
        raise BadInput("params.yaml", key, "none", "what to train", "there is nothing to train: run the stage itself")


def memory(model: nn.Module, training: Training, ranks: int) -> dict[str, int]:
    """Bytes of the model that a rank holds between two steps, by kind.

    Trained weights are float32: `torch_autocast` computes in bfloat16 but keeps float32. Frozen weights keep
    their type. DeepSpeed's own estimates (`estimate_zero2_model_states_mem_needs`) assume 16-bit weights and gradients.
    """
    weights = sum(_numel(weight) * weight.element_size() for weight in model.parameters())
    trained = sum(_numel(weight) for weight in model.parameters() if weight.requires_grad)
    stage = read_configuration(training).get("zero_optimization", {}).get("stage", 0)
    share = -(-trained // ranks)
    return {
        "weights": weights if stage < 3 else -(-weights // ranks),
        "gradients": _FLOAT32 * (trained if stage < 2 else share),
        "float32 copy that is stepped": _FLOAT32 * (share if stage else 0),
        "optimiser, average included": _FLOAT32 * len(moments(training.ema_decay)) * (share if stage else trained),
    }


def report(
    objective: Objective[Any], training: Training, *, name: str, seed: int, rank: int, ranks: int, first: int
) -> None:
    """Print parameters, memory, batch and what each rank would read. Every rank must call it.

    Args:
        first: the step from which the run would continue.
    """
    model, config = objective.model, read_configuration(training)
    size, zero = micro_batch(training, ranks), config.get("zero_optimization", {})
    outlined = any(weight.is_meta for weight in model.parameters())
    lines = [f"{name}: dry run, no step is taken and nothing is written", *_parameters(model), ""]
    lines += _batch(training, size, ranks, first)
    lines += ["", *_memory(model, training, ranks, zero)]
    if outlined:
        lines.append("built: the outline of the network alone (meta device), no weights were read and no engine built:")
        lines.append(f"       this machine has {_amount(_free())} to spare")
    else:
        engine, optimizer = build_engine(model, training, ranks)
        begin_optimizer(engine, optimizer, first)
        held = psutil.Process().memory_info().rss
        lines.append(f"built: network, optimiser and DeepSpeed engine; this process holds {_amount(held)} in all")
    rows = gather_rows(_reads(objective, training, seed, rank, ranks, first))
    lines += ["", *_reading(rows)]
    if is_main():
        print("\n".join(lines), flush=True)


def _parameters(model: nn.Module) -> list[str]:
    parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, weight in model.named_parameters():
        for part in ("", name.split(".")[0]):
            parts[part][0] += _numel(weight)
            parts[part][1] += _numel(weight) if weight.requires_grad else 0
    total, trained = parts.pop("")
    lines = [f"parameters: {total:,}, of which {trained:,} are trained ({trained / total:.2%})"]
    return lines + [f"  {part}: {count:,}, trained {own:,}" for part, (count, own) in parts.items()]


def _batch(training: Training, size: int, ranks: int, first: int) -> list[str]:
    left = training.steps - first
    return [
        f"batch: {ranks} ranks x {size} samples x {training.accumulation} micro-batches = {training.batch_size}",
        f"steps: {training.steps}, {first} of them done; {left * training.batch_size:,} samples left",
    ]


def _memory(model: nn.Module, training: Training, ranks: int, zero: Mapping[str, Any]) -> list[str]:
    needed = memory(model, training, ranks)
    offloaded = [what.split("_")[1] for what in ("offload_optimizer", "offload_param") if what in zero]
    where = f", {' and '.join(offloaded)} in the host's memory" if offloaded else ""
    lines = [f"memory of a rank at ZeRO {zero.get('stage', 0)}{where}, at {training.deepspeed}:"]
    lines += [f"  {what}: {_amount(count)}" for what, count in needed.items()]
    return [
        *lines,
        f"  in all: {_amount(sum(needed.values()))}; activations are not counted, because they depend on the batch",
    ]


def _reads(
    objective: Objective[Any], training: Training, seed: int, rank: int, ranks: int, first: int
) -> list[dict[str, Any]]:
    if not isinstance(objective, Reads):
        return []
    rows = []
    for step in range(first, min(first + _SHOWN_STEPS, training.steps)):
        for part in range(training.accumulation):
            position = BatchPosition.of(
                seed, step, training.batch_size, rank=rank, ranks=ranks, part=part, parts=training.accumulation
            )
            names, sizes = zip(*objective.reading(position), strict=True)
            rows.append({"step": step, "rank": rank, "part": part, "names": list(names), "bytes": sum(sizes)})
    return rows


def _reading(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["reading: this objective draws its batches from memory, or acts them"]
    lines = ["reading, from the disk:"]
    for row in sorted(rows, key=lambda row: (row["step"], row["rank"], row["part"])):
        where = f"step {row['step']}, rank {row['rank']}, micro-batch {row['part']}"
        lines.append(f"  {where}: {len(row['names'])} clips, {_amount(row['bytes'])}: {', '.join(row['names'])}")
    return lines


def _free() -> int:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def _numel(weight: nn.Parameter) -> int:
    return getattr(weight, "ds_numel", weight.numel())


def _amount(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
