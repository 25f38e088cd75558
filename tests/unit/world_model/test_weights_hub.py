"""Weights by hub id, fetched by the real client in a process of its own from a hub on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.hub_server import Hub, serve_hub
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import WorldModel, compose, parse_params
from world2act.world_model.parts.hub import locate
from world2act.world_model.parts.text import make_text_encoder
from world2act.world_model.parts.tokenizer import make_vae
from world2act.world_model.parts.transformer import build_transformer

NAME, COMMIT = "someone/tiny-cosmos", "0123456789abcdef0123456789abcdef01234567"
SIZE = {"heads": 2, "head_dim": 16, "layers": 2, "adaln_lora_dim": 8}

LOAD = """
import os, sys, torch, urllib.error, urllib.request
from world2act.core.params import compose, parse_params
from world2act.world_model.parts.text import import_text_encoder
from world2act.world_model.parts.tokenizer import import_vae
from world2act.world_model.parts.transformer import build_transformer

def load(source, out):
    params = parse_params(compose("default"), "")
    own = params.tokenizer.model_copy(update={"source": source, "text_length": 12})
    size = dict(heads=2, head_dim=16, layers=2, adaln_lora_dim=8, weights=source)
    models = {
        "transformer": build_transformer(params.world_model.model_copy(update=size), 16, 8, 5),
        "vae": import_vae(own),
        "text": import_text_encoder(own).model,
    }
    torch.save({name: model.state_dict() for name, model in models.items()}, out)

load(*sys.argv[1:3])
try:
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/between")
except urllib.error.HTTPError:
    load(*sys.argv[3:5])
"""

LOCATE = """
import sys
from world2act.core.errors import BadInput
from world2act.world_model.parts.hub import locate
try:
    print(locate(sys.argv[1], "world_model.weights", ["transformer/config.json"]))
except BadInput as error:
    print(error)
"""


def tiny() -> WorldModel:
    return parse_params(compose("default", ROOT), "conf/profile/default.yaml").world_model.model_copy(update=SIZE)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline in diffusers' layout, with a file that nobody asked for."""
    folder = tmp_path_factory.mktemp("repository")
    params = parse_params(compose("default", ROOT), "")
    build_transformer(tiny(), 16, 8, 0).save_pretrained(folder / "transformer", max_shard_size="20KB")
    make_vae(params.tokenizer.model_copy(update={"base_dim": 4}), 0).save_pretrained(folder / "vae")
    text = make_text_encoder(["push it"], 32, 1, 12, seed=0)
    text.model.save_pretrained(folder / "text_encoder")
    text.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "model-480p-16fps.pt").write_bytes(b"large")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    with serve_hub(repository, NAME, COMMIT) as hub:
        yield hub


def run(script: str, *arguments: str, home: Path, **environment: str) -> str:
    """What a process of its own says, in an environment of its own."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    given = kept | {"HOME": str(home), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def same(weights: dict[str, dict[str, Tensor]], others: dict[str, dict[str, Tensor]]) -> bool:
    return weights.keys() == others.keys() and all(
        weights[name].keys() == others[name].keys()
        and all(torch.equal(weights[name][key], others[name][key]) for key in weights[name])
        for name in weights
    )


def test_a_pinned_commit_loads_and_then_needs_no_hub(hub: Hub, repository: Path, tmp_path: Path) -> None:
    sources = (str(repository), str(tmp_path / "local.pt"), f"{NAME}@{COMMIT}", str(tmp_path / "hub.pt"))
    run(LOAD, *sources, home=tmp_path, HF_ENDPOINT=hub.address)
    assert hub.asked[0][1] == "/between", "a folder was named, and a hub asked"
    local, fetched = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("local", "hub"))
    assert same(fetched, local) and torch.equal(
        fetched["transformer"]["proj_out.weight"], build_transformer(tiny(), 16, 8, 0).state_dict()["proj_out.weight"]
    )
    files = {path.partition(f"/resolve/{COMMIT}/")[2] for _, path, _ in hub.asked if "/resolve/" in path}
    assert "transformer/diffusion_pytorch_model.safetensors.index.json" in files
    assert "model-480p-16fps.pt" not in files and all(shown is None for *_, shown in hub.asked)
    asked = len(hub.asked)
    found = run(LOCATE, f"{NAME}@{COMMIT}", home=tmp_path, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert f"/snapshots/{COMMIT}\n" in found and len(hub.asked) == asked


def test_a_token_comes_from_the_environment_alone(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_stored")
    with serve_hub(repository, NAME, COMMIT, token="hf_secret") as gated:
        said = run(LOCATE, f"{NAME}@{COMMIT}", home=tmp_path, HF_ENDPOINT=gated.address)
        assert "accept the model's terms on its page and set HF_TOKEN" in said
        assert {shown for *_, shown in gated.asked} == {None}
        said = run(LOCATE, f"{NAME}@{COMMIT}", home=tmp_path, HF_ENDPOINT=gated.address, HF_TOKEN="hf_secret")
        assert f"/snapshots/{COMMIT}\n" in said and "hf_secret" not in said


def test_a_commit_that_the_hub_has_not_is_refused(hub: Hub, tmp_path: Path) -> None:
    said = run(LOCATE, f"{NAME}@{'f' * 40}", home=tmp_path, HF_ENDPOINT=hub.address)
    assert f"{NAME} at {'f' * 40}" in said and "remedy" in said


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),  # the client tries five times
    ],
)
def test_without_a_hub_the_error_says_what_to_set(tmp_path: Path, environment: dict[str, str]) -> None:
    said = run(LOCATE, f"{NAME}@{COMMIT}", home=tmp_path, **environment)
    assert all(word in said for word in ("world_model.weights", "HF_ENDPOINT", "HF_HUB_OFFLINE", "name a folder"))


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", COMMIT.upper(), ""])
def test_a_revision_that_can_move_is_refused(revision: str) -> None:
    with pytest.raises(BadInput, match="a commit, 40 hexadecimal digits"):
        locate(f"{NAME}@{revision}", "world_model.weights", ["*"])


@pytest.mark.parametrize("source", ["someone/tiny", "missing/folder", "../x/y/z@" + COMMIT, "https://a/b@" + COMMIT])
def test_what_is_no_hub_id_is_taken_for_a_path(source: str) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        locate(source, "world_model.weights", ["*"])
