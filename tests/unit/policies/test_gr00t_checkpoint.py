"""Checkpoints in NVIDIA's layout: written at a tiny size and loaded back, and every kind of damage named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.gr00t_checkpoint import EMBODIMENT, tensors, write_checkpoint
from world2act.core.errors import BadInput
from world2act.core.storage import read_json, write_json
from world2act.policies.gr00t import shards
from world2act.policies.gr00t.checkpoint import count_parameters, find_checkpoint, load_checkpoint, read_config
from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.model import Gr00tModel, Inputs
from world2act.policies.gr00t.processing.modality import read_slot, read_statistics

INDEX = "model.safetensors.index.json"
PUBLISHED = NetworkConfig(
    VisionLanguageSizes(1152, 27, 16, 4304, 14, 16, 2048, 16, 16, 8, 128, 6144, 1e6, 151680, 151669),
    ActionHeadSizes(
        32, 32, 48, 1024, 32, 1024, state_dim=128, action_dim=128, horizon=50, dropout=0.2, state_dropout=0.8
    ),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(written, tmp_path / "checkpoint"))


def test_comes_back_bit_for_bit(written: Path) -> None:
    wanted = tensors(read_config(written), seed=0)
    assert len(list(written.glob("model-*.safetensors"))) > 1 and not (written / "model.safetensors").exists()
    model = load_checkpoint(written, torch.bfloat16)
    found = model.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in found)
    assert wanted.keys() - found.keys() == {
        "backbone.model.language_model.lm_head.weight",
        "backbone.model.vision_model.vision_model.head.probe",
    }
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    wide = load_checkpoint(written).state_dict()
    assert all(wide[key].dtype == torch.float32 and torch.equal(wide[key].bfloat16(), found[key]) for key in found)
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_a_loaded_network_acts_as_the_one_that_was_saved(written: Path) -> None:
    config = read_config(written)
    made = Gr00tModel(config, seed=0).eval()
    made.load_state_dict({key: weight.bfloat16().float() for key, weight in made.state_dict().items()})
    inputs = some_inputs(config)
    noise = torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_checkpoint(written).eval().sample(inputs, noise), made.sample(inputs, noise))
    narrow = load_checkpoint(written, torch.bfloat16).eval().sample(inputs, noise)
    assert narrow.isfinite().all() and (narrow - made.sample(inputs, noise)).abs().max() < 0.1


def test_every_size_comes_from_the_checkpoint(written: Path) -> None:
    config = read_config(written)
    assert config.action_head == ActionHeadSizes(
        4, 4, 8, 24, 16, 64, state_dim=12, action_dim=10, horizon=12, dropout=0.2, state_dropout=0.8
    )
    vision_language = config.vision_language
    assert vision_language.language_layers == 2, "select_layer, of the backbone's three"
    assert vision_language == replace(vision_language, vision_dim=32, vision_patch=14, language_kv_heads=2)


def test_the_published_size_is_known_without_the_backbones_own_file(written: Path, tmp_path: Path) -> None:
    """3,286,610,368 parameters, of which the action head has 1,418,624,000."""
    sizes = {"num_layers": 32, "num_attention_heads": 32, "attention_head_dim": 48, "output_dim": 1024}
    values = read_json(written / "config.json")
    values["diffusion_model_cfg"] |= sizes
    values |= {"backbone_embedding_dim": 2048, "select_layer": 16, "hidden_size": 1024, "input_embedding_dim": 1536}
    values |= {"max_state_dim": 128, "max_action_dim": 128, "action_horizon": 50}
    write_json(tmp_path / "config.json", values | {"max_num_embodiments": 32, "max_seq_len": 1024})
    assert read_config(tmp_path) == PUBLISHED
    assert count_parameters(PUBLISHED) == 3_286_610_368
    with torch.device("meta"):
        head = Gr00tModel(PUBLISHED).action_head
    assert sum(weight.numel() for weight in head.parameters()) == 1_418_624_000 + 1536, "and the mask token"


def test_own_weights_come_back_in_as_many_files_as_they_need(tmp_path: Path) -> None:
    config = NetworkConfig(
        VisionLanguageSizes(32, 1, 1, 64, 8, 4, 32, 1, 2, 1, 16, 64, 1e4, 20, 19),
        ActionHeadSizes(2, 1, 32, 16, 2, 4, state_dim=5, action_dim=3, horizon=4),
    )
    weights = Gr00tModel(config, seed=1).state_dict()
    for name, size in (("one", "5GB"), ("many", "50KB")):
        (tmp_path / name).mkdir()
        shards.save(tmp_path / name, weights, size)
        model = Gr00tModel(config, seed=2)
        shards.load(model, tmp_path / name, torch.float32)
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["model.safetensors"]
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A fault: a JSON file, changed."""

    def apply(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return apply


def reshape(folder: Path, key: str, change: Callable[[dict[str, Any], str], Any]) -> None:
    """A fault: a tensor, changed in its shard and, where it goes or comes, in the index."""
    index = read_json(folder / INDEX)
    file = folder / index["weight_map"].get(key, next(iter(index["weight_map"].values())))
    held = load_file(file)
    change(held, key)
    save_file(held, file)
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if k != key or k in held}
    index["weight_map"] |= {k: file.name for k in held}
    write_json(folder / INDEX, index)


