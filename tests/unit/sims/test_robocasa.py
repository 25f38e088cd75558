"""RoboCasa's side of the boundary: the table, and what is said where it is not installed. It has not been run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from world2act.core.errors import BadInput
from world2act.sims.rig import CameraMount, Rig
from world2act.sims.simulator import load_simulator

CAMERA = CameraMount("robot0_agentview_left")
RIG = Rig("robocasa", (CAMERA,), image_size=64, settle_steps=0)


def test_the_table_and_the_embodiment() -> None:
    robocasa = load_simulator("robocasa")
    assert len(robocasa.tasks) == 24 and sum(task.prehensile for task in robocasa.tasks.values()) == 10
    assert (robocasa.embodiment.action_dim, robocasa.embodiment.proprio_dim) == (12, 16)
    assert robocasa.embodiment.name == "panda_mobile"


def test_what_is_missing_or_wrong_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    robocasa = load_simulator("robocasa")
    monkeypatch.setenv("WORLD2ACT_ROBOCASA_PYTHON", str(tmp_path / "python"))
    with pytest.raises(BadInput, match="WORLD2ACT_ROBOCASA_PYTHON"):
        robocasa.make_environment("OpenDrawer", RIG)
    with pytest.raises(BadInput, match=r"demos\.tasks"):
        robocasa.make_environment("OpenSesame", RIG)
    with pytest.raises(BadInput, match=r"demos\.cameras"):
        robocasa.make_environment("OpenDrawer", replace(RIG, cameras=(replace(CAMERA, fovy_deg=45.0),)))
