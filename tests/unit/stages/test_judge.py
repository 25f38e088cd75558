"""The stage `judge` has no dry run, and says so before it measures anything."""

from __future__ import annotations

import pytest

from stages import judge
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params


def test_a_dry_run_of_judge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["judge.py", "--dry-run"])
    with pytest.raises(BadInput, match=r"no option for stages\.judge") as refused:
        judge.main(parse_params(compose("default", ROOT), "params.yaml"))
    assert "leave --dry-run out" in refused.value.remedy
