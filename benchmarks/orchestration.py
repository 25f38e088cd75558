"""What Prefect and DVC cost in addition to the stages themselves.

    python -m benchmarks.orchestration [--repeats 3]

It uses the project's graph and dependencies in a temporary copy, with stages that only write small files. In
alternation, it runs the stages by hand, `dvc repro` and the flow, all from scratch; then the flow with nothing to do,
once with a running server and once with the temporary server that the flow starts. Figures are seconds, and seconds per
stage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import by_turns, describe_machine, seconds, spread
from flows.serve import running_server, server_environment

ROOT = Path(__file__).parents[1]
_GATE = '{"artifact": "stub", "success": true, "expectations": []}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"machine: {describe_machine('prefect', 'dvc')}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pipeline"
        stages = make_stubs(root)
        alone = os.environ | {"PYTHONPATH": str(root), "PREFECT_HOME": f"{folder}/prefect", "DO_NOT_TRACK": "1"}
        alone |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        alone.pop("PREFECT_API_URL", None)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with_server = server_environment(alone, "127.0.0.1", port) | alone
        with_server["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        with running_server(with_server, "127.0.0.1", port):
            flow, dvc = [sys.executable, "-m", "flows.pipeline"], [sys.executable, "-m", "dvc", "repro", "--quiet"]

            def from_scratch(*commands: Any, environment: dict[str, str] = with_server) -> float:
                clean(root)
                return seconds(lambda: [run(command, root, environment) for command in commands])

            sides = {
                "by hand": lambda: from_scratch(*(stage["cmd"] for stage in stages.values())),
                "dvc": lambda: from_scratch(dvc),
                "flow": lambda: from_scratch(flow),
                "nothing": lambda: seconds(lambda: run(flow, root, with_server)),
                "nothing, alone": lambda: seconds(lambda: run(flow, root, alone)),
            }
            wall_s = by_turns(sides, repeats)
    count = len(stages)
    print(f"{count} stages, {repeats} repeats; whole runs from scratch, s:")
    for side in ("by hand", "dvc", "flow"):
        print(f"  {side}: {spread(wall_s[side])}")
    print(f"dvc repro over the stages by hand, s per stage: {spread(over(wall_s, 'dvc', 'by hand', count))}")
    print(f"flow over dvc repro, s per stage: {spread(over(wall_s, 'flow', 'dvc', count))}")
    print(f"flow with nothing to do, server running, s: {spread(wall_s['nothing'])}")
    print(f"flow with nothing to do, with a server of its own, s: {spread(wall_s['nothing, alone'])}")


def over(wall_s: dict[str, list[float]], above: str, below: str, stages: int) -> list[float]:
    """How much longer one side takes than another, per stage, for every repetition."""
    return [(one - other) / stages for one, other in zip(wall_s[above], wall_s[below], strict=True)]


def make_stubs(root: Path) -> dict[str, Any]:
    """Copy the tree. Every stage keeps its dependencies and outputs, but only writes the outputs.."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        outputs = [*stage["outs"], *stage.get("metrics", [])]
        paths = [next(iter(output)) if isinstance(output, dict) else output for output in outputs]
        stage["cmd"] = " && ".join(map(_write, paths))
    pipeline.pop("plots")
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return pipeline["stages"]


def _write(output: str) -> str:
    path = Path(output)
    content = _GATE if "gates" in output else "{}"
    file = path if path.suffix else path / "file"
    return f"mkdir -p {file.parent} && echo '{content}' > {file}"


def clean(root: Path) -> None:
    """Delete everything but the sources."""
    for name in ("artifacts", "metrics", "reports", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "dvc.lock").unlink(missing_ok=True)


def run(command: str | list[str], root: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=root, env=environment, shell=isinstance(command, str), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
