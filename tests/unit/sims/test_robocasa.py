"""RoboCasa's side of the boundary: the table, and what is said where it is not installed. It has not been run."""

from __future__ import annotations

from pathlib import Path

import pytest

from world2act.core.errors import BadInput
from world2act.core.params import Camera
from world2act.sims.base import load_simulator

CAMERA = Camera(name="robot0_agentview_left", position_m=None, fovy_deg=None, protocol=None)
OPTIONS = {"image_size": 64, "settle_steps": 0}


def test_the_table_and_the_embodiment() -> None:
    robocasa = load_simulator("robocasa")
    assert len(robocasa.TASKS) == 24 and sum(task.prehensile for task in robocasa.TASKS.values()) == 10
    assert (robocasa.EMBODIMENT.action_dim, robocasa.EMBODIMENT.proprio_dim) == (12, 16)
    assert robocasa.EMBODIMENT.name == "panda_mobile"


def test_what_is_missing_or_wrong_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    robocasa = load_simulator("robocasa")
    monkeypatch.setenv("WORLD2ACT_ROBOCASA_PYTHON", str(tmp_path / "python"))
    with pytest.raises(BadInput, match="WORLD2ACT_ROBOCASA_PYTHON"):
        robocasa.make_environment("OpenDrawer", cameras=[CAMERA], **OPTIONS)
    with pytest.raises(BadInput, match=r"demos\.tasks"):
        robocasa.make_environment("OpenSesame", cameras=[CAMERA], **OPTIONS)
    with pytest.raises(BadInput, match=r"demos\.cameras"):
        robocasa.make_environment("OpenDrawer", cameras=[CAMERA.model_copy(update={"fovy_deg": 45.0})], **OPTIONS)
