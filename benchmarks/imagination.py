"""Imagination: ours against `diffusers.Cosmos2VideoToWorldPipeline`, in alternation; error by steps; linear cost.

    python -m benchmarks.imagination [--world-model DIR --latents DIR] [--steps 35] [--repeats 3] [--out DIR]

Speed needs no trained weights: both sides have the same random network, VAE and T5, at the default size and at a larger
one, with guidance 7. One thread computes, and its CPU time is measured. Both get a first frame and a prompt. The
pipeline uses its own scheduler and decodes its result; the sides after it show the effect of each difference between it
and ours. A safety checker that does nothing takes the place of the real one, since the constructor refuses None.

Error needs a trained world model and the latents it was trained on. It is the root mean square distance, in normalised
latents, from the result of 256 second-order steps from the same noise, for our two orders and for the pipeline's
scheduler, and is written to DIR/error_by_steps.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import by_turns, describe_machine, ratio, spread
from world2act.core.latent_time import latents_of
from world2act.core.params import Params, Rollouts, Sampler, compose, parse_params
from world2act.data.latent_cache import open_latents
from world2act.world_model.imagining.imagination import imagine_rollouts
from world2act.world_model.imagining.sampler import SIGMA_MAX, SIGMA_MIN, sample, seeded_noise
from world2act.world_model.imagining.world_model import WorldModel, load_world_model, make_world_model
from world2act.world_model.parts.conditioning import conditioning_mask, denoise
from world2act.world_model.parts.text import TextEncoder, make_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, make_vae
from world2act.world_model.parts.transformer import build_transformer

PROMPT = "push the mug under the coffee machine"
SIZES = {
    "default": {"patch_size": 2},  # as in the released network; the pipeline cannot run others
    "larger": {"patch_size": 2, "heads": 8, "head_dim": 32, "layers": 4, "adaln_lora_dim": 64},
}
GUIDANCE, EPISODES, CURVE = 7.0, 8, (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world-model", type=Path, help="artifacts/world_model of a finished run")
    parser.add_argument("--latents", type=Path, help="artifacts/latents of the same run")
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"machine: {describe_machine('torch', 'diffusers')}")
    fewer = None
    if arguments.world_model:
        fewer = measure_error(load_world_model(arguments.world_model), arguments)
    params = parse_params(compose("default"), "conf/profile/default.yaml")
    for name, size in SIZES.items():
        Speed(name, params, size, arguments, fewer).measure()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, whose only thread computes: the load of other processes does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


class NoChecker:
    def to(self, _: object) -> None: ...

    def check_text_safety(self, _: str) -> bool:
        return True

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray:
        return frames


class TwoPasses(nn.Module):
    """A network that processes the clips with and without their prompts in two passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.config = network, network.config

    def forward(self, padding_mask: Tensor, fps: None, return_dict: bool, **inputs: Tensor) -> tuple[Tensor]:
        halves = [
            dict(zip(inputs, part, strict=True)) for part in zip(*(x.chunk(2) for x in inputs.values()), strict=True)
        ]
        shared = {"padding_mask": padding_mask, "fps": fps, "return_dict": return_dict}
        return (torch.cat([self.network(**half, **shared)[0] for half in halves]),)


