"""An installed package adds an importer and an exporter; no file of ours names them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import toy_package
from world2act.core.errors import BadInput
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.exporters.run import all_exporters, export_dataset
from world2act.formats.importers.run import import_dataset


@pytest.fixture
def package(tmp_path: Path) -> Iterator[None]:
    toy_package.install(tmp_path / "packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "packages")
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_package"]:
        del sys.modules[name]


def write_source(folder: Path) -> list[np.ndarray]:
    """Two episodes of 6 and 7 frames in the toy format. Returns: their frames."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (length, 8, 8, 3), dtype=np.uint8) for length in (6, 7)]
    for i, video in enumerate(videos):
        np.savez(folder / f"{i}.npz", front=video, state=np.linspace(0, 1, len(video), dtype=np.float32)[:, None])
    return videos


def test_its_reader_is_found_by_the_files_and_its_writer_by_name(package: None, tmp_path: Path) -> None:
    videos = write_source(tmp_path / "source")
    done = import_dataset(str(tmp_path / "source"), tmp_path / "set")
    assert (done.format, done.episodes, done.frames) == ("toy_reader", 2, 13)
    dataset = EpisodeDataset.open(tmp_path / "set")
    for i, video in enumerate(videos):
        assert np.array_equal(dataset.frames(i, "front"), video)
    export_dataset(tmp_path / "set", tmp_path / "out", "lengths")
    assert (tmp_path / "out/lengths.txt").read_text() == "6\n7\n"


def test_without_the_package_neither_is_known(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    assert set(all_exporters()) == {"lerobot-v2.1", "lerobot-v3.0"}
    with pytest.raises(BadInput, match="2 files, such as"):
        import_dataset(str(tmp_path / "source"), tmp_path / "set")
