"""A team's commands, in the order of README.md and docs/operations.md, on a real run and a real S3 server."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.ceph import S3
from tests.helpers.clone import Clone
from tests.helpers.pages import team_commands
from tests.helpers.paths import ROOT
from world2act.policies.base import load_policy

STORE = "s3://bucket/prefix"


class Team:
    """A clone with a finished run, a bucket, and the variables that the commands export."""

    def __init__(self, clone: Clone, s3: S3) -> None:
        self.clone, self.url = clone, f"s3://{s3.make_bucket()}/team"
        self.variables = s3.environment() | {"WORLD2ACT_CACHE": str(clone.root.parent / "cache")}

    def run(self, line: str, clone: Clone | None = None) -> str:
        words = shlex.split(line.replace(STORE, self.url))
        if words[0] == "export":
            self.variables |= dict(word.split("=", 1) for word in words[1:])
            return ""
        if words[0] == "world2act-client":
            words = [sys.executable, "-m", "world2act_client.cli", *words[1:]]
        return (clone or self.clone).must(*words, **self.variables)

    def publish_another(self) -> None:
        """The same policy under a stricter gate is another version."""
        params = self.clone.root / "params.yaml"
        text = params.read_text()
        changed = re.sub(r"(evaluate: \{error_share: )[\d.]+", r"\g<1>0.04", text)
        assert changed != text
        params.write_text(changed)
        self.run("dvc repro validate_evaluate")
        assert "v2" in self.run("world2act publish policy")
        self.run("world2act promote policy@v2 prod")


@pytest.fixture
def team(tiny_run: Clone, s3: S3, tmp_path: Path) -> Team:
    copy = tiny_run.copy(tmp_path / "a copy")
    return Team(copy, s3)


@pytest.mark.timeout(900)
def test_commands_of_the_operations_page_and_of_the_readme(team: Team, tmp_path: Path) -> None:
    """The page has README's commands in README's order; what README alone has comes behind them."""
    shown: dict[str, str] = {}
    for line in team_commands((ROOT / "docs/operations.md").read_text()):
        other = None
        if line == "dvc pull":
            other = Clone(tmp_path / "another clone")
            team.run("git add --all")
            team.run("git commit --quiet --message run")
            team.run(f"git clone --quiet . {shlex.quote(str(other.root))}")
        elif line.startswith("world2act diff"):
            team.publish_another()
        elif line.startswith("export WORLD2ACT_STORE"):
            shutil.copy(team.clone.root / "keys/trusted.pem", team.clone.root)
        shown[line] = team.run(line, other)
    pulled = Clone(tmp_path / "another clone")
    assert "up to date" in pulled.must("dvc", "status")
    assert (pulled.root / "reports/report.html").exists() and (pulled.root / "metrics/evaluate/metrics.json").exists()
    assert "v1" in shown["world2act list"] and "error_share" in shown["world2act diff policy@v1 policy@v2"]
    assert "v1" in shown["world2act rollback policy@prod"]
    assert load_policy(team.clone.root / "policy").chunk_length > 0
    section = re.search(r"^## For a team\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    readme = team_commands(section[1])
    assert [line for line in readme if line in shown] == [line for line in shown if line in readme]
    for line in readme:
        if line not in shown:
            team.run(line)
    assert load_policy(team.clone.root / "robot/policy").chunk_length > 0