class Speed:
    """One size of network; the VAE and T5 are those of the default profile."""

    def __init__(
        self, name: str, params: Params, size: dict[str, int], arguments: argparse.Namespace, fewer: int | None
    ) -> None:
        settings = params.world_model.model_copy(update=size | {"weights": None, "parameters": None})
        self.name, self.arguments, self.fewer, self.side = name, arguments, fewer, params.demos.image_size
        self.tokenizer = VideoTokenizer(make_vae(params.tokenizer, 0))
        self.text = make_text_encoder(
            [PROMPT], params.tokenizer.text_dim, params.tokenizer.text_layers, params.tokenizer.text_length, 0
        )
        self.network = build_transformer(
            settings, params.tokenizer.latent_channels, params.tokenizer.text_dim, 0
        ).eval()
        self.latents = latents_of(arguments.frames)
        self.frame = np.random.default_rng(0).integers(0, 256, (self.side, self.side, 3), np.uint8)
        self.prompt, self.nothing = self.text.embed([PROMPT, ""])
        self.pipeline = make_pipeline(self.network, self.tokenizer, self.text)

    def measure(self) -> None:
        count = sum(weight.numel() for weight in self.network.parameters())
        print(
            f"{self.name}: {count / 1e6:.2f} M parameters, {self.arguments.frames} frames of {self.side} pixels, "
            f"guidance {GUIDANCE:g}, {self.arguments.steps} passes"
        )
        steps = self.arguments.steps
        embedded = {"prompt_embeds": self.prompt[None], "negative_prompt_embeds": self.nothing[None]}
        written = {"prompt": PROMPT, "negative_prompt": ""}
        ours, batched = "and text keys and modulations once: ours", f"ours, {EPISODES} episodes per batch"
        sides: dict[str, Callable[[], object]] = {
            "pipeline": lambda: self.theirs(**written),
            "pipeline without decoding": lambda: self.theirs(**written, output_type="latent"),
            "and with embedded prompts": lambda: self.theirs(**embedded, output_type="latent"),
            "ours in two passes, the first frame encoded alone": lambda: self.plain(steps, TwoPasses(self.network)),
            "and both in one pass": lambda: self.plain(steps, self.network),
            ours: lambda: self.ours(1, steps, 1),
            batched: lambda: self.ours(EPISODES, steps, 1),
        }
        against = dict(zip(list(sides)[1:], sides, strict=False))
        if self.fewer:
            name = f"second order, {self.fewer} passes"
            sides[f"ours, {name}"] = lambda: self.ours(1, self.fewer, 2)
            sides[f"{batched}, {name}"] = lambda: self.ours(EPISODES, self.fewer, 2)
            against |= {f"ours, {name}": ours, f"{batched}, {name}": batched}
        for side in sides.values():
            side()
        skills = {name: EPISODES if "episodes" in name else 1 for name in sides}
        cpu_s = by_turns(
            {name: lambda side=side: cpu_seconds(side) for name, side in sides.items()}, self.arguments.repeats
        )
        rates = {name: [60 * skills[name] / value for value in values] for name, values in cpu_s.items()}
        for name, values in rates.items():
            print(f"  {name}: {spread(values, 1)} skills/min")
            if name in against:
                print(f"    {ratio(values, rates['pipeline'])} times the pipeline")
                print(f"    {ratio(values, rates[against[name]])} times {against[name]!r}")
        self.measure_growth()

    def theirs(self, **options: Any) -> object:
        return self.pipeline(
            image=Image.fromarray(self.frame),
            height=self.side,
            width=self.side,
            num_frames=self.arguments.frames,
            num_inference_steps=self.arguments.steps,
            guidance_scale=GUIDANCE,
            fps=24,
            return_dict=False,
            max_sequence_length=self.text.length,
            generator=torch.Generator().manual_seed(0),
            **({"output_type": "np"} | options),
        )

    def plain(self, steps: int, network: nn.Module) -> object:
        conditioning = self.tokenizer.encode(self.frame[None, None]).transpose(1, 2)
        return sample(
            network,
            conditioning,
            self.prompt[None],
            self.nothing[None],
            latents=self.latents,
            seeds=[0],
            sampler=Sampler(steps=steps, order=1, guidance=GUIDANCE),
        )

    def ours(self, episodes: int, steps: int, order: int, skills: int = 1) -> list[list[Tensor]]:
        config = {
            "target": "latent",
            "prediction": "velocity",
            "skill_latents": {PROMPT: self.latents},
            "max_latents": self.latents,
            "conditioning_latents": [1],
        }
        return imagine_rollouts(
            make_world_model(self.network, config),
            self.tokenizer,
            np.broadcast_to(self.frame, (episodes, 1, *self.frame.shape)),
            [[PROMPT] * skills] * episodes,
            {PROMPT: self.prompt, "": self.nothing},
            [[episode] * skills for episode in range(episodes)],
            Rollouts(
                sampler=Sampler(steps=steps, order=order, guidance=GUIDANCE),
                feedback="frame",
                conditioning_frames=1,
                batch_size=EPISODES,
            ),
        )

    def measure_growth(self) -> None:
        """Fit a line to the cost by skills of an episode and by episodes, with few steps."""
        for what, amounts, work in (
            ("skills of one episode", (1, 2, 4, 8), lambda n: self.ours(1, 4, 1, skills=n)),
            ("episodes", (8, 16, 32, 64), lambda n: self.ours(n, 4, 1)),
        ):
            cpu_s = by_turns(
                {str(n): lambda n=n, work=work: cpu_seconds(lambda: work(n)) for n in amounts}, self.arguments.repeats
            )
            times = [statistics.median(cpu_s[str(n)]) for n in amounts]
            slope, start = np.polyfit(amounts, times, 1)
            explained = np.corrcoef(amounts, times)[0, 1] ** 2
            series = ", ".join(f"{n}: {value:.2f}" for n, value in zip(amounts, times, strict=True))
            print(f"  seconds by {what}, 4 passes: {series}; {slope:.3f} for each and {start:.3f}, R2 {explained:.4f}")


