from pathlib import Path

import numpy as np
import pytest

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, write_json
from world2act.policies.normalisation import MinMax, read_statistics, write_statistics


def test_box_becomes_minus_one_to_one_and_back() -> None:
    values = np.random.default_rng(0).normal([0, 5, -3], [1, 0.01, 40], (200, 3)).astype(np.float32)
    box = MinMax.of(values)
    scaled = box.normalise(values)
    assert scaled.min(0) == pytest.approx([-1] * 3, abs=1e-4)
    assert scaled.max(0) == pytest.approx([1] * 3, abs=1e-4)
    np.testing.assert_allclose(box.restore(scaled), values, rtol=1e-4, atol=1e-4)


def test_a_dimension_that_never_moves_stays_finite() -> None:
    box = MinMax.of(np.array([[2.0, 0.0], [2.0, 1.0]], np.float32))
    assert box.normalise(np.array([[2.0, 0.5]], np.float32)).tolist() == [[0.0, 0.0]]
    assert box.restore(np.array([[0.7, 0.0]], np.float32)).tolist() == [[2.0, 0.5]]


def test_statistics_survive_the_disk_exactly(tmp_path: Path) -> None:
    box = MinMax.of(np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32))
    write_statistics(tmp_path / "statistics.json", {"action": box})
    again = read_statistics(tmp_path / "statistics.json", {"action": 4})["action"]
    assert np.array_equal(again.low, box.low) and np.array_equal(again.high, box.high)


@pytest.mark.parametrize("fault", ["missing file", "missing feature", "wrong width", "inside out", "not a number"])
def test_bad_statistics_are_named(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "statistics.json"
    values = {"action": {"min": [0.0, 0.0], "max": [1.0, 1.0]}}
    match fault:
        case "missing feature":
            values["proprio"] = values.pop("action")
        case "wrong width":
            values["action"]["max"] = [1.0]
        case "inside out":
            values["action"]["min"] = [2.0, 0.0]
        case "not a number":
            path.write_text('{"action": {"min": [NaN, 0], "max": [1, 1]}}')
    if fault not in ("missing file", "not a number"):
        write_json(path, values)
    with pytest.raises(BadInput) as error:
        read_statistics(path, {"action": 2})
    assert str(path) in str(error.value)
    assert fault == "missing file" or error.value.key == "action"


def test_statistics_file_is_plain(tmp_path: Path) -> None:
    write_statistics(tmp_path / "statistics.json", {"action": MinMax.of(np.array([[0.0], [1.0]], np.float32))})
    assert read_json(tmp_path / "statistics.json") == {"action": {"min": [0.0], "max": [1.0]}}
