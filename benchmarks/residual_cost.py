"""What post-training costs when the policy acts: predictions of the base and the post-trained policy in alternation.

    python -m benchmarks.residual_cost [--family gr00t cosmos_policy] [--size tiny full] [--depth 1.0] [--repeats 5]

There is one observation at a time, as on a robot. "tiny": both families at the size of the default profile, 64 pixels.
"full": GR00T-N1.6-3B at 256 pixels, 4 steps (2.96 B parameters: those of 3.29 B that act), and Cosmos Policy 2B with
the Wan2.1 VAE at 224 pixels, 5 passes; two cameras, chunks of 16, weights of small random numbers in bfloat16 (6 GB and
4 GB), and the residual at the paper's size: 2 layers, 4 heads, 32 wide, 53 numbers of proprioception (9 for Cosmos
Policy). `--depth` keeps that share of all layers.

It prints the time of both predictions and their ratio; the residual's own time in the same calls, which is visible even
if a base policy takes seconds and varies by more; and the arithmetic of both, which no machine's overhead affects. The
paper: 3.6 → 4.0 ms (+9 %) on GR00T, 20.8 → 20.5 Hz (+1.5 %) on Cosmos Policy.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import by_turns, describe_machine, ratio, spread
from world2act.bridge.adapters import Bridge
from world2act.core.params import BasePolicy, compose, parse_params
from world2act.data.chunks import ChunkDataset
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import Policy, load_policy
from world2act.policies.imitation import load_trainable
from world2act.post_training.residual.model import ResidualModel
from world2act.post_training.residual.policy import ResidualPolicy
from world2act.sims.base import Observation

ROOT = Path(__file__).parents[1]
FAMILIES, SIZES = ("gr00t", "cosmos_policy"), ("tiny", "full")
INSTRUCTION = "put the bowl on the plate"
PROPRIO = {"gr00t": 53, "cosmos_policy": 9}
PIXELS = {"gr00t": 256, "cosmos_policy": 224}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["tiny"])
    parser.add_argument("--depth", type=float, default=1.0, help="share of the full network's layers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--predictions",
        type=int,
        default=20,
        help="per repetition, at the tiny size",
    )
    arguments = parser.parse_args()
    machine = describe_machine("torch", "diffusers", "transformers")
    print(f"machine: {machine}, {torch.get_num_threads()} threads of torch")
    for size in arguments.size:
        for family in arguments.family:
            with tempfile.TemporaryDirectory() as folder:
                base = tiny(family, Path(folder)) if size == "tiny" else full(family, Path(folder), arguments.depth)
                compare(f"{family}, {size}", base, size, arguments)
            del base
            gc.collect()


def compare(name: str, base: Policy, size: str, arguments: argparse.Namespace) -> None:
    policy = post_trained(base)
    seen = [observation(policy)]
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    if size == "full":
        context = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    count = arguments.predictions if size == "tiny" else 1
    shares: list[float] = []

    def act(whole: bool) -> float:
        """The mean milliseconds of `count` predictions. `whole`: with the residual."""
        spent = 0.0
        with context():
            for seed in range(count):
                began = time.perf_counter()
                chunk = policy.base_chunks(seen, [seed])
                between = time.perf_counter()
                if whole:
                    policy.correct(seen, chunk)
                ended = time.perf_counter()
                spent += ended - began
                if whole:
                    shares.append((ended - between) / (between - began) * 100)
        return spent * 1000 / count

    with context():
        below = flops(lambda: policy.base_chunks(seen, [0]))
        above = flops(lambda: policy.correct(seen, np.zeros((1, policy.chunk_length, policy.action_dim), np.float32)))
    print(
        f"{name}: {above / 1e6:.1f} MFLOP on {below / 1e9:.4g} GFLOP: {above / below:.4%} of the arithmetic", flush=True
    )
    times = by_turns({"base": lambda: act(False), "post-trained": lambda: act(True)}, arguments.repeats)
    for side, values in times.items():
        print(f"{name}, {side}: {spread(values)} ms per prediction")
    print(f"{name}: post-trained takes {ratio(times['post-trained'], times['base'])} times as long")
    print(f"{name}: the residual takes {spread(shares, 3)} % of the base policy's time in the same call")


def post_trained(base: Policy) -> ResidualPolicy:
    """A residual of the paper's size over `base`, whose answer is not zero."""
    camera, size = next(iter(base.cameras.items()))
    torch.manual_seed(0)
    bridge = Bridge(latent_channels=16, action_dim=base.action_dim, dim=32)
    model = ResidualModel(bridge, proprio_dim=base.proprio_dim, image_size=size, layers=2, heads=4)
    nn.init.normal_(model.head[-1].weight, std=0.1)
    mean, std = torch.zeros(base.proprio_dim), torch.ones(base.proprio_dim)
    return ResidualPolicy(base, model.freeze(), camera, mean, std)


def observation(policy: Policy) -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for name, size in policy.cameras.items()}
    return Observation(images, rng.uniform(size=policy.proprio_dim).astype(np.float32), INSTRUCTION, np.zeros(0))


def flops(work: Callable[[], object]) -> int:
    # what it would do in one fused kernel is not counted
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def tiny(family: str, folder: Path) -> Policy:
    """An untrained policy of the default profile's size, saved and loaded by its family."""
    return untrained(family, folder, ["corner2"], 64, proprio=4, actions=4, chunk_length=None)


