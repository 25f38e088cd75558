"""Training the world model: our step from cached latents against a plain diffusers fine-tuning loop, by turns.

    python -m benchmarks.world_model_training [ROOT] [--steps 6] [--warmup 2] [--repeats 3]

ROOT is the folder of a finished run of this pipeline (params.yaml, artifacts/); it is only read. One process and one
thread; the figure is samples a second of processor time, which other work on the machine does not touch. Every side
trains the same transformer from the same weights on the same clips, with the same AdamW and the same clipping:

    ours   `world2act.training.loop.train` as it stands: DeepSpeed, moving average, curves, clips from the cache
    bare   the same batches and loss in a loop of five lines, without DeepSpeed, average or curves
    plain  what diffusers' training examples do: frames through the VAE and prompts through T5 at every step, then
           the same five lines; frames are decoded pictures in memory, no average is kept
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
from world2act.training.objective import Place
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
    """As many steps were taken as are measured; the whole training would take many more."""


class Clock:
    """Processor time at the beginning of every step and at the end of the last."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def tick(self) -> None:
        self._times.append(time.process_time())

    def seconds_after(self, steps: int) -> float:
        return self._times[-1] - self._times[steps]


@contextmanager
def scratch() -> Iterator[None]:
    """A working directory for checkpoints and curves, beside a link to the DeepSpeed configurations."""
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
        self._params, self._own = params, params.world_model
        self._cache: LatentCache = open_latents(artifacts / "latents")
        self.clips: list[Clip] = usable_clips(self._cache, "train", self._own.max_latents).clips
        self._space = LatentSpace.of(describe(self._own, self._cache, self.clips))
        self._tokenizer = load_tokenizer(artifacts / "tokenizer")
        self._text = load_text_encoder(artifacts / "tokenizer", params.tokenizer.text_length)
        demos = EpisodeDataset.open(artifacts / "demos" / "video_only")
        with tempfile.TemporaryDirectory() as folder:
            frames = FrameCache.open_tiled(demos, Path(folder))
            self._frames = {clip.episode_index: np.array(frames.episode(clip.episode_index)) for clip in self.clips}

    def network(self) -> nn.Module:
        own, (channels, *_) = self._own, self._cache.latent_shape
        return build_transformer(own, channels, self._cache.prompt_embeds.shape[2], 0)

    def objective(self) -> DenoisingObjective:
        own = self._own
        return DenoisingObjective(
            self.network(),
            self._cache,
            self.clips,
            self._space,
            conditioning_latents=own.conditioning_latents,
            text_dropout=own.text_dropout,
            high_sigma_share=own.high_sigma_share,
            seed=0,
        )

    def ours(self, clock: Clock, steps: int) -> None:
        objective = self.objective()
        draw = objective.batch

        def batch(place: Place) -> Batch:
            clock.tick()
            if place.step == steps:
                raise Enough
            return draw(place)

        objective.batch = batch  # type: ignore[method-assign]
        with suppress(Enough):
            train(objective, self._own.training, name="benchmark", base=self._params.base, identity="benchmark")

    def bare(self, clock: Clock, steps: int) -> None:
        objective = self.objective()
        self._loop(objective, objective.batch, clock, steps)

    def plain(self, clock: Clock, steps: int) -> None:
        objective = self.objective()

        def batch(place: Place) -> Batch:
            drawn = objective.batch(place)  # for the same noise; what it reads of the cache is not used
            clips = [self.clips[index] for index in objective.choose(place)]
            frames = np.stack([self._frames[clip.episode_index][clip.start : clip.end + 1] for clip in clips])
            latents = self._tokenizer.encode(frames).transpose(1, 2)
            embeds = self._text.embed([clip.prompt for clip in clips])
            return Batch(self._space.to_network(latents), drawn.noise, drawn.sigma, drawn.mask, embeds)

        self._loop(objective, batch, clock, steps)

    def _loop(self, objective: DenoisingObjective, batch: Callable[[Place], Batch], clock: Clock, steps: int) -> None:
        own, network = self._own.training, objective.model
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=own.learning_rate, betas=own.betas, weight_decay=own.weight_decay
        )
        for step in range(steps):
            clock.tick()
            place = Place.of(self._params.base.seed, step, own.batch_size)
            loss: Tensor = objective.loss(network, batch(place), place)[0]
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), own.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        clock.tick()


if __name__ == "__main__":
    main()
