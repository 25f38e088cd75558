"""Import from a real S3 server, and how much memory an import takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.helpers.ceph import S3
from tests.helpers.foreign import unpacked
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.storage import sha256
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.importers.run import import_dataset


def upload(s3: S3, folder: Path, prefix: str) -> str:
    bucket = s3.make_bucket()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.client().upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
    return f"s3://{bucket}/{prefix}"


@pytest.mark.parametrize(("name", "inside"), [("libero", ""), ("lerobot_v30", "videos"), ("lerobot_v21", "images")])
def test_a_bucket_gives_the_bytes_that_a_folder_gives(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: str
) -> None:
    for variable, value in s3.environment().items():
        monkeypatch.setenv(variable, value)
    folder = unpacked(name, tmp_path) / inside
    url = upload(s3, folder, f"some/{folder.name}")
    import_dataset(url, tmp_path / "remote")
    import_dataset(str(folder), tmp_path / "local")
    assert sha256(tmp_path / "remote") == sha256(tmp_path / "local")


def test_one_object(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in s3.environment().items():
        monkeypatch.setenv(variable, value)
    url = upload(s3, unpacked("robomimic", tmp_path), "kitchen")
    import_dataset(f"{url}/demo_im16.hdf5", tmp_path / "set")
    assert len(EpisodeDataset.open(tmp_path / "set")) == 3


def test_a_server_that_says_no(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message tells which variables to look at, and no secret."""
    url = upload(s3, unpacked("robomimic", tmp_path), "kitchen")
    keys = s3.wrong_keys()
    for variable, value in s3.environment(keys).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InfrastructureError, match="AWS_ENDPOINT_URL") as refused:
        import_dataset(url, tmp_path / "set")
    assert s3.environment(keys)["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)
    for variable, value in s3.environment().items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match="no file"):
        import_dataset(f"{url}/elsewhere", tmp_path / "set")
    with pytest.raises(BadInput, match="no such bucket"):
        import_dataset("s3://no-such-bucket-anywhere/x", tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["robomimic"]


MEASURE = """
import resource, sys
from pathlib import Path
from world2act.formats.importers.run import import_dataset
import_dataset(sys.argv[1], Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    """Eight times the episodes, 182 MiB of pixels instead of 23, made by repeating LIBERO's own two demonstrations."""
    source = unpacked("libero", tmp_path)
    (small,) = (source / "libero_object").iterdir()
    peaks = []
    for times in (8, 64):
        folder = tmp_path / f"suite{times}"
        folder.mkdir()
        with h5py.File(small) as old, h5py.File(folder / small.name, "w") as new:
            data = new.create_group("data")
            data.attrs.update(old["data"].attrs)
            for index in range(2 * times):
                old.copy(f"data/demo_{index % 2}", data, f"demo_{index}")
                for name in ("agentview_rgb", "eye_in_hand_rgb"):
                    wide = old[f"data/demo_{index % 2}/obs/{name}"][()].repeat(6, 1).repeat(6, 2)
                    del data[f"demo_{index}/obs/{name}"]
                    data[f"demo_{index}/obs/{name}"] = wide
        command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / f"set{times}")]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout))
    assert peaks[1] - peaks[0] < 12, peaks
