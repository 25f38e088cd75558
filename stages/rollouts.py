"""rollouts: world model, post-training initial states → artifacts/rollouts, imagined skill by skill."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from world2act.core.params import Demos, Params
from world2act.core.seeds import derive
from world2act.core.sharding import Arrays, run_sharded
from world2act.core.stage import ARTIFACTS, Metrics
from world2act.core.storage import atomic_directory, sha256
from world2act.core.tables import read_rows
from world2act.data.initial_states import InitialStateRow
from world2act.data.latent_cache import LatentCache, open_latents
from world2act.data.tiling import Layout
from world2act.sims.pool import EnvironmentPool
from world2act.sims.rig import Rig
from world2act.world_model.imagining.imagination import embeddings, imagine_rollouts, independent_rollouts
from world2act.world_model.imagining.rollouts import prompts_of, write_rollouts
from world2act.world_model.imagining.world_model import load_world_model
from world2act.world_model.parts.tokenizer import load_tokenizer


def plan(params: Params) -> list[list[int]]:
    prompts = read_prompts(read_states(), open_latents(ARTIFACTS / "latents"))
    return independent_rollouts(prompts, params.rollouts.batch_size)


def compute(params: Params, groups: Sequence[list[int]]) -> Iterator[Arrays]:
    states, cache = read_states(), open_latents(ARTIFACTS / "latents")
    tokenizer, world_model = load_tokenizer(ARTIFACTS / "tokenizer"), load_world_model(ARTIFACTS / "world_model")
    prompts = read_prompts(states, cache)
    embeds, seeds = embeddings(cache), read_seeds(params, prompts)
    with EnvironmentPool(Rig.from_params(params.demos), sorted({state.task for state in states}), workers=1) as pool:
        for group in groups:
            frames = first_frames(params.demos, pool, [states[i] for i in group])
            imagined = imagine_rollouts(
                world_model,
                tokenizer,
                frames[:, None],
                [prompts[i] for i in group],
                embeds,
                [seeds[i] for i in group],
                params.rollouts,
            )
            latents = {
                f"{i}.{skill}": clip.numpy()
                for i, clips in zip(group, imagined, strict=True)
                for skill, clip in enumerate(clips)
            }
            yield latents | {f"{i}.frame": frame for i, frame in zip(group, frames, strict=True)}


def assemble(params: Params, computed: Iterable[Arrays]) -> Metrics:
    states = read_states()
    prompts = read_prompts(states, open_latents(ARTIFACTS / "latents"))
    arrays = {name: array for group in computed for name, array in group.items()}
    imagined = [[arrays[f"{i}.{skill}"] for skill in range(len(chain))] for i, chain in enumerate(prompts)]
    with atomic_directory(ARTIFACTS / "rollouts") as directory:
        return write_rollouts(
            directory,
            states,
            prompts,
            read_seeds(params, prompts),
            np.stack([arrays[f"{i}.frame"] for i in range(len(states))]),
            imagined,
            world_model_sha256=sha256(ARTIFACTS / "world_model" / "transformer"),
            settings=params.rollouts,
        )


def read_states() -> list[InitialStateRow]:
    rows = read_rows(ARTIFACTS / "demos" / "initial_states.parquet", InitialStateRow)
    return [row for row in rows if row.set == "post_training"]


def read_prompts(states: Sequence[InitialStateRow], cache: LatentCache) -> list[list[str]]:
    return [prompts_of(cache, state.instruction) for state in states]


def read_seeds(params: Params, prompts: Sequence[Sequence[str]]) -> list[list[int]]:
    seed = derive(params.base.seed, "rollouts")
    return [[derive(seed, i, k) for k in range(len(chain))] for i, chain in enumerate(prompts)]


def first_frames(demos: Demos, pool: EnvironmentPool, states: Sequence[InitialStateRow]) -> np.ndarray:
    """What the cameras see in each initial state, tiled: uint8 (R, H, W, 3). The pool has one slot per task."""
    layout = Layout.of([camera.name for camera in demos.cameras], (demos.image_size, demos.image_size))
    frames = []
    for state in states:
        slot = pool.tasks.index(state.task)
        frames.append(layout.tile(pool.reset({slot: state.seed})[slot].images))
    return np.stack(frames)


if __name__ == "__main__":
    run_sharded("rollouts", plan, compute, assemble)