def first(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


VLLN = "action_head.vlln.weight"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: [file.unlink() for file in [*f.glob("model-*"), f / INDEX]], "model.safetensors"),
    "a missing shard": (lambda f: first(f).unlink(), "no such file"),
    "a shard unknown to the index": (lambda f: shutil.copy(first(f), f / "model-9.safetensors"), "does not name"),
    "a whole file beside shards": (lambda f: shutil.copy(first(f), f / "model.safetensors"), "does not name"),
    "a truncated shard": (lambda f: first(f).write_bytes(first(f).read_bytes()[:-9]), "whole safetensors file"),
    "a path out of the folder": (edit(INDEX, lambda v: v["weight_map"].update({VLLN: "../x.safetensors"})), "../x"),
    "an absolute path": (edit(INDEX, lambda v: v["weight_map"].update({VLLN: "/x.safetensors"})), "/x"),
    "an index without a map": (edit(INDEX, lambda v: v.pop("weight_map")), "weight_map"),
    "a tensor that its shard lacks": (edit(INDEX, lambda v: v["weight_map"].update(novel=first_name(v))), "novel"),
    "a tensor that the index lacks": (edit(INDEX, lambda v: v["weight_map"].pop(VLLN)), VLLN),
    "a missing tensor": (lambda f: reshape(f, VLLN, lambda held, key: held.pop(key)), VLLN),
    "an unknown tensor": (lambda f: reshape(f, "action_head.vl_self_attention.x", put(3)), "vl_self_attention"),
    "another shape": (lambda f: reshape(f, VLLN, put(31)), "(31,)"),
    "N1.5": (edit("config.json", lambda v: v.update(model_type="gr00t_n1_5")), "gr00t_n1_5"),
    "N1.7": (edit("config.json", lambda v: v.update(model_type="Gr00tN1d7")), "Gr00tN1d7"),
    "another transformer": (
        edit("config.json", lambda v: v.update(use_alternate_vl_dit=False)),
        "use_alternate_vl_dit",
    ),
    "another norm": (
        edit("config.json", lambda v: v["diffusion_model_cfg"].update(norm_type="layer_norm")),
        "diffusion_model_cfg.norm_type",
    ),
    "positions it should not have": (
        edit("config.json", lambda v: v["diffusion_model_cfg"].pop("positional_embeddings")),
        "positional_embeddings",
    ),
    "a size that is not said": (edit("config.json", lambda v: v.pop("max_action_dim")), "max_action_dim"),
    "a size that is a word": (edit("config.json", lambda v: v.update(hidden_size="24")), "hidden_size"),
    "sizes that contradict": (edit("config.json", lambda v: v.update(input_embedding_dim=48)), "input_embedding_dim"),
    "more slots than weights": (edit("config.json", lambda v: v.update(max_num_embodiments=32)), "(16, "),
    "too many layers": (edit("config.json", lambda v: v.update(select_layer=4)), "select_layer"),
    "another backbone": (
        lambda f: [(f / "tokenizer/config.json").unlink(), edit("config.json", lambda v: v.update(model_name="x"))(f)],
        "model_name",
    ),
    "windows in the vision tower": (
        edit("tokenizer/config.json", lambda v: v["vision_config"].update(use_windows_attn=True)),
        "vision_config.use_windows_attn",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
}


def first_name(index: dict[str, Any]) -> str:
    return min(index["weight_map"].values())


def put(width: int) -> Callable[[dict[str, Any], str], None]:
    return lambda held, key: held.update({key: torch.ones(width, dtype=torch.bfloat16)})


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named(folder: Path, fault: str) -> None:
    damage, word = FAULTS[fault]
    damage(folder)
    with pytest.raises(BadInput) as error:
        load_checkpoint(folder)
    assert word in str(error.value)


def test_another_embodiment_and_missing_statistics_are_named(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"embodiment_id\.json"):
        read_slot(folder, "yumi")
    (folder / "statistics.json").unlink()
    with pytest.raises(BadInput, match=r"statistics\.json"):
        read_statistics(folder, EMBODIMENT)


@pytest.mark.parametrize("source", ["nowhere", "nvidia/GR00T-N1.6-3B@main"])
def test_a_source_is_a_folder_or_a_commit_on_a_hub(written: Path, source: str) -> None:
    assert find_checkpoint(str(written), "base_policy.gr00t.weights") == written
    with pytest.raises(BadInput, match=r"base_policy\.gr00t\.weights"):
        find_checkpoint(source, "base_policy.gr00t.weights")


def some_inputs(config: NetworkConfig) -> Inputs:
    """Two prompts, the second padded in front."""
    generator = torch.Generator().manual_seed(1)
    sizes = config.vision_language
    count = 2 * (56 // 28) * (28 // 28)
    prompt = torch.tensor([[13, 14, *[sizes.image_token] * count, 15, 16], [0, 0, *[sizes.image_token] * count, 15, 1]])
    mask = torch.ones_like(prompt, dtype=torch.bool)
    mask[1, :2] = False
    pixels = torch.randn(2, 2, 3, 56, 28, generator=generator)
    return Inputs(pixels, prompt, mask, torch.randn(2, 1, config.action_head.state_dim, generator=generator), slot=2)
