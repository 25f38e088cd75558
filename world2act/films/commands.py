"""The commands `world2act view` and `world2act convert-lpips`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from world2act.core.messages import one_message

app = typer.Typer()


@app.command()
def view(
    episode: Annotated[int, typer.Argument(help="An episode of artifacts/demos/video_only.", min=0)],
    out: Annotated[Path, typer.Option(help="The folder of the mp4 and of the PNG strip.")] = Path("reports/view"),
) -> None:
    """Film an episode above what the world model imagines from its first frame, skill by skill."""
    from world2act.core.errors import BadInput
    from world2act.core.params import load_params
    from world2act.core.storage import file_stem, read_json
    from world2act.data.latent_cache import open_latents
    from world2act.data.lerobot_v3 import EpisodeDataset
    from world2act.films.heldout import Studio, film_episode
    from world2act.world_model.imagining.recorded_clips import episodes_of, make_imagination
    from world2act.world_model.imagining.world_model import load_world_model
    from world2act.world_model.parts.guardrail import open_guardrail
    from world2act.world_model.parts.tokenizer import load_tokenizer

    with one_message():
        artifacts, params = Path("artifacts"), load_params()
        dataset, cache = EpisodeDataset.open(artifacts / "demos/video_only"), open_latents(artifacts / "latents")
        episodes = episodes_of([clip for clip in cache.clips if clip.dataset == "video_only"])
        clips = next((clips for clips in episodes if clips[0].episode_index == episode), None)
        if clips is None:
            heldout = [clips[0].episode_index for clips in episodes if clips[0].subset == "heldout"]
            known = f"one of {heldout}, the held-out episodes"
            raise BadInput("the command line", "EPISODE", episode, known, "see artifacts/skills/discards.parquet")
        guardrail = open_guardrail(read_json(artifacts / "world_model/config.json"))
        imagination = make_imagination(load_world_model(artifacts / "world_model"), cache, params.judge.sampler)
        tokenizer = load_tokenizer(artifacts / "tokenizer")
        out.mkdir(parents=True, exist_ok=True)
        stem = out / f"{file_stem(clips[0].task)}-episode-{episode}"
        film_episode(stem, Studio(imagination, cache, tokenizer, dataset, guardrail, params.base.seed), clips)
        typer.echo(f"{stem}.mp4: {' → '.join(clip.prompt for clip in clips)} ({clips[0].subset})")


@app.command("convert-lpips")
def convert_lpips(
    alexnet: Annotated[Path, typer.Argument(help="torchvision's AlexNet, a .pth file.")],
    channels: Annotated[Path, typer.Argument(help="weights/v0.1/alex.pth of the package lpips.")],
    out: Annotated[Path, typer.Argument(help="The file for judge.lpips.")] = Path("lpips.safetensors"),
) -> None:
    """Write the weights of LPIPS as one safetensors file. Nothing but tensors is read of the .pth files."""
    from world2act.world_model.judging.lpips import convert

    with one_message():
        convert(alexnet, channels, out)
        typer.echo(f"{out}: set judge.lpips to it")
