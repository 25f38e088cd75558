"""Weights of this machine are read where DVC sees them, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.local_files import check_local_files, read_deps
from world2act.core.params import Params, compose, parse_params

HERE = "data/weights/world_model/cosmos"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    for folder in (HERE, "elsewhere", "infra/deepspeed", "artifacts/world_model", "artifacts/tokenizer"):
        Path(folder).mkdir(parents=True)
        Path(folder, "model.safetensors").touch()
    Path("infra/deepspeed/cpu.json").touch()


def params(section: str, **changes: object) -> Params:
    values = compose("default", ROOT)
    values[section] |= changes
    return parse_params(values, "params.yaml")


@pytest.mark.parametrize("weights", [None, "nvidia/Cosmos@" + "0" * 40, HERE, f"{HERE}/model.safetensors"])
def test_what_dvc_sees_is_read(weights: str | None) -> None:
    check_local_files("world_model", params("world_model", weights=weights))
    check_local_files("base_policy", params("world_model", weights="elsewhere"))


@pytest.mark.parametrize("weights", ["elsewhere", "elsewhere/model.safetensors", f"{HERE}/../../../../elsewhere"])
def test_what_dvc_does_not_see_is_refused(weights: str) -> None:
    for path in (weights, str(Path(weights).resolve())):
        with pytest.raises(BadInput, match=r"world_model.weights\n.*\n.*data/weights/world_model\n.*dvc add"):
            check_local_files("world_model", params("world_model", weights=path))


def test_a_policy_starts_from_a_copy_of_the_world_model() -> None:
    """The stage does not depend on artifacts/world_model, which most policies do not start from."""
    block = compose("default", ROOT)["base_policy"]["cosmos_policy"] | {"weights": "artifacts/world_model"}
    changed = params("base_policy", family="cosmos_policy", cosmos_policy=block)
    with pytest.raises(BadInput, match=r"cosmos_policy.weights\n(.*\n)*.*data/weights/base_policy"):
        check_local_files("base_policy", changed)


@pytest.mark.parametrize("at", ["linked", "cosmos/below"])
def test_links_to_folders_are_refused_and_links_to_files_are_not(at: str) -> None:
    link = Path("data/weights/world_model", at)
    link.symlink_to(Path("elsewhere").resolve())
    with pytest.raises(BadInput, match="a link to a folder, which DVC does not follow"):
        check_local_files("world_model", params("world_model", weights=f"data/weights/world_model/{link.parts[3]}"))
    Path(HERE, "linked.safetensors").symlink_to(Path("elsewhere/model.safetensors").resolve())
    if at == "linked":
        check_local_files("world_model", params("world_model", weights=HERE))


def test_deps_are_resolved_as_dvc_does() -> None:
    deps = read_deps("world_model", params("base"))
    assert "infra/deepspeed/cpu.json" in deps and "data/weights/world_model" in deps
