"""The checks of `world2act check`: whether this machine and environment can run the pipeline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from world2act.processes.dvc_command import dvc_command

LOCK = Path("requirements.lock")
DISK_GIB = 5.0
_SET_UP = "run `make setup`"

_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.3'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    frame = renderer.render()
print(frame.std())
"""


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    found: str
    remedy: str


def run_checks() -> list[Finding]:
    """Run every check, in the order in which a user would fix them."""
    return [_python(), _packages(), _torch(), _rendering(), _dvc(), _disk()]


def _python() -> Finding:
    version = sys.version_info
    return Finding(
        "Python", version >= (3, 11), f"{sys.version.split()[0]} at {sys.executable}", "install Python 3.11 or later"
    )


def _packages() -> Finding:
    lines = re.findall(r"^([a-zA-Z0-9].*?)\s*\\?$", LOCK.read_text(), re.MULTILINE)
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    wrong = []
    for pin in pins:
        installed = _installed(pin.name)
        if installed is None or not pin.specifier.contains(installed, prereleases=True):
            wrong.append(f"{pin.name} (found {installed}, {LOCK} has {pin.specifier})")
    found = f"{len(pins)}, as {LOCK} pins them" if not wrong else f"{len(wrong)} differ: {', '.join(wrong[:5])}"
    return Finding("Python packages", not wrong, found, _SET_UP)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> Finding:
    done = _run("import torch; print(torch.__version__, 'with CUDA' if torch.cuda.is_available() else 'on CPU')")
    return Finding("torch", done.returncode == 0, _last_line(done), _SET_UP)


def _rendering() -> Finding:
    backend = os.environ.get("MUJOCO_GL", "osmesa")
    done = _run(_RENDER, MUJOCO_GL=backend)
    ok = done.returncode == 0 and float(done.stdout) > 0
    found = f"a frame by {backend}" if ok else "a blank frame" if done.returncode == 0 else _last_line(done)
    return Finding("off-screen rendering", ok, found, f"{_SET_UP}: it installs libosmesa6, libgl1 and libegl1")


def _dvc() -> Finding:
    done = subprocess.run(dvc_command("root"), capture_output=True, text=True)
    found = f"DVC {metadata.version('dvc')}" if done.returncode == 0 else _last_line(done)
    return Finding("DVC repository", done.returncode == 0, found, "run world2act in a git clone of the project")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    return Finding(
        "disk", free >= DISK_GIB, f"{free:.1f} GiB free", f"free some space: the pipeline needs {DISK_GIB:.0f} GiB"
    )


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).strip().splitlines()[-1]
