"""Each stage given something it cannot use: one clear message, exit code 2, the last good artifact in place."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers.clone import Clone
from tests.helpers.paths import ROOT
from tests.helpers.ranks import run_module
from world2act.core.storage import read_json, sha256, write_json
from world2act.processes.dvc_command import stage_environment

pytestmark = pytest.mark.timeout(1200)


@dataclass(frozen=True)
class Workplace:
    """A pipeline root with this tree's code and a copy of what the tiny run wrote."""

    root: Path

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def edit_params(self, old: str, new: str) -> None:
        path = self.root / "params.yaml"
        text = path.read_text()
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new))

    def start(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = stage_environment() | {"PYTHONPATH": str(self.root)} | environment
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.root, env=variables, capture_output=True, text=True
        )

    def refuses(
        self,
        stage: str,
        *said: str,
        launched: bool = False,
        limit: Callable[[], None] | None = None,
        **environment: str,
    ) -> None:
        """The stage must end with one message that says all of this, and leave its last artifact as it was."""
        before = sha256(self.artifacts / stage) if (self.artifacts / stage).exists() else None
        module = f"stages.{stage}"
        if launched:
            done = self.start("world2act.training.launch", module)
        elif environment:
            done = self.start(module, **environment)
        else:
            done = run_module(self.root, module, limit)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        for words in (*said, "found:", "expected:", "remedy:"):
            assert words in done.stderr, done.stderr
        assert done.stderr.count("remedy:") == 1, done.stderr
        after = sha256(self.artifacts / stage) if (self.artifacts / stage).exists() else None
        assert before == after
        assert not list(self.artifacts.glob(".*")), "a half-written artifact was left"


@pytest.fixture
def place(tiny_run: Clone, tmp_path: Path) -> Workplace:
    for name in ("world2act", "stages", "conf", "infra", "data", "dvc.yaml", "requirements.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")
    shutil.copy(tiny_run.root / "params.yaml", tmp_path)
    shutil.copytree(tiny_run.root / "artifacts", tmp_path / "artifacts")
    return Workplace(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("seed: 0", "sead: 0", "base.sead"),
        ("workers: 2", "workers: two", "base.workers"),
        ("image_size: 64", "image_size: 64.5", "demos.image_size"),
    ],
)
def test_wrong_parameter(place: Workplace, old: str, new: str, key: str) -> None:
    place.edit_params(old, new)
    place.refuses("skills", "params.yaml", key)


def test_wrong_parameter_of_a_launched_stage(place: Workplace) -> None:
    place.edit_params("ranks: 2", "ranks: 0")
    place.refuses("bridge", "base.ranks", launched=True)


def test_unknown_simulator(place: Workplace) -> None:
    place.edit_params("simulator: metaworld", "simulator: holodeck")
    place.refuses("demos", "demos.simulator", "holodeck")


def test_unknown_task(place: Workplace) -> None:
    place.edit_params("tasks: [coffee-push, plate-slide]", "tasks: [coffee-push, juggle]")
    place.refuses("demos", "demos.tasks", "juggle", "hammer")


def test_simulator_that_is_not_installed(place: Workplace) -> None:
    (place.root / "absent").mkdir()
    (place.root / "absent/metaworld.py").write_text("raise ModuleNotFoundError('no', name='metaworld')\n")
    place.refuses("demos", "'metaworld'", "make setup", PYTHONPATH=f"{place.root}:{place.root}/absent")


def test_renderer_whose_library_does_not_load(place: Workplace) -> None:
    """A library of that name without OpenGL's functions; the loader would pass over a file that is no library."""
    (place.root / "lib").mkdir()
    loaded = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    shutil.copy(next(path for path in loaded if "/libm.so" in path), place.root / "lib/libOSMesa.so.8")
    place.refuses("demos", "osmesa", "apt-get install", MUJOCO_GL="osmesa", LD_LIBRARY_PATH=str(place.root / "lib"))


def test_empty_demo_set(place: Workplace) -> None:
    info = place.artifacts / "demos/labelled/meta/info.json"
    write_json(info, read_json(info) | {"total_episodes": 0, "total_frames": 0})
    episodes = first(place.artifacts / "demos/labelled/meta/episodes", "*.parquet")
    pq.write_table(pq.read_table(episodes).slice(0, 0), episodes)
    place.refuses("skills", "labelled", "at least one")


def test_missing_artifact(place: Workplace) -> None:
    shutil.rmtree(place.artifacts / "skills")
    place.refuses("latents", "artifacts/skills/skills.parquet", "dvc repro")


def test_truncated_demonstrations(place: Workplace) -> None:
    truncate(first(place.artifacts / "demos/labelled/data", "*.parquet"))
    place.refuses("skills", "artifacts/demos/labelled/data", "a whole parquet file")


def test_one_flipped_bit_in_a_parquet_file(place: Workplace) -> None:
    path = place.artifacts / "skills/skills.parquet"
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content[column.dictionary_page_offset or column.data_page_offset] ^= 0xFF
    path.write_bytes(content)
    place.refuses("latents", "artifacts/skills/skills.parquet")


@pytest.mark.parametrize(
    ("damaged", "stage", "launched"),
    [
        ("tokenizer/vae", "latents", False),
        ("tokenizer/text_encoder", "latents", False),
        ("world_model/transformer", "rollouts", False),
        ("bridge", "post_train", True),
        ("base_policy", "evaluate", False),
        ("post_train", "evaluate", False),
    ],
)
def test_truncated_weights(place: Workplace, damaged: str, stage: str, launched: bool) -> None:
    truncate(first(place.artifacts / damaged, "*.safetensors"))
    place.refuses(stage, f"artifacts/{damaged}", launched=launched)


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.fixture
def full_disk(place: Workplace) -> Iterator[Callable[[], None] | None]:
    """Artifacts on a file system with no room left; where none can be mounted, a limit on the size of files."""
    size = sum(path.stat().st_size + 8192 for path in place.artifacts.rglob("*"))
    store = place.root / "store"
    place.artifacts.rename(store)
    place.artifacts.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place.artifacts)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        place.artifacts.rmdir()
        store.rename(place.artifacts)
        yield _small_files
        return
    try:
        shutil.copytree(store, place.artifacts, dirs_exist_ok=True)
        free = shutil.disk_usage(place.artifacts).free
        (place.artifacts / "ballast").write_bytes(b"\0" * max(0, free - 16384))
        yield None
    finally:
        subprocess.run(["umount", "--lazy", str(place.artifacts)], check=True)


@pytest.mark.parametrize("stage", ["demos", "latents", "rollouts"])
def test_full_disk(place: Workplace, full_disk: Callable[[], None] | None, stage: str) -> None:
    place.refuses(stage, f"artifacts/{stage}", "free disk space", limit=full_disk)
