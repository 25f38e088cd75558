"""A small real pipeline to publish from: the layout of ours, stages of milliseconds, in git and DVC of its own.

Its fixtures are in tests/fixtures/release_pipeline.py; what is heavy is imported where it is used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from world2act.artifacts.publish import Published
    from world2act.artifacts.registry import Registry

STAGE = '''
"""One stage: `python stage.py NAME`. What it writes depends on params.yaml and on what it reads."""
import json, random, shutil, sys
from pathlib import Path

name = sys.argv[1]
params = json.loads(Path("params.yaml").read_text())  # JSON is YAML, and starts faster


def write(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode())


def weights(seed):
    return random.Random(seed).randbytes(params["size"])


if name.startswith("validate_"):
    artifact = name.removeprefix("validate_")
    holds = artifact != params["red"]
    record = {"table": "weights", "column": "finite", "meaning": "Every weight is finite.", "severity": "critical"}
    record |= {"observed": {"min": 1}, "expected": "True", "success": holds}
    write(f"reports/gates/{artifact}.json", {"artifact": artifact, "success": holds, "expectations": [record]})
    sys.exit(0 if holds else 2)

shutil.rmtree(f"artifacts/{name}", ignore_errors=True)
if name == "evaluate":
    rates = {"base": params["base"], "post_train": params["post_train"]["rate"], "random": 0}
    for policy, successes in rates.items():
        for seed in range(10):
            episode = {"task": "hammer", "seed": seed, "success": seed < successes, "steps": 3}
            write(f"artifacts/evaluate/episodes/{policy}/hammer-{seed}.json", episode)
    promote = rates["post_train"] >= rates["base"]
    verdict = {"promote": promote, "reason": ("not worse" if promote else "worse") + " than the incumbent"}
    write("artifacts/evaluate/summary.json", {"candidates": {"post_train": verdict}})
    write("metrics/evaluate/metrics.json", {f"success_{name}": rate / 10 for name, rate in rates.items()})
else:
    for part in range(params[name]["parts"]):
        write(f"artifacts/{name}/part-{part}.bin", weights(f"{name}-{part}-{params[name]['seeds'][part]}"))
    write(f"artifacts/{name}/deep/config.json", {"family": name})
    write(f"metrics/{name}/metrics.json", {"loss": params[name]["seeds"][0] / 8})
'''

PARAMS: dict[str, Any] = {
    "size": 5000,
    "red": "",
    "base": 4,
    "evaluate": {
        "policies": {"base": "artifacts/base_policy", "post_train": "artifacts/post_train"},
        "incumbent": "base",
    },
    "base_policy": {"parts": 2, "seeds": [0, 0]},
    "post_train": {"parts": 4, "seeds": [0, 0, 0, 0], "rate": 6},
}


@dataclass(frozen=True)
class Pipeline:
    """A pipeline in a folder of its own, whose default remote is `store`."""

    root: Path
    store: str

    def set(self, **params: Any) -> Pipeline:
        """Change top-level params; a mapping changes the keys that it names."""
        values = json.loads((self.root / "params.yaml").read_text())
        for key, value in params.items():
            values[key] = values[key] | value if isinstance(value, dict) else value
        (self.root / "params.yaml").write_text(json.dumps(values))
        return self

    def repro(self) -> Pipeline:
        """Bring it up to date. A red gate raises `dvc.exceptions.ReproductionError`."""
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.ERROR)
        with Repo(str(self.root)) as repo:
            repo.reproduce(all_pipelines=True)
        return self

    def commit(self, message: str = "a change") -> Pipeline:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)
        return self

    def push(self) -> Pipeline:
        """Move the outputs of the workspace to the store, as DVC does."""
        from dvc.repo import Repo

        with Repo(str(self.root)) as repo:
            repo.push()
        return self

    def copy(self, folder: Path, store: str | None = None) -> Pipeline:
        """The same pipeline, cache included, elsewhere, and with another store."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Pipeline(folder, store or self.store).use_store()

    def use_store(self) -> Pipeline:
        """Make the store DVC's default remote, outside git."""
        config = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {self.store}\n"
        (self.root / ".dvc/config.local").write_text(config)
        return self

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command in it that has to succeed. Returns: what it printed."""
        done = self.attempt(*command, env=env)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in it; `world2act` runs this tree's code."""
        return subprocess.run(
            as_python(command), cwd=self.root, env=environment() | dict(env or {}), capture_output=True, text=True
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in it."""
        return subprocess.Popen(
            as_python(command),
            cwd=self.root,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def as_python(command: tuple[str, ...]) -> list[str]:
    if command[0] == "world2act":
        return [sys.executable, "-m", "world2act.cli", *command[1:]]
    return list(command)


def environment() -> dict[str, str]:
    """Variables in which `python` is this one and world2act this tree."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "COLUMNS": "200",
        "DVC_NO_ANALYTICS": "1",
    }


def make_pipeline(root: Path, store: str, **params: Any) -> Pipeline:
    """Write the pipeline, run it and commit it."""
    root.mkdir(parents=True)
    pipeline = Pipeline(root, store)
    (root / "stage.py").write_text(STAGE)
    (root / "params.yaml").write_text(json.dumps(PARAMS | params))
    (root / "dvc.yaml").write_text(json.dumps(_stages(), indent=1))
    (root / ".gitignore").write_text("/artifacts/\n/metrics/\n/reports/\n")
    pipeline.run("git", "init", "--quiet", "--initial-branch", "main")
    pipeline.run("git", "config", "user.name", "test")
    pipeline.run("git", "config", "user.email", "test@localhost")
    pipeline.run(sys.executable, "-m", "dvc", "init", "--quiet")
    return pipeline.use_store().repro().commit("a pipeline")


def _stages() -> dict[str, Any]:
    stages: dict[str, Any] = {}
    reads = {"base_policy": [], "post_train": ["base_policy"], "evaluate": ["base_policy", "post_train"]}
    for name, artifacts in reads.items():
        gated = [path for each in artifacts for path in (f"artifacts/{each}", f"reports/gates/{each}.json")]
        stages[name] = {
            "cmd": f"exec python stage.py {name}",
            "deps": ["stage.py", *gated],
            "params": ["size", name] if name != "evaluate" else ["base", "post_train"],
            "outs": [{f"artifacts/{name}": {"persist": True}}],
            "metrics": [f"metrics/{name}/metrics.json"],
        }
        stages[f"validate_{name}"] = {
            "cmd": f"exec python stage.py validate_{name}",
            "deps": ["stage.py", f"artifacts/{name}"],
            "params": ["red"],
            "outs": [{f"reports/gates/{name}.json": {"persist": True}}],
        }
    released = {"policy": {"path": "artifacts/post_train"}, "base-policy": {"path": "artifacts/base_policy"}}
    return {"stages": stages, "artifacts": released}


def quietly(name: str = "policy", **options: bool) -> Published:
    """Publish without a word."""
    from world2act.artifacts.publish import publish

    return publish(name, progress=lambda _: None, **options)


def stored(registry: Registry, prefix: str = "") -> dict[str, int]:
    """Bytes of every object below a prefix."""
    return {key: size for key, size, *_ in registry.store.list(prefix)}


def seeds(*values: int) -> dict[str, list[int]]:
    """The change of params that changes the parts with another seed."""
    return {"seeds": list(values)}
