"""Artifacts are whole or not there, the same content gives the same bytes, damage is named."""

import errno
import os
import resource
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.storage import (
    atomic_directory,
    atomic_file,
    read_array,
    read_json,
    read_parquet,
    read_tensors,
    sha256,
    write_json,
    write_parquet,
    write_tensors,
)

SCHEMA = pa.schema([("episode", pa.int64()), ("prompt", pa.string())])
ROWS = [{"episode": i, "prompt": f"pick object {i}"} for i in range(500)]
TENSORS = {"b.weight": np.arange(6000, dtype=np.float32), "a.weight": np.ones((3, 4), np.float32)}


def test_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    for content in ("old", "new"):
        with atomic_directory(target) as directory:
            (directory / f"{content}.txt").write_text(content)
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyboardInterrupt()])
def test_failed_write_leaves_the_last_good_directory(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "artifact"
    with atomic_directory(target) as directory:
        (directory / "good.txt").write_text("good")
    with pytest.raises(type(error)), atomic_directory(target) as directory:
        (directory / "half.txt").write_text("half")
        raise error
    assert [path.name for path in target.iterdir()] == ["good.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_failed_write_leaves_the_last_good_file(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    write_json(target, {"loss": 1.0})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(target, {"loss": float("nan")})
    assert read_json(target) == {"loss": 1.0}
    assert list(tmp_path.iterdir()) == [target]


def _write_until_killed(target: Path) -> None:
    with atomic_directory(target) as directory:
        (directory / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_kill_in_mid_write_leaves_the_last_good_directory(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with atomic_directory(target) as directory:
        (directory / "good.txt").write_text("good")
    process = get_context("fork").Process(target=_write_until_killed, args=(target,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in target.iterdir()] == ["good.txt"]


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_directory(tmp_path / name) as directory:
            write_json(directory / "a.json", {"b": 1, "a": [0.1, 2]} if name == "first" else {"a": [0.1, 2], "b": 1})
            write_parquet(directory / "b.parquet", ROWS, SCHEMA)
            write_tensors(directory / "c.safetensors", dict(sorted(TENSORS.items(), reverse=name == "first")))
    assert sha256(tmp_path / "first") == sha256(tmp_path / "second")


def test_hash_of_a_directory_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    first = sha256(tmp_path / "a")
    (tmp_path / "a/x").write_text("2")
    second = sha256(tmp_path / "a")
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    assert len({first, second, sha256(tmp_path / "a")}) == 3


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", ROWS, SCHEMA)
    write_tensors(tmp_path / "model.safetensors", TENSORS)
    assert read_parquet(tmp_path / "rows.parquet", ["prompt"]).to_pydict() == {
        "prompt": [row["prompt"] for row in ROWS]
    }
    for name, tensor in read_tensors(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, TENSORS[name])


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "corrupted":
            content[: len(content) // 2] = os.urandom(len(content) // 2)
            content[-8:] = b"\0" * 8
            path.write_bytes(content)
        case "missing":
            path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "corrupted", "missing"])
@pytest.mark.parametrize("kind", ["json", "parquet", "safetensors", "npy"])
def test_damaged_file_is_named_with_a_remedy(tmp_path: Path, kind: str, how: str) -> None:
    path = tmp_path / f"file.{kind}"
    match kind:
        case "json":
            write_json(path, ROWS)
        case "parquet":
            write_parquet(path, ROWS, SCHEMA)
        case "safetensors":
            write_tensors(path, TENSORS)
        case "npy":
            np.save(path, TENSORS["b.weight"])
    reader = {"json": read_json, "parquet": read_parquet, "safetensors": read_tensors, "npy": read_array}[kind]
    _damage(path, how)
    with pytest.raises(BadInput) as caught:
        reader(path)
    assert caught.value.where == str(path) and "dvc" in caught.value.remedy


def test_damage_inside_a_parquet_column_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, ROWS, SCHEMA)
    content = bytearray(path.read_bytes())
    middle = len(content) // 4
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"rows\.parquet"):
        read_parquet(path)


def test_missing_column_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", ROWS, SCHEMA)
    with pytest.raises(BadInput, match=r"rows\.parquet: start"):
        read_parquet(tmp_path / "rows.parquet", ["start"])


def test_pickle_is_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"objects\.npy"):
        read_array(tmp_path / "objects.npy")


_IN_DIRECTORY = "d = stack.enter_context(atomic_directory(target));"
_WRITERS = {
    "json": "write_json(target / 'file', ['x' * 100] * 20_000)",
    "parquet": "write_parquet(target / 'file', [{'x': os.urandom(2_000_000)}], pa.schema([('x', pa.binary())]))",
    "safetensors": "write_tensors(target / 'file', {'x': np.ones(500_000, np.float32)})",
    "memory map": f"{_IN_DIRECTORY} create_array(d / 'file.npy', (500_000,))[:] = 1",
    "directory": f"{_IN_DIRECTORY} np.save(d / 'file.npy', np.ones(500_000, np.float32))",
}


@pytest.mark.parametrize("kind", _WRITERS)
def test_full_disk_is_one_message_and_keeps_the_last_good_artifact(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "artifact"
    target.mkdir()
    (target / "file").write_text("good")
    code = f"""
import os, pathlib, sys
from contextlib import ExitStack
import numpy as np, pyarrow as pa
from world2act.core.errors import InfrastructureError
from world2act.core.storage import *
target = pathlib.Path(sys.argv[1])
try:
    with ExitStack() as stack:
        {_WRITERS[kind]}
except InfrastructureError as error:
    print(error)
    sys.exit(2)
"""

    def fill_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, preexec_fn=fill_disk, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "free disk space" in done.stdout and str(target) in done.stdout
    assert (target / "file").read_text() == "good"
    assert [path.name for path in tmp_path.rglob("*")] == ["artifact", "file"]


def test_other_operating_system_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_file(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(InfrastructureError), atomic_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
