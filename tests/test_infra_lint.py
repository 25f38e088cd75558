"""Images, compose and manifests before the tools that know their formats: hadolint, Compose, Kubernetes' schemas.

The tools carry binaries and schemas of 250 MB, so they get an environment of their own and the tests are slow ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_infra_kubernetes import APPLIED, KUBERNETES, work_pools

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tools' commands."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-r", INFRA / "lint-requirements.txt"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def passes(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_images_pass_hadolint(tools: Path) -> None:
    files = sorted((INFRA / "images").glob("*ockerfile"))
    assert passes(tools / "hadolint", "--failure-threshold", "info", *files) == ""


def test_compose_renders_with_the_example_filled_in_and_not_without(tools: Path) -> None:
    example = (INFRA / ".env.example").read_text()
    values = {name: value or "/filled-in" for name, value in re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)}
    for files in (["compose.yaml"], ["compose.yaml", "compose.cuda.yaml"]):
        options = [part for file in files for part in ("-f", INFRA / file)]
        # the program itself: the package's command ends with 0 whatever it says
        (program,) = tools.parent.glob("lib/python*/site-packages/compose/docker-compose")
        command = [program, "--env-file", os.devnull, *options, "config"]
        rendered = yaml.safe_load(passes(*command, **values))
        assert set(rendered["services"]) >= {"server", "postgres", "worker", "s3"}
        for name in values:
            if re.search(rf"\$\{{{name}:\?", (INFRA / "compose.yaml").read_text()):
                left = {key: value for key, value in (os.environ | values).items() if key != name}
                done = subprocess.run(command, env=left, capture_output=True, text=True)
                assert done.returncode != 0 and name in done.stderr, name
    assert rendered["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_manifests_fit_the_schemas_of_kubernetes(tools: Path, tmp_path: Path, version: str) -> None:
    files = []
    for name in APPLIED:
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(passes("kubectl", "kustomize", KUBERNETES / name))
    for name, job in work_pools().items():
        (container,) = job["spec"]["template"]["spec"]["containers"]
        # as the Prefect worker fills them in
        job["metadata"] = {"name": name, "namespace": "world2act"}
        container["args"] = ["prefect"]
        container["env"] = [{"name": key, "value": value} for key, value in container["env"].items()]
        for group, amounts in container["resources"].items():
            container["resources"][group] = {key: str(value) for key, value in amounts.items() if value is not None}
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(job))
    passes(tools / "kubernetes-validate", "--strict", "--kubernetes-version", version, *files)
    broken = files[0].read_text().replace("replicas:", "replica:")
    (tmp_path / "broken.yaml").write_text(broken)
    done = subprocess.run([tools / "kubernetes-validate", "--strict", tmp_path / "broken.yaml"], capture_output=True)
    assert done.returncode != 0, "the check checks nothing"
