"""Weights of the world model from every layout, bit for bit, and what is no such weights refused."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.native_weights import cosmos_layout
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import WorldModel, compose, parse_params
from world2act.world_model.parts.transformer import architecture, build_transformer, check_parameters


def tiny(**changes: object) -> WorldModel:
    own = parse_params(compose("default", ROOT), "conf/profile/default.yaml").world_model
    return own.model_copy(
        update={"heads": 2, "head_dim": 16, "layers": 2, "adaln_lora_dim": 8, "patch_size": 2, **changes}
    )


def build(weights: Path | str | None = None, *, text_dim: int = 8, seed: int = 1, **changes: object) -> torch.nn.Module:
    return build_transformer(tiny(weights=weights and str(weights), **changes), 16, text_dim, seed)


def same(network: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(network.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == key and torch.equal(a, b) for (name, a), (key, b) in pairs)


@pytest.fixture
def native(tmp_path: Path) -> Path:
    torch.save(cosmos_layout(build(seed=0)), tmp_path / "model-480p-16fps.pt")
    return tmp_path / "model-480p-16fps.pt"


def edited(path: Path, **changes: Tensor | None) -> Path:
    """The checkpoint with tensors put in, or, where None, left out."""
    content = torch.load(path, weights_only=True) | {f"net.{key}": value for key, value in changes.items()}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def on_meta(profile: str) -> torch.nn.Module:
    from diffusers import CosmosTransformer3DModel

    params = parse_params(compose(profile, ROOT), profile)
    with torch.device("meta"):
        return CosmosTransformer3DModel(
            **architecture(params.world_model, params.tokenizer.latent_channels, params.tokenizer.text_dim)
        )


def test_the_real_configuration_has_the_published_number_of_parameters() -> None:
    network, own = on_meta("cosmos-predict2-2b"), parse_params(compose("cosmos-predict2-2b", ROOT), "").world_model
    assert sum(weight.numel() for weight in network.parameters()) == own.parameters == 1_956_413_440
    check_parameters(network, own.parameters)
    config = network.config
    assert (config.in_channels, config.out_channels, config.text_embed_dim) == (17, 16, 1024)
    assert (config.num_attention_heads, config.attention_head_dim, config.num_layers) == (16, 128, 28)
    assert (config.patch_size, config.rope_scale, config.max_size) == ((1, 2, 2), (1.0, 3.0, 3.0), (128, 240, 240))
    assert (config.adaln_lora_dim, config.mlp_ratio, config.extra_pos_embed_type) == (256, 4.0, None)
    assert config.concat_padding_mask


def test_the_small_profile_has_about_a_hundred_million_parameters() -> None:
    network, own = on_meta("small"), parse_params(compose("small", ROOT), "small").world_model
    assert sum(weight.numel() for weight in network.parameters()) == own.parameters
    assert 90e6 < own.parameters < 110e6


def test_another_number_of_parameters_is_refused() -> None:
    count = sum(weight.numel() for weight in build().parameters())
    assert build(parameters=count).training
    with pytest.raises(BadInput, match=f"found: +{count:,}\n +expected: {count + 1:,}"):
        build(parameters=count + 1)


def test_nvidias_file_loads_bit_for_bit(native: Path) -> None:
    network = build(native)
    assert same(network, build(seed=0)) and not same(network, build(seed=1))
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in network.parameters())


def test_diffusers_reads_the_same_from_nvidias_file(native: Path, tmp_path: Path) -> None:
    from diffusers import CosmosTransformer3DModel

    build().save_config(tmp_path / "config")
    theirs = CosmosTransformer3DModel.from_single_file(str(native), config=str(tmp_path / "config"))
    assert same(build(native), theirs)


def test_bfloat16_becomes_float32_without_loss(native: Path) -> None:
    content = torch.load(native, weights_only=True)
    torch.save({k: v.bfloat16() if v.is_floating_point() else v for k, v in content.items()}, native)
    for weight, other in zip(build(native).parameters(), build(seed=0).parameters(), strict=True):
        assert weight.dtype == torch.float32 and torch.equal(weight, other.bfloat16().float())


def test_a_change_of_the_network_does_not_reach_the_file(native: Path) -> None:
    content = native.read_bytes()
    for weight in build(native).parameters():
        weight.data.zero_()
    assert native.read_bytes() == content


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_diffusers_folder_loads_bit_for_bit_in_one_file_or_in_many(tmp_path: Path, shard: str) -> None:
    build(seed=0).save_pretrained(tmp_path / "transformer", max_shard_size=shard)
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > (1 if shard == "20KB" else 0)
    network = build(tmp_path)
    assert same(network, build(seed=0)) and all(weight.requires_grad for weight in network.parameters())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    build(seed=0).save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    shard = sorted((tmp_path / "transformer").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BadInput, match=shard.name):
        build(tmp_path)


OTHER = [
    ({"heads": 4}, "'num_attention_heads': 2", "'num_attention_heads': 4"),
    ({"layers": 3}, "'num_layers': 2", "'num_layers': 3"),
    ({"adaln_lora_dim": 16}, "'adaln_lora_dim': 8", "'adaln_lora_dim': 16"),
    ({"patch_size": 4}, "'patch_size': (1, 2, 2)", "'patch_size': (1, 4, 4)"),
    ({"text_dim": 1024}, "'text_embed_dim': 8", "'text_embed_dim': 1024"),
]


@pytest.mark.parametrize(("changes", "found", "expected"), OTHER)
def test_another_architecture_is_refused_by_name(
    native: Path, tmp_path: Path, changes: dict[str, int], found: str, expected: str
) -> None:
    build(seed=0).save_pretrained(tmp_path / "transformer")
    for weights in (native, tmp_path):
        with pytest.raises(BadInput) as refused:
            build(weights, **changes)
        assert found in str(refused.value.found) and expected in str(refused.value.expected)


def test_a_folder_of_another_position_code_is_refused(tmp_path: Path) -> None:
    build(seed=0).save_pretrained(tmp_path / "transformer")
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_scale": [2.0, 1.0, 1.0]}))
    with pytest.raises(BadInput, match="rope_scale"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"blocks.1.mlp.layer2.weight": None}, r"transformer_blocks\.1\.ff\.net\.2\.weight"),
        ({"blocks.1.self_attn.k_img.weight": torch.zeros(32, 32)}, r"transformer_blocks\.1\.attn1\.k_img\.weight"),
        ({"extra.pos_embedder.seq.weight": torch.zeros(1)}, "known ones"),
        ({"logvar.0.freqs": torch.zeros(4)}, r"logvar\.0\.freqs"),
        (
            {"blocks.1.mlp.layer2.weight": torch.zeros(32, 64)},
            r"found: +shape \(32, 64\)\n +expected: shape \(32, 128\)",
        ),
        ({"x_embedder.proj.1.weight": None}, "no such weights"),
    ],
)
def test_a_key_missing_unknown_or_of_another_shape_is_named(
    native: Path, changes: dict[str, Tensor | None], key: str
) -> None:
    with pytest.raises(BadInput, match=key):
        build(edited(native, **changes))


def test_a_damaged_file_is_refused(native: Path) -> None:
    native.write_bytes(native.read_bytes()[:5000])
    with pytest.raises(BadInput, match="a whole file of tensors"):
        build(native)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "model.pt", tmp_path / "ran"
    if zipped:
        torch.save({"net.x_embedder.proj.1.weight": Payload(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(BadInput, match=r"nothing of it was run|a whole file of tensors"):
        build(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert mark.exists()  # the payload is live: only the reading kept it from running


def test_what_is_neither_a_path_nor_a_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        build(tmp_path / "missing")
    with pytest.raises(BadInput, match=r"no config\.json"):
        build(tmp_path)


def test_nothing_to_train_and_nothing_to_start_from_is_refused() -> None:
    with pytest.raises(BadInput, match="name weights"):
        build(tuning="none")
