"""Weights by hub id, fetched by the real client in a process of its own from a hub on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve_hub

from world2act.errors import BadInput
from world2act.params import WorldModel, compose, parse_params
from world2act.world_model.hub import locate
from world2act.world_model.text import make_text_encoder
from world2act.world_model.tokenizer import make_vae
from world2act.world_model.transformer import build_transformer

ROOT = Path(__file__).parents[1]
NAME, COMMIT = "someone/tiny-cosmos", "0123456789abcdef0123456789abcdef01234567"
SIZE = {"heads": 2, "head_dim": 16, "layers": 2, "adaln_lora_dim": 8}

FETCH = """
import sys, torch
from world2act.errors import BadInput
from world2act.params import compose, parse_params
from world2act.world_model.text import import_text_encoder
from world2act.world_model.tokenizer import import_vae
from world2act.world_model.transformer import build_transformer
part, source, out = sys.argv[1:]
params = parse_params(compose("default"), "")
own = params.tokenizer.model_copy(update={"source": source, "text_length": 12})
try:
    if part == "transformer":
        size = dict(heads=2, head_dim=16, layers=2, adaln_lora_dim=8, weights=source)
        model = build_transformer(params.world_model.model_copy(update=size), 16, 8, 5)
    elif part == "vae":
        model = import_vae(own)
    else:
        model = import_text_encoder(own).model
except BadInput as error:
    sys.exit(str(error))
torch.save(model.state_dict(), out)
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


def fetch(part: str, source: str, home: Path, **environment: str) -> tuple[str, dict[str, object]]:
    """What a process that loads a part says on standard error, and the weights that it got."""
    import torch

    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    given = kept | {"HOME": str(home), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1"} | environment
    out = home / "out.pt"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-c", FETCH, part, source, str(out)]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=120)
    return done.stderr, torch.load(out, weights_only=True) if out.exists() else {}


def test_a_pinned_commit_loads_and_then_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    import torch

    expected = build_transformer(tiny(), 16, 8, 0).state_dict()
    said, weights = fetch("transformer", f"{NAME}@{COMMIT}", tmp_path, HF_ENDPOINT=hub.address)
    assert weights.keys() == expected.keys(), said
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    paths = [path for _, path, _ in hub.asked]
    assert any(path.endswith(".index.json") for path in paths)
    assert all("/transformer/" in path or "/tree/" in path for path in paths), "asked for more than it needs"
    assert all(shown is None for _, _, shown in hub.asked)
    asked = len(hub.asked)
    _, again = fetch("transformer", f"{NAME}@{COMMIT}", tmp_path, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert again.keys() == expected.keys() and len(hub.asked) == asked


@pytest.mark.parametrize("part", ["vae", "text"])
def test_a_tokenizers_parts_load_from_a_hub(hub: Hub, tmp_path: Path, part: str) -> None:
    said, weights = fetch(part, f"{NAME}@{COMMIT}", tmp_path, HF_ENDPOINT=hub.address)
    assert weights, said


def test_a_token_comes_from_the_environment_alone(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_stored")
    with serve_hub(repository, NAME, COMMIT, token="hf_secret") as gated:
        said, weights = fetch("transformer", f"{NAME}@{COMMIT}", tmp_path, HF_ENDPOINT=gated.address)
        assert not weights and "accept the model's terms on its page and set HF_TOKEN" in said
        assert {shown for _, _, shown in gated.asked} == {None}
        said, weights = fetch(
            "transformer", f"{NAME}@{COMMIT}", tmp_path, HF_ENDPOINT=gated.address, HF_TOKEN="hf_secret"
        )
        assert weights and "hf_secret" not in said, said


def test_a_commit_that_the_hub_has_not_is_refused(hub: Hub, tmp_path: Path) -> None:
    said, weights = fetch("transformer", f"{NAME}@{'f' * 40}", tmp_path, HF_ENDPOINT=hub.address)
    assert not weights and f"{NAME} at {'f' * 40}" in said and "remedy" in said


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_hub_the_error_says_what_to_set(tmp_path: Path, environment: dict[str, str]) -> None:
    said, weights = fetch("transformer", f"{NAME}@{COMMIT}", tmp_path, **environment)
    assert not weights and "Traceback" not in said
    assert all(word in said for word in ("world_model.weights", "HF_ENDPOINT", "HF_HUB_OFFLINE", "name a folder"))


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", COMMIT.upper(), ""])
def test_a_revision_that_can_move_is_refused(revision: str) -> None:
    with pytest.raises(BadInput, match="a commit, 40 hexadecimal digits"):
        locate(f"{NAME}@{revision}", "world_model.weights", ["*"])


@pytest.mark.parametrize("source", ["someone/tiny", "missing/folder", "../x/y/z@" + COMMIT, "https://a/b@" + COMMIT])
def test_what_is_no_hub_id_is_taken_for_a_path(source: str) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        locate(source, "world_model.weights", ["*"])
