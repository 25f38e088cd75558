"""Long stages in shards: units of work computed in any number of processes, then put together by the stage.

A unit is what its stage computes in one go (a batch, a wave of episodes), so that its bytes depend neither on how
many shards there are nor on which process computed it. In: what the stage reads. Out: the arrays of each unit in
runs/<stage>/shards/<identity>/<unit>.safetensors, until the stage has written its artifact. The folder of the
pipeline is the only thing that the processes share: on several machines, a network volume.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.identity import stage_identity
from world2act.core.local_files import check_local_files
from world2act.core.messages import one_message
from world2act.core.params import Params, load_params
from world2act.core.stage import RUNS, Metrics, run_stage
from world2act.core.storage import read_tensors, write_tensors

Arrays = dict[str, np.ndarray]


def run_sharded(
    name: str,
    plan: Callable[[Params], Sequence[Any]],
    compute: Callable[[Params, Sequence[Any]], Iterator[Arrays]],
    assemble: Callable[[Params, Iterable[Arrays]], Metrics],
) -> None:
    """Run a stage, or with `--shard K/N` on the command line only the K-th of N shares of its units.

    Units that have a result are not computed again, so a stage continues where it, or a shard, was killed.

    Args:
        plan: the units, in order; the same inputs give the same units.
        compute: the arrays of each of the units it is given, one after the other.
        assemble: writes the artifact from the arrays of all units, in the order of the plan.
    """

    def share(params: Params, first: int, count: int) -> str:
        units = plan(params)
        chosen = dict(list(zip(_unit_files(name, len(units)), units, strict=True))[first::count])
        computed = _compute_missing(chosen, lambda missing: compute(params, missing))
        return f"computed {computed} of {len(chosen)} units, the others were there"

    def body(params: Params) -> Metrics:
        units = plan(params)
        files = _unit_files(name, len(units))
        _compute_missing(dict(zip(files, units, strict=True)), lambda missing: compute(params, missing))
        metrics = assemble(params, map(read_tensors, files))
        shutil.rmtree(RUNS / name / "shards", ignore_errors=True)  # at worst they wait for the next run to delete them
        return metrics

    run_shares(name, share, body)


def run_shares(name: str, share: Callable[[Params, int, int], str], body: Callable[[Params], Metrics]) -> None:
    """Run a stage, or with `--shard K/N` on the command line only the K-th of N shares of its work.

    Args:
        share: does share `first` of `count`, and says in words what it did.
        body: does what is left, and writes the artifact.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}")
    parser.add_argument("--shard", metavar="K/N", help="compute only the K-th of N shares of the stage's work")
    shard = parser.parse_args().shard
    if shard is None:
        run_stage(name, body)
        return
    with one_message(name):
        first, count = parse_shard(shard)
        params = load_params()
        check_local_files(name, params)
        print(f"{name}: shard {shard}: {share(params, first, count)}", flush=True)


def parse_shard(text: str) -> tuple[int, int]:
    """`K/N` as (K - 1, N). Raises `BadInput` where it is none."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or int(match[1]) > int(match[2]):
        raise BadInput("the command line", "--shard", repr(text), "K/N with 1 <= K <= N", "for instance --shard 2/8")
    return int(match[1]) - 1, int(match[2])


def shard_identity(name: str) -> str:
    """What the units' bytes depend on: the stage's identity, and torch's number of threads, which decides the order of
    its sums."""
    import torch

    return stage_identity(name, torch.get_num_threads())


def _unit_files(name: str, count: int) -> list[Path]:
    folder = RUNS / name / "shards" / shard_identity(name)
    return [folder / f"{unit:06}.safetensors" for unit in range(count)]


def _compute_missing(units: dict[Path, Any], compute: Callable[[list[Any]], Iterator[Arrays]]) -> int:
    missing = {path: unit for path, unit in units.items() if not path.exists()}
    if missing:
        for path, arrays in zip(missing, compute(list(missing.values())), strict=True):
            write_tensors(path, arrays)
    return len(missing)
