"""Training the world model: our steps from cached latents and a plain diffusers fine-tuning loop, in alternation.

    python -m benchmarks.world_model_training [ROOT] [--steps 6] [--warmup 2] [--repeats 3]

ROOT is the folder of a finished run of this pipeline (params.yaml, artifacts/), which is only read. There is one
process with one thread; the figure is samples per second of CPU time, which other work on the machine does not affect.
All sides train the same transformer from the same weights on the same clips, with the same AdamW and the same clipping:

    ours   `world2act.training.loop.train`: DeepSpeed, moving average, curves, clips from the cache
    bare   the same batches and loss in a loop of five lines, without DeepSpeed, average or curves
    plain  like diffusers' training examples: frames through the VAE and prompts through T5 at every step, then the
           same five lines; frames are decoded pictures in memory, and no average is kept
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import by_turns, describe_machine, ratio, spread
from world2act.core.params import Params, load_params
from world2act.data.frame_cache import FrameCache
from world2act.data.latent_cache import Clip, LatentCache, open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.training.loop import train
from world2act.training.objective import BatchPosition
from world2act.world_model.learning.loss import Batch, DenoisingObjective
from world2act.world_model.learning.preparation import describe
from world2act.world_model.parts.clips import usable_clips
from world2act.world_model.parts.conditioning import LatentSpace
from world2act.world_model.parts.text import load_text_encoder
from world2act.world_model.parts.tokenizer import load_tokenizer
from world2act.world_model.parts.transformer import build_transformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=Path())
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root, steps = arguments.root.resolve(), arguments.warmup + arguments.steps
    params = load_params(root / "params.yaml")
    subject = Subject(params, root / "artifacts")
    batch_size = params.world_model.training.batch_size

    def timed(run: Callable[[Clock, int], object]) -> float:
        clock = Clock()
        with scratch():
            run(clock, steps)
        return batch_size * arguments.steps / clock.seconds_after(arguments.warmup)

    sides = {"ours": subject.ours, "bare": subject.bare, "plain": subject.plain}
    rates = by_turns({name: lambda run=run: timed(run) for name, run in sides.items()}, arguments.repeats)
    print(f"machine: {describe_machine('torch', 'diffusers', 'deepspeed')}; one thread")
    parameters = sum(weight.numel() for weight in subject.network().parameters())
    clips = sum(clip.latents for clip in subject.clips) / len(subject.clips)
    print(f"model: {parameters:,} parameters; batches of {batch_size} clips, {clips:.1f} latents each on average")
    for name, values in rates.items():
        print(f"{name}: {spread(values)} samples/s")
    print(f"ours is {ratio(rates['ours'], rates['plain'])} times as fast as the plain loop")
    print(f"the cache alone makes the bare loop {ratio(rates['bare'], rates['plain'])} times as fast")
    print(f"DeepSpeed, average and curves leave {ratio(rates['ours'], rates['bare'])} of the bare loop")


class Enough(Exception):
    """The steps to measure have been taken; the whole training would take many more."""


class Clock:
    """CPU time at the beginning of every step and at the end of the last one."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def tick(self) -> None:
        self._times.append(time.process_time())

    def seconds_after(self, steps: int) -> float:
        return self._times[-1] - self._times[steps]


@contextmanager
def scratch() -> Iterator[None]:
    """A working directory for checkpoints and curves, with a link to the DeepSpeed configurations."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "infra").symlink_to(Path(__file__).parents[1] / "infra")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


class Subject:
    """What is trained, and the three ways to do it."""

    def __init__(self, params: Params, artifacts: Path) -> None:
        self._params, self._section = params, params.world_model
        self._cache: LatentCache = open_latents(artifacts / "latents")
        self.clips: list[Clip] = usable_clips(self._cache, "train", self._section.max_latents).clips
        self._space = LatentSpace.of(describe(self._section, self._cache, self.clips))
        self._tokenizer = load_tokenizer(artifacts / "tokenizer")
        self._text = load_text_encoder(artifacts / "tokenizer", params.tokenizer.text_length)
        demos = EpisodeDataset.open(artifacts / "demos" / "video_only")
        with tempfile.TemporaryDirectory() as folder:
            frames = FrameCache.open_tiled(demos, Path(folder))
            self._frames = {clip.episode_index: np.array(frames.episode(clip.episode_index)) for clip in self.clips}

    def network(self) -> nn.Module:
        channels = self._cache.latent_shape[0]
        return build_transformer(self._section, channels, self._cache.prompt_embeds.shape[2], 0)

    def objective(self) -> DenoisingObjective:
        section = self._section
        return DenoisingObjective(
            self.network(),
            self._cache,
            self.clips,
            self._space,
            conditioning_latents=section.conditioning_latents,
            text_dropout=section.text_dropout,
            high_sigma_share=section.high_sigma_share,
            seed=0,
        )

    def ours(self, clock: Clock, steps: int) -> None:
        objective = self.objective()
        draw = objective.batch

        def batch(position: BatchPosition) -> Batch:
            clock.tick()
            if position.step == steps:
                raise Enough
            return draw(position)

        objective.batch = batch  # type: ignore[method-assign]  # to count the steps
        with suppress(Enough):
            train(objective, self._section.training, name="benchmark", base=self._params.base, identity="benchmark")

    def bare(self, clock: Clock, steps: int) -> None:
        objective = self.objective()
        self._loop(objective, objective.batch, clock, steps)

    def plain(self, clock: Clock, steps: int) -> None:
        objective = self.objective()

        def batch(position: BatchPosition) -> Batch:
            drawn = objective.batch(position)  # for the same noise; the latents that it reads are not used
            clips = [self.clips[index] for index in objective.choose(position)]
            frames = np.stack([self._frames[clip.episode_index][clip.start : clip.end + 1] for clip in clips])
            latents = self._tokenizer.encode(frames).transpose(1, 2)
            embeds = self._text.embed([clip.prompt for clip in clips])
            return Batch(self._space.to_network(latents), drawn.noise, drawn.sigma, drawn.mask, embeds)

        self._loop(objective, batch, clock, steps)

    def _loop(
        self, objective: DenoisingObjective, batch: Callable[[BatchPosition], Batch], clock: Clock, steps: int
    ) -> None:
        training, network = self._section.training, objective.model
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, betas=training.betas, weight_decay=training.weight_decay
        )
        for step in range(steps):
            clock.tick()
            position = BatchPosition.of(self._params.base.seed, step, training.batch_size)
            loss: Tensor = objective.loss(network, batch(position), position)[0]
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        clock.tick()


if __name__ == "__main__":
    main()