def untrained(
    family: str,
    folder: Path,
    cameras: Sequence[str],
    size: int,
    *,
    proprio: int,
    actions: int,
    chunk_length: int | None,
) -> Policy:
    values = compose("cosmos-policy" if family == "cosmos_policy" else "default", ROOT)
    values["base_policy"]["chunk_length"] = chunk_length or values["base_policy"]["chunk_length"]
    if family == "cosmos_policy":
        values["base_policy"][family]["tokenizer"] = str(folder)
    params = parse_params(values, "params.yaml")
    if family == "cosmos_policy":
        from world2act.world_model.parts.text import make_text_encoder
        from world2act.world_model.parts.tokenizer import make_vae

        settings = params.tokenizer
        make_vae(settings, 0).save_pretrained(folder / "vae")
        make_text_encoder([INSTRUCTION], settings.text_dim, settings.text_layers, settings.text_length, 0).save(folder)
    dataset = demonstrations(folder / "labelled", cameras, size, proprio, actions)
    return build(params.base_policy, dataset, folder / "policy")


def build(params: BasePolicy, dataset: EpisodeDataset, folder: Path) -> Policy:
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    objective = load_trainable(params.family).make_objective(params, dataset, chunks, 0)
    folder.mkdir()
    objective.save_policy(folder, objective.model.state_dict())
    return load_policy(folder)


def demonstrations(folder: Path, cameras: Sequence[str], size: int, proprio: int, actions: int) -> EpisodeDataset:
    """Two episodes of noise, from which the policy's statistics are computed."""
    rng = np.random.default_rng(0)
    features = {
        **{f"observation.images.{camera}": image_feature(size, size) for camera in cameras},
        "observation.state": array_feature([f"p{i}" for i in range(proprio)]),
        "action": array_feature([f"a{i}" for i in range(actions)]),
    }
    folder.mkdir(parents=True)
    with DatasetWriter(
        folder, features=features, fps=20, robot_type="arm", extra={"image_convention": "upright"}
    ) as to:
        for seed in range(2):
            arrays = {
                "observation.state": rng.uniform(-1, 1, (20, proprio)).astype(np.float32),
                "action": rng.uniform(-1, 1, (20, actions)).astype(np.float32),
            }
            images = {camera: rng.integers(0, 256, (20, size, size, 3), dtype=np.uint8) for camera in cameras}
            to.add(encode(Episode("task", INSTRUCTION, seed, images, arrays)))
        to.set_splits({"train": range(2), "heldout": range(2, 2)})
    return EpisodeDataset.open(folder)


def full(family: str, folder: Path, depth: float) -> Policy:
    return full_gr00t(depth) if family == "gr00t" else full_cosmos_policy(folder, depth)


def full_gr00t(depth: float) -> Policy:
    from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
    from world2act.policies.gr00t.model import Gr00tModel
    from world2act.policies.gr00t.policy import Gr00tPolicy
    from world2act.policies.gr00t.processing import Names, Processor, Robot, Settings, make_tokenizer
    from world2act.policies.gr00t.processing.language import IMAGE_TOKEN

    tokenizer, rng = make_tokenizer([INSTRUCTION]), np.random.default_rng(0)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    eye = VisionLanguageSizes(
        1152, share(27, depth), 16, 4304, 14, 16, 2048, share(16, depth), 16, 8, 128, 6144, 1e6, 151680, image_token
    )
    # pairs of cross- and self-attention, alternating between words and pictures
    head = ActionHeadSizes(4 * share(8, depth), 32, 48, 1024, 32, 1024, state_dim=128, action_dim=128, horizon=50)
    proprio, actions = PROPRIO["gr00t"], 7
    robot = Robot(
        ("agentview", "wrist"),
        PIXELS["gr00t"],
        tuple(f"p{i}" for i in range(proprio)),
        tuple(f"a{i}" for i in range(actions)),
    )
    processor = Processor.of_dataset(
        Settings(
            shortest_image_edge=256, crop_fraction=0.95, max_state_dim=128, max_action_dim=128, max_action_horizon=50
        ),
        robot,
        Names(),
        tokenizer,
        actions=rng.uniform(-1, 1, (99, actions)),
        proprio=rng.uniform(-1, 1, (99, proprio)),
        chunk_length=16,
        embodiment="new_embodiment",
        slot=10,
    )
    return Gr00tPolicy(drawn(lambda: Gr00tModel(NetworkConfig(eye, head))), processor)


def full_cosmos_policy(folder: Path, depth: float) -> Policy:
    """The policy of the default size on these pictures, with networks of the published size in place of its own."""
    from diffusers import AutoencoderKLWan

    from world2act.policies.cosmos_policy.params import Parameters
    from world2act.world_model.parts.tokenizer import VideoTokenizer
    from world2act.world_model.parts.transformer import build_transformer

    policy = untrained(
        "cosmos_policy",
        folder,
        ["agentview", "wrist"],
        PIXELS["cosmos_policy"],
        proprio=PROPRIO["cosmos_policy"],
        actions=7,
        chunk_length=16,
    )
    block = compose("cosmos-policy", ROOT)["base_policy"]["cosmos_policy"]
    sizes = {"heads": 16, "head_dim": 128, "layers": share(28, depth), "adaln_lora_dim": 256, "patch_size": 2}
    params = Parameters.model_validate(block | sizes)
    policy.network = drawn(lambda: build_transformer(params, channels=16, text_dim=1024, seed=0))
    policy.tokenizer = VideoTokenizer(drawn(AutoencoderKLWan))
    policy.prompts = {INSTRUCTION: np.zeros((512, 1024), np.float32)}
    policy.config = replace(policy.config, **sizes, channels=16, text_dim=1024, sampler_steps=5)
    return policy


def share(layers: int, depth: float) -> int:
    return max(1, round(layers * depth))


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose weights are small random numbers, created directly in bfloat16."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network = make()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    print(f"{type(network).__name__}: {sum(p.numel() for p in network.parameters()):,} parameters")
    return network.eval()


if __name__ == "__main__":
    main()
