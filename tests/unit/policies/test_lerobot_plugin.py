"""lerobot_policy_world2act: what can be said of it here, and its own tests in LeRobot's environment (`make lerobot`).

LeRobot 0.6 wants Python 3.12 and a torch older than ours. The policies are made here and acted there.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.helpers.lerobot_policies import CAMERAS, JOINTS, SIDE, make_policies
from tests.helpers.paths import ROOT
from world2act.core.storage import write_json
from world2act.policies.lerobot import FOLDER, TYPE, write_lerobot
from world2act.policies.robot import RobotDescription

PLUGIN = ROOT / "lerobot_policy_world2act"
CODE = PLUGIN / "src/lerobot_policy_world2act"
VENV = ROOT / ".venv-lerobot"
PROJECTS = {place: tomllib.loads((place / "pyproject.toml").read_text())["project"] for place in (ROOT, PLUGIN)}


def locked() -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==([^ ;\\]+)", (PLUGIN / "requirements.lock").read_text(), re.MULTILINE)
    return {name: Version(version) for name, version in lines}


def test_it_is_one_release_with_world2act() -> None:
    ours, plugin = PROJECTS[ROOT], PROJECTS[PLUGIN]
    assert plugin["name"].startswith("lerobot_policy_")  # by which LeRobot finds it
    assert plugin["version"] == ours["version"] and f"world2act=={ours['version']}" in plugin["dependencies"]
    assert plugin["license"] == ours["license"]


def test_modules_have_the_names_that_lerobot_derives() -> None:
    classes = {
        path.name: {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}
        for path in CODE.glob("*.py")
    }
    assert "World2ActConfig" in classes[f"configuration_{TYPE}.py"]
    assert "World2ActPolicy" in classes[f"modeling_{TYPE}.py"]
    assert f"make_{TYPE}_pre_post_processors" in classes[f"processor_{TYPE}.py"]


def test_importing_the_plugin_loads_no_policy() -> None:
    """LeRobot imports every plugin at the start of every command."""
    imported = {
        node.module
        for name in ("__init__.py", f"configuration_{TYPE}.py")
        for node in ast.parse((CODE / name).read_text()).body
        if isinstance(node, ast.ImportFrom)
    }
    assert "lerobot_policy_world2act.configuration_world2act" in imported
    assert not {name for name in imported if "modeling" in name or "transformers" in name or "torch" in name}


def test_lock_satisfies_the_plugin_and_what_a_policy_needs() -> None:
    pins = locked()
    set_up = (ROOT / "infra/lerobot/setup.sh").read_text()
    pins |= {name: Version(version) for name, version in re.findall(r"(torch\w*)==([\d.]+)", set_up)}
    test = PROJECTS[PLUGIN]["optional-dependencies"]["test"]
    for line in PROJECTS[PLUGIN]["dependencies"] + test + PROJECTS[ROOT]["dependencies"]:
        wanted = Requirement(line)
        if wanted.name != "world2act":
            assert wanted.specifier.contains(pins[wanted.name]), f"{line}: run `make lock`"


def test_lock_is_hashed_and_names_no_registry() -> None:
    text = (PLUGIN / "requirements.lock").read_text()
    assert "://" not in text
    assert len(re.findall(r"^\S+==.*\\\n    --hash=sha256:", text, re.MULTILINE)) >= len(locked()) > 60


def test_the_folder_states_the_robot_of_the_policy(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"family": "random", "chunk_length": 4, "action_dim": 3})
    RobotDescription("arm", CAMERAS, SIDE, "upright", tuple(JOINTS), tuple(JOINTS), 10).write(tmp_path)
    write_lerobot(tmp_path)
    config = json.loads((tmp_path / FOLDER / "config.json").read_text())
    assert config == {
        "type": "world2act",
        "input_features": {
            "observation.images.front": {"type": "VISUAL", "shape": [3, SIDE, SIDE]},
            "observation.images.hand": {"type": "VISUAL", "shape": [3, SIDE, SIDE]},
            "observation.state": {"type": "STATE", "shape": [3]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [3]}},
        "action_feature_names": JOINTS,
    }


@pytest.mark.slow
@pytest.mark.skipif(
    not (VENV / "stamp").exists(), reason="no .venv-lerobot: `make test-lerobot` makes it (Python 3.12 or 3.13)"
)
def test_lerobot_runs_policies_of_every_family(tmp_path: Path) -> None:
    make_policies(tmp_path)
    variables = os.environ | {"WORLD2ACT_TEST_POLICIES": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    variables.pop("PYTHONPATH", None)
    command = [VENV / "bin/python", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:logging", "tests"]
    done = subprocess.run(command, cwd=PLUGIN, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout[-400:])
