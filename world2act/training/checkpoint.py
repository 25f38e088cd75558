"""Checkpoints of a training run, runs/<stage>/<identity>/<step>: complete or absent, and usable by any number of ranks.

part-00000.safetensors ...  a share of the trained weights and of their optimiser moments, unpartitioned and in float32;
                            each rank writes one share
meta.json                   the number of steps done and the number of parts

A checkpoint does not depend on the number of ranks or the ZeRO stage that wrote it. Parts are written into a folder
with a temporary name, which is renamed when they are complete. Frozen weights are not included: they are an input.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import deepspeed
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed, nn

from world2act.core.errors import BadInput
from world2act.core.stage import is_main
from world2act.core.storage import read_json, write_json, write_tensors
from world2act.training.full_state import full_moment, full_weight, persistent_buffers, set_moment, trainable
from world2act.training.optimizer import AveragingAdamW

_WEIGHT, _BUFFER = "weight", "buffer"


def save(engine: deepspeed.DeepSpeedEngine, optimizer: AveragingAdamW, run: Path, step: int) -> None:
    """Write the checkpoint of `step` into `run`, then delete the previous one. Every rank must call it."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    folder = run / f".writing-{step}"
    if is_main():
        for leftover in run.glob(".writing-*"):
            shutil.rmtree(leftover)
        folder.mkdir(parents=True)
    distributed.barrier()
    parameters = trainable(engine.module)
    owners = _share(parameters, ranks)
    mine: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        parts = {_WEIGHT: full_weight(engine, parameter)}
        parts |= {moment: full_moment(engine, parameter, moment) for moment in optimizer.moments}
        if owners[name] == rank:
            mine |= {f"{part}/{name}": value.detach().cpu() for part, value in parts.items()}
    if is_main():
        mine |= {f"{_BUFFER}/{name}": value.cpu() for name, value in persistent_buffers(engine.module).items()}
    write_tensors(folder / f"part-{rank:05d}.safetensors", {key: value.numpy() for key, value in mine.items()})
    distributed.barrier()
    if is_main():
        write_json(folder / "meta.json", {"step": step, "parts": ranks})
        folder.rename(run / str(step))
        for older in _steps(run)[:-1]:
            shutil.rmtree(run / str(older))
    distributed.barrier()


def newest(run: Path) -> int:
    """The steps of the newest checkpoint in `run`, 0 where there is none."""
    return max(_steps(run), default=0)


def load_weights(model: nn.Module, run: Path, step: int) -> None:
    """Set the trained weights and the buffers of a model before an engine is built for it.

    Raises:
        BadInput: a part is missing or damaged.
    """
    with _Reader(run / str(step)) as reader, torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(reader.read(f"{_WEIGHT}/{name}"))
        for name, buffer in persistent_buffers(model).items():
            buffer.copy_(reader.read(f"{_BUFFER}/{name}"))


def load_moments(engine: deepspeed.DeepSpeedEngine, optimizer: AveragingAdamW, run: Path, step: int) -> None:
    """Set the optimiser's moments. Every rank must call it. Raises `BadInput` as `load_weights` does."""
    with _Reader(run / str(step)) as reader:
        for name, parameter in trainable(engine.module).items():
            for moment in optimizer.moments:
                set_moment(engine, parameter, moment, reader.read(f"{moment}/{name}").to(engine.device))


class _Reader:
    """The tensors of a checkpoint's parts, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, ExitStack()

    def __enter__(self) -> _Reader:
        self._of: dict[str, safe_open] = {}
        for part in range(read_json(self._folder / "meta.json")["parts"]):
            path = self._folder / f"part-{part:05d}.safetensors"
            try:
                file = self._files.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise self._damaged(path.name, str(error)) from error
            self._of |= dict.fromkeys(file.keys(), file)
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, key: str) -> Tensor:
        if key not in self._of:
            raise self._damaged(key, "nothing")
        return self._of[key].get_tensor(key)

    def _damaged(self, key: str, found: str) -> BadInput:
        return BadInput(self._folder, key, found, "a whole checkpoint", "delete the folder: the run starts again")


def _steps(run: Path) -> list[int]:
    return sorted(int(folder.name) for folder in run.glob("*") if folder.name.isdigit())


def _share(parameters: dict[str, nn.Parameter], ranks: int) -> dict[str, int]:
    """Which rank writes which parameter: shares of about the same size."""
    loads, owners = [0] * ranks, {}
    for name, parameter in parameters.items():
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += getattr(parameter, "ds_numel", parameter.numel())
    return owners
