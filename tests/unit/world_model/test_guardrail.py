"""The guardrail on imagined frames. The real cosmos_guardrail needs weights of its own and torchvision, and is stood
in for by a module of its interface; so NVIDIA's own checker has not been run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import WorldModel, compose, parse_params
from world2act.world_model.parts.guardrail import guardrail_of, open_guardrail

MODULE = """
class CosmosSafetyChecker:
    def check_text_safety(self, prompt):
        return "weapon" not in prompt

    def check_video_safety(self, frames):
        return None if frames.max() > 200 else frames // 2
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "cosmos_guardrail.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("cosmos_guardrail", None)


def world_model(**changes: object) -> WorldModel:
    return parse_params(compose("default", ROOT), "").world_model.model_copy(update=changes)


def test_imported_weights_have_a_guardrail_unless_it_is_refused_in_so_many_words() -> None:
    assert guardrail_of(world_model()) == "none"
    assert guardrail_of(world_model(weights="weights/model.pt")) == "cosmos"
    assert guardrail_of(world_model(weights="weights/model.pt", guardrail="none")) == "none"
    assert guardrail_of(parse_params(compose("cosmos-predict2-2b", ROOT), "").world_model) == "cosmos"


def test_without_the_package_the_error_says_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"no module cosmos_guardrail[\s\S]*licence"):
        open_guardrail({"guardrail": "cosmos"})


@pytest.mark.usefixtures("installed")
def test_frames_and_prompts_pass_the_checker() -> None:
    guardrail = open_guardrail({"guardrail": "cosmos"})
    videos = np.full((3, 5, 4, 4, 3), 100, np.uint8)
    videos[1, 2] = 255
    shown = guardrail.show(videos)
    assert shown.dtype == np.uint8 and shown.shape == videos.shape
    assert (shown[[0, 2]] == 50).all() and not shown[1].any()
    guardrail.check(["push it", ""])
    with pytest.raises(BadInput, match="grasp the weapon"):
        guardrail.check(["push it", "grasp the weapon"])


def test_no_guardrail_lets_everything_through() -> None:
    guardrail, videos = open_guardrail({"guardrail": "none"}), np.full((1, 5, 4, 4, 3), 255, np.uint8)
    guardrail.check(["grasp the weapon"])
    assert np.array_equal(guardrail.show(videos), videos)
