"""The video VAE and the text encoder from every layout: Wan's own file, diffusers and transformers folders."""

from pathlib import Path

import pytest
import torch

from tests.helpers.native_weights import wan_layout
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import Tokenizer, compose, parse_params
from world2act.world_model.parts.text import TextEncoder, import_text_encoder, make_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, import_vae

PROMPTS = ["pick up the mug", "", "an unseen one"]


def real(**changes: object) -> Tokenizer:
    """Wan2.1's architecture, a twenty-fourth as wide."""
    own = parse_params(compose("cosmos-predict2-2b", ROOT), "").tokenizer
    return own.model_copy(update={"source": "nowhere", "base_dim": 4, "text_length": 24, **changes})


def make_wan() -> torch.nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4)


@pytest.fixture(scope="module")
def vae() -> torch.nn.Module:
    return make_wan()


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == key and torch.equal(a, b) for (name, a), (key, b) in pairs)


def test_the_profile_names_the_architecture_of_wan_2_1() -> None:
    from diffusers import AutoencoderKLWan

    from world2act.world_model.parts.tokenizer import _architecture

    with torch.device("meta"):
        default, ours = AutoencoderKLWan(), AutoencoderKLWan(**_architecture(real(base_dim=96)))
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (default, ours)]
    assert counts[0] == counts[1] and round(counts[0] / 1e6, 1) == 126.9
    names = ("latents_mean", "latents_std", "temperal_downsample", "dim_mult")
    assert all(list(default.config[name]) == list(ours.config[name]) for name in names)
    assert default.config.z_dim == ours.config.z_dim == 16 and default.config.scale_factor_spatial == 8


@pytest.mark.parametrize("name", ["Wan2.1_VAE.pth", "wan.safetensors"])
def test_wans_own_file_loads_bit_for_bit(tmp_path: Path, vae: torch.nn.Module, name: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(wan_layout(vae), path)
    opened = import_vae(real(vae=str(path)))
    assert same(opened, vae)
    assert opened.config.latents_mean == vae.config.latents_mean and opened.config.latents_std == vae.config.latents_std
    assert VideoTokenizer(opened).latent_shape(480, 480) == (16, 60, 60)


def test_diffusers_reads_the_same_from_wans_file(tmp_path: Path, vae: torch.nn.Module) -> None:
    from diffusers import AutoencoderKLWan

    torch.save(wan_layout(vae), tmp_path / "Wan2.1_VAE.pth")
    vae.save_config(tmp_path / "config")
    theirs = AutoencoderKLWan.from_single_file(str(tmp_path / "Wan2.1_VAE.pth"), config=str(tmp_path / "config"))
    assert same(import_vae(real(vae=str(tmp_path / "Wan2.1_VAE.pth"))), theirs)


def test_a_diffusers_vae_loads_bit_for_bit(tmp_path: Path, vae: torch.nn.Module) -> None:
    vae.save_pretrained(tmp_path / "vae", max_shard_size="100KB")
    assert same(import_vae(real(source=str(tmp_path))), vae)


@pytest.mark.parametrize(
    ("change", "changes", "key"),
    [
        ("drop", {}, "post_quant_conv.bias"),
        ("add", {}, "decoder.extra.weight"),
        ("", {"base_dim": 8}, r"expected: +shape \(8, 3, 3, 3, 3\)"),
        ("", {"latent_channels": 8}, r"tokenizer\.latent_channels"),
        ("cut", {}, "a whole file of tensors"),
    ],
)
def test_another_vae_is_refused(
    tmp_path: Path, vae: torch.nn.Module, change: str, changes: dict[str, int], key: str
) -> None:
    path, state = tmp_path / "Wan2.1_VAE.pth", wan_layout(vae)
    if change == "drop":
        del state["conv2.bias"]
    if change == "add":
        state["decoder.extra.weight"] = torch.zeros(1)
    torch.save(state, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadInput, match=key):
        import_vae(real(vae=str(path), **changes))


def tiny_t5() -> TextEncoder:
    return make_text_encoder(["pick up the mug", "push it"], 32, 2, 24, seed=0)


def test_a_text_encoder_loads_from_shards_beside_its_tokenizer(tmp_path: Path) -> None:
    made = tiny_t5()
    made.model.save_pretrained(tmp_path, max_shard_size="50KB")
    made.tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    opened = import_text_encoder(real(text_encoder=str(tmp_path)))
    assert same(opened.model, made.model) and torch.equal(opened.embed(PROMPTS), made.embed(PROMPTS))


def test_a_text_encoder_loads_from_a_pipeline(tmp_path: Path) -> None:
    made = tiny_t5()
    made.model.save_pretrained(tmp_path / "text_encoder")
    made.tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert torch.equal(import_text_encoder(real(source=str(tmp_path))).embed(PROMPTS), made.embed(PROMPTS))


def test_the_encoder_of_a_whole_t5_leaves_its_decoder_out(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    made = tiny_t5()
    config = T5Config.from_dict(made.model.config.to_dict() | {"num_decoder_layers": 1, "is_encoder_decoder": True})
    whole = T5ForConditionalGeneration(config)
    whole.encoder.load_state_dict(made.model.encoder.state_dict())
    whole.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    assert torch.equal(import_text_encoder(real(text_encoder=str(tmp_path))).embed(PROMPTS), made.embed(PROMPTS))


def test_a_bfloat16_text_encoder_stays_so_and_gives_float32(tmp_path: Path) -> None:
    made = tiny_t5()
    made.model.bfloat16().save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    opened = import_text_encoder(real(text_encoder=str(tmp_path)))
    assert opened.model.dtype == torch.bfloat16 and opened.embed(PROMPTS).dtype == torch.float32


def test_a_tokenizer_of_another_encoder_is_refused(tmp_path: Path) -> None:
    made, other = tiny_t5(), make_text_encoder(["quite a lot of other words altogether"], 32, 2, 24, seed=0)
    assert len(other.tokenizer) > len(made.tokenizer)
    made.model.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="the tokenizer that the encoder was trained with"):
        import_text_encoder(real(text_encoder=str(tmp_path)))


def test_a_text_encoder_without_its_shard_or_tokenizer_is_refused(tmp_path: Path) -> None:
    made = tiny_t5()
    made.model.save_pretrained(tmp_path / "text_encoder", max_shard_size="50KB")
    with pytest.raises(BadInput, match="a saved tokenizer"):
        import_text_encoder(real(source=str(tmp_path)))
    with pytest.raises(BadInput, match="a tokenizer"):
        import_text_encoder(real(text_encoder=str(tmp_path / "text_encoder")))
    made.tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert import_text_encoder(real(source=str(tmp_path))).embed(PROMPTS).shape == (3, 24, 32)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        import_text_encoder(real(source=str(tmp_path)))
    next((tmp_path / "text_encoder").glob("model-00002*")).unlink()
    with pytest.raises(BadInput, match="model-00002"):
        import_text_encoder(real(source=str(tmp_path)))