def make_pipeline(network: nn.Module, tokenizer: VideoTokenizer, text: TextEncoder) -> Any:
    from diffusers import Cosmos2VideoToWorldPipeline
    from diffusers.video_processor import VideoProcessor

    pipeline = Cosmos2VideoToWorldPipeline(
        text.model, text.tokenizer, network, tokenizer.vae, make_scheduler(), NoChecker()
    )
    # the pipeline derives the spatial scale from the temporal one, which is right only for a VAE without patches
    pipeline.vae_scale_factor_spatial = tokenizer.downscale
    pipeline.video_processor = VideoProcessor(vae_scale_factor=tokenizer.downscale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


def measure_error(world_model: WorldModel, arguments: argparse.Namespace, clips: int = 16) -> int:
    """Print and write the error by passes.

    Returns:
        the fewest second-order passes whose error is no larger than that of the pipeline's scheduler at `steps`.
    """
    cache = open_latents(arguments.latents)
    chosen = [clip for clip in cache.select("video_only", "heldout") if clip.latents >= 3][:clips]
    length = min(clip.latents for clip in chosen)
    conditioning = torch.from_numpy(np.stack([cache.latents(clip)[:1] for clip in chosen]))
    prompts = torch.from_numpy(np.stack([cache.prompt_embeds[clip.prompt_row] for clip in chosen]))
    nothing, seeds = torch.from_numpy(np.array(cache.prompt_embeds[cache.no_prompt])), list(range(len(chosen)))

    def ours(steps: int, order: int) -> Tensor:
        sampler = Sampler(steps=steps, order=order, guidance=0.0)
        return world_model.imagine(conditioning, prompts, nothing, latents=length, seeds=seeds, sampler=sampler)

    def theirs(steps: int) -> Tensor:
        return by_their_scheduler(world_model, conditioning, prompts, length, seeds, steps)

    reference = ours(256, 2)
    rows = [
        {"passes": steps}
        | {
            name: (made[:, 1:] - reference[:, 1:]).square().mean().sqrt().item()
            for name, made in (
                ("order 1", ours(steps, 1)),
                ("order 2", ours(steps, 2)),
                ("diffusers", theirs(steps)),
            )
        }
        for steps in sorted({*CURVE, arguments.steps})
    ]
    print(f"error by passes, {len(chosen)} held-out clips of {length} latents, without guidance:")
    for row in rows:
        print("  " + ", ".join(f"{name} {value:.5g}" for name, value in row.items()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "error_by_steps.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, arguments.out / "error_by_steps.png")
    bar = next(row["diffusers"] for row in rows if row["passes"] == arguments.steps)
    fewer = min(row["passes"] for row in rows if row["order 2"] <= bar)
    print(
        f"  the pipeline's scheduler is {bar:.5g} off at {arguments.steps} passes, the second order within at {fewer}"
    )
    return fewer


def by_their_scheduler(
    world_model: WorldModel, conditioning: Tensor, prompts: Tensor, length: int, seeds: Sequence[int], steps: int
) -> Tensor:
    """`WorldModel.imagine` without guidance, with the pipeline's scheduler, configured as in the pipeline.

    Its last pass has no effect: the latents stay at the lowest noise level.
    """
    scheduler, space = make_scheduler(), world_model.space
    scheduler.register_to_config(
        sigma_max=SIGMA_MAX, sigma_min=SIGMA_MIN, sigma_data=1.0, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(sigmas=torch.linspace(0, 1, steps, dtype=torch.float64))
    scheduler.sigmas[-1] = scheduler.sigmas[-2]
    first = space.to_network(conditioning.transpose(1, 2))
    batch, channels, given, height, width = first.shape
    noised = seeded_noise((channels, length, height, width), seeds) * SIGMA_MAX
    clean = torch.cat([first, torch.zeros_like(noised[:, :, given:])], dim=2)
    mask = conditioning_mask(given, clean)
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i].expand(batch)
        estimate = denoise(world_model.network, noised, sigma, clean, mask, prompts, prediction=space.prediction)
        noised = scheduler.step((noised - estimate) / scheduler.sigmas[i], timestep, noised, return_dict=False)[0]
    return space.to_latents(mask * clean + (1 - mask) * noised).transpose(1, 2)


def draw(rows: Sequence[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in list(rows[0])[1:]:
        axes.loglog([row["passes"] for row in rows], [row[name] for row in rows], marker="o", label=name)
    axes.set(xlabel="passes of the network", ylabel="distance from 256 second-order steps")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
