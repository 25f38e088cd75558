"""NVIDIA's Cosmos Policy in, our policy folder out, once: one .pt, *dataset_statistics.json and *t5_embeddings.pkl →
what `from_pretrained` opens, with its protocol and a card.

The weights are float32 there, which holds their bfloat16 exactly; training starts from the same folder.
"""

from __future__ import annotations

from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_directory, sha256
from world2act.policies.cosmos_policy.interface import INTERFACES, SIDE
from world2act.policies.cosmos_policy.nvidia_checkpoint import read_nvidia_prompts, read_nvidia_statistics
from world2act.policies.cosmos_policy.policy import CosmosPolicyConfig, save_pretrained
from world2act.policies.lerobot import write_lerobot
from world2act.policies.robot import RobotDescription
from world2act.world_model.parts.tokenizer import load_tokenizer
from world2act.world_model.parts.transformer import load_nvidia_transformer, nvidia_sizes

PARTS = ("*.pt", "*dataset_statistics.json", "*t5_embeddings.pkl")
STEPS = 5


def convert(source: Path, target: Path, *, interface: str, vae: Path, image_size: int) -> None:
    """Write `target`, whole or not at all.

    Args:
        source: NVIDIA's folder, with one file of each of `PARTS`.
        interface: a key of `INTERFACES` with a robot of its own.
        vae: a folder that holds vae/, diffusers layout.
        image_size: pixels a side of the robot's pictures.

    Raises:
        BadInput: `target` exists; a part is missing, there twice, damaged, or asks for code to be run; the parts do
            not fit each other, the VAE or the interface.
    """
    if target.exists():
        raise BadInput(target, "", "a folder or file", "nothing yet", "name another one, or remove it")
    weights, statistics_path, prompts_path = (_only(source, pattern) for pattern in PARTS)
    row = INTERFACES[interface]
    robot = row.robot(image_size)
    layout, cameras = row.fit(robot, "--interface")
    if row.chunk_length is None:
        remedy = "name one of the released weights"
        raise BadInput("--interface", "", interface, "an interface with a robot and a chunk length", remedy)
    config = CosmosPolicyConfig(
        layout=layout,
        interface=interface,
        cameras=cameras,
        image_size=image_size,
        proprio_dim=len(robot.proprio),
        action_dim=len(robot.actions),
        chunk_length=row.chunk_length,
        prediction="velocity",
        sampler_steps=STEPS,
        **nvidia_sizes(weights),
    )
    statistics = read_nvidia_statistics(statistics_path, config.widths)
    prompts = read_nvidia_prompts(prompts_path)
    if other := [text for text, value in prompts.items() if value.shape[1] != config.text_dim]:
        found, expected = prompts[other[0]].shape, f"(L, {config.text_dim}), as {weights.name} reads them"
        raise BadInput(prompts_path, other[0], found, expected, "take the files of one checkpoint")
    shape = load_tokenizer(vae).latent_shape(SIDE, SIDE)
    if shape[0] != config.channels:
        raise BadInput(vae, "", f"{shape[0]} channels", f"{config.channels}, as {weights.name}", "use its own VAE")
    network = load_nvidia_transformer(weights, config, config.channels, config.text_dim)
    with atomic_directory(target) as directory:
        save_pretrained(directory, config, network.state_dict(), statistics, prompts, vae / "vae")
        robot.write(directory)
        write_lerobot(directory)
        card = _card(config, robot, [weights, statistics_path, prompts_path], len(prompts))
        (directory / "README.md").write_text(card, encoding="utf-8")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        remedy = "name the folder of one checkpoint, as the hub has it"
        raise BadInput(folder, pattern, [path.name for path in found] or "nothing", "one such file", remedy)
    return found[0]


def _card(config: CosmosPolicyConfig, robot: RobotDescription, parts: list[Path], prompts: int) -> str:
    lineage = "".join(f"| {path.name} | `{sha256(path)}` |\n" for path in parts)
    return f"""---
library_name: world2act
pipeline_tag: robotics
tags: [robotics, cosmos_policy]
---

# Cosmos Policy of NVIDIA for {robot.embodiment}

Converted by `world2act convert-cosmos-policy`, weights bit by bit; neither trained nor measured here. NVIDIA's licence
holds. Interface `{config.interface}`: pictures of {" and ".join(robot.cameras)}, {robot.image_size} pixels a side, seen
at {SIDE} after JPEG and a crop; {config.chunk_length} actions a chunk, {config.sampler_steps} passes;
{prompts} instructions.

| made from | sha256 |
|---|---|
{lineage}"""
