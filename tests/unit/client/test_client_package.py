"""The client as a robot installs it: from its own sources, with its own dependencies and nothing else in sight."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.helpers.client_release import Shelf
from tests.helpers.paths import ROOT

FORBIDDEN = {"world2act", "dvc", "git", "torch", "numpy", "pandas", "s3fs", "aiobotocore", "prefect", "typer"}
GET = """
import importlib.util, json, shutil, sys
assert sys.flags.no_site and shutil.which("git") is None and shutil.which("dvc") is None
from world2act_client.cli import main
sys.argv = ["world2act-client", "get", "policy@prod", sys.argv[1]]
main()
found = [name for name in json.loads(sys.stdin.read()) if importlib.util.find_spec(name)]
print(json.dumps({"found": found, "loaded": sorted(name.split(".")[0] for name in sys.modules)}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built client and the distributions that it asks for, directly or not."""
    folder = tmp_path_factory.mktemp("robot")
    source = shutil.copytree(ROOT / "client", folder / "source")  # a build writes into its sources
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(target), str(source)], check=True)
    metadata = next(target.glob("world2act_client-*.dist-info/METADATA")).read_text()
    asked = re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE)
    assert sorted(asked) == ["boto3", "cryptography", "tqdm"]
    _copy_with_dependencies(asked, target)
    return target


def _copy_with_dependencies(names: list[str], target: Path) -> None:
    done: set[str] = set()
    while names:
        name = names.pop()
        if name in done:
            continue
        done.add(name)
        package = distribution(name)
        for file in package.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                place = target / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), place)
        names += [re.match(r"[\w.-]+", each)[0] for each in package.requires or () if "extra ==" not in each]


def test_get_needs_nothing_but_its_own_dependencies(shelf: Shelf, installed: Path, tmp_path: Path) -> None:
    files = {"model": b"weights", "config.json": b"{}"}
    shelf.promote(shelf.publish(1, files), 1)
    variables = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "WORLD2ACT_"))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", GET, str(shelf.destination)],
        env=variables | {"PYTHONPATH": str(installed), "PATH": "", "HOME": str(tmp_path)},
        cwd=tmp_path,
        input=json.dumps(sorted(FORBIDDEN)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["found"] == [] and not FORBIDDEN & set(seen["loaded"])
    assert shelf.read_destination() == files


def test_client_is_small(installed: Path) -> None:
    code = list((installed / "world2act_client").glob("*.py"))
    assert len(code) > 5 and sum(path.stat().st_size for path in code) < 100_000
