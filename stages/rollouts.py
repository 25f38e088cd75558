"""rollouts: world model, post-training initial states → artifacts/rollouts, imagined skill by skill."""

import numpy as np
import torch

from world2act.data.latent_cache import open_latents
from world2act.params import Demos, Params
from world2act.sims.base import load_simulator
from world2act.stage import ARTIFACTS, Metrics, run_stage
from world2act.storage import atomic_directory, read_parquet, sha256
from world2act.world_model.generation import imagine_skills, load_world_model
from world2act.world_model.preview import save_strip
from world2act.world_model.rollouts import prompts_of, sampler_seed, write_rollouts
from world2act.world_model.tokenizer import load_tokenizer

STRIPS = 8


def main(params: Params) -> Metrics:
    states = [
        s
        for s in read_parquet(ARTIFACTS / "demos" / "initial_states.parquet").to_pylist()
        if s["set"] == "post_training"
    ]
    cache, tokenizer = open_latents(ARTIFACTS / "latents"), load_tokenizer(ARTIFACTS / "tokenizer")
    world_model = load_world_model(ARTIFACTS / "world_model")
    embeds = {prompt: torch.from_numpy(np.array(cache.prompt_embeds[row])) for row, prompt in enumerate(cache.prompts)}
    prompts = [prompts_of(cache, state["instruction"]) for state in states]
    seeds = [
        [sampler_seed(params.base.seed, i, skill) for skill in range(len(chain))] for i, chain in enumerate(prompts)
    ]
    sampler = {"steps": params.rollouts.sampler_steps, "guidance": params.rollouts.guidance}
    frames = first_frames(params.demos, states)
    imagined = imagine_skills(
        world_model, tokenizer, frames, prompts, embeds, seeds, batch_size=params.rollouts.batch_size, **sampler
    )
    with atomic_directory(ARTIFACTS / "rollouts") as directory:
        (directory / "frames").mkdir()
        for i in range(min(STRIPS, len(states))):
            save_strip(
                directory / "frames" / f"{i}-{states[i]['task']}.png",
                [tokenizer.decode(clip[None])[0] for clip in imagined[i]],
            )
        return write_rollouts(
            directory,
            states,
            prompts,
            seeds,
            frames,
            imagined,
            world_model_sha256=sha256(ARTIFACTS / "world_model" / "transformer"),
            sampler=sampler,
        )


def first_frames(demos: Demos, states: list[dict]) -> np.ndarray:
    """What the camera sees in each initial state, uint8 (R, H, W, 3)."""
    simulator = load_simulator(demos.simulator)
    options = {"camera": demos.camera, "image_size": demos.image_size, "settle_steps": demos.settle_steps}
    environments = {
        task: simulator.make_environment(task, **options) for task in sorted({state["task"] for state in states})
    }
    frames = []
    for state in states:
        environments[state["task"]].reset(state["seed"])
        frames.append(environments[state["task"]].observe().images[demos.camera.name])
    return np.stack(frames)


if __name__ == "__main__":
    run_stage("rollouts", main)
