"""What `make` promises: one set-up for every command, from any path, that names what it cannot install."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers.paths import ROOT

TOOLS = ("bash", "basename", "cat", "cut", "dirname", "env", "git", "grep", "readlink", "sha256sum", "tr")


def lock_pins() -> dict[str, Requirement]:
    """What the lock installs here: some packages stand in it twice, each for some versions of Python."""
    lines = re.findall(r"^([a-zA-Z0-9].*?)\s*\\?$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    return {pin.name.lower().replace("_", "-"): pin for pin in pins}


def test_lock_satisfies_every_dependency_of_the_project_and_of_its_client() -> None:
    project, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in (".", "client")
    )
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    pins = lock_pins()
    for line in project["dependencies"] + extras + client["dependencies"]:
        wanted = Requirement(line)
        if wanted.name not in ("torch", client["name"]):
            (pin,) = pins[wanted.name.lower()].specifier
            assert wanted.specifier.contains(pin.version), f"{line}, the lock has {pin}: run `make lock`"


def test_torch_is_installed_apart_in_the_version_of_the_project() -> None:
    assert "torch" not in lock_pins()
    wanted = re.search(r'^TORCH="(.*)"', (ROOT / "infra/setup.sh").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wanted is not None and wanted[1] in project["optional-dependencies"]["pipeline"]


def test_lock_is_hashed_and_names_no_registry() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pinned = re.findall(r"^\S+==", text, re.MULTILINE)
    assert len(re.findall(r"^\S+==.*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pinned) > 200


@pytest.mark.parametrize("target", ["repro", "test", "test-fast", "test-slow", "lint", "lock"])
def test_every_target_sets_up_first(target: str) -> None:
    # the tests themselves may run under make, which hands its flags down
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    command = ["make", "--dry-run", target]
    shown = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[0] == "bash infra/setup.sh" + " test" * (
        target.startswith("test") or target == "lint"
    )


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "exec make test"
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of the set-up in a git repository whose path holds a space, and a PATH of bare tools."""
    root = tmp_path / "a clone"
    for name in ("infra/setup.sh", "requirements.lock", "pyproject.toml", "client/pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    _script(tools / "id", "echo 1000")  # an ordinary user, whoever runs the tests
    commit = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "a", "--allow-empty"]
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(commit, cwd=root, check=True)
    return root


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def setup(clone: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(clone.parent / "bin"), "HOME": str(clone.parent)}
    return subprocess.run(
        ["bash", str(clone / "infra/setup.sh")], env=environment, capture_output=True, text=True, timeout=60
    )


def python_without(clone: Path, what: str) -> None:
    _script(clone.parent / "bin/python3", f'case "$*" in *{what}*) exit 1;; esac\nexec "{sys.executable}" "$@"')


@pytest.mark.parametrize(
    ("what", "package"),
    [("libOSMesa", "libosmesa6"), ("libGL.so", "libgl1"), ("libEGL", "libegl1"), ("ensurepip", "-venv")],
)
def test_missing_system_package_is_named_with_the_command(clone: Path, what: str, package: str) -> None:
    python_without(clone, what)
    failed = setup(clone)
    assert failed.returncode == 1
    missing = next(line for line in failed.stdout.splitlines() if "missing system packages" in line)
    assert missing.endswith(package) and len(missing.split(": ")[2].split()) == 1
    assert re.search(rf"sudo sh -c 'apt-get update && apt-get install -y .*{package}'", failed.stderr)
    assert not (clone / ".venv").exists()


def test_without_any_python_it_names_all_packages(clone: Path) -> None:
    failed = setup(clone)
    assert failed.returncode == 1
    assert "python3 python3-venv libosmesa6 libgl1 libegl1" in failed.stderr


def test_too_old_python_is_named(clone: Path) -> None:
    _script(clone.parent / "bin/python3", 'case "$*" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    for tool in ("id", "apt-get"):
        (clone.parent / "bin" / tool).unlink(missing_ok=True)
    _script(clone.parent / "bin/id", "echo 0")
    _script(clone.parent / "bin/apt-get", "exit 0")
    failed = setup(clone)
    assert failed.returncode == 1 and "found Python 3.9.2" in failed.stderr and "make PYTHON=" in failed.stderr


def test_outside_of_a_git_clone_it_says_so(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    python_without(clone, "nothing-at-all")
    failed = setup(clone)
    assert failed.returncode == 1 and "not a git clone" in failed.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fresh_clone_installs_and_the_second_time_is_instant(tmp_path: Path) -> None:
    """Takes about two minutes and 2.5 GB."""
    root = tmp_path / "a fresh clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
    subprocess.run(["make", "setup"], cwd=root, check=True)
    marker = root / ".venv/marker"
    marker.touch()
    again = subprocess.run(["make", "setup"], cwd=root, check=True, capture_output=True, text=True)
    assert again.stdout == "" and marker.exists()
    shown = subprocess.run([root / ".venv/bin/world2act", "check"], cwd=root, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout
