"""The Prefect flow over small real DVC pipelines: its graph, its states, its locks, its artifact."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.graph import read_graph
from flows.outcome import Outcome, StageRun
from flows.pipeline import pipeline, runs_of
from flows.show import render_table, show_stage
from tests.helpers.fault_proxy import Fault, fault_proxy
from tests.helpers.paths import ROOT
from world2act.core.storage import write_json

_WAIT = "for i in $(seq 300); do [ -e {1}.here ] && break; sleep 0.1; done"
_MEET = f"touch {{0}}.here; {_WAIT}; test -e {{1}}.here && touch {{0}}.txt"
STAGES = {
    "source": {"cmd": "echo 1 > source.txt", "outs": ["source.txt"]},
    # each of the two ends only while the other runs
    "left": {"cmd": _MEET.format("left", "right"), "deps": ["source.txt"], "outs": ["left.txt"]},
    "right": {"cmd": _MEET.format("right", "left"), "deps": ["source.txt"], "outs": ["right.txt"]},
    "validate_left": {"cmd": "sh gate.sh", "deps": ["left.txt", "gate.sh"], "outs": ["left.gate"]},
    "join": {"cmd": "touch join.txt", "deps": ["left.gate", "right.txt"], "outs": ["join.txt"]},
}
GREEN = "touch left.gate"
FINDING = {
    "table": "rows",
    "column": "x",
    "meaning": "x is small",
    "expected": "at most 5",
    "observed": 7,
    "success": False,
    "failing": 1,
    "failing_rows": [{"row": 3, "x": 7}],
    "rows": 4,
    "remedy": "make x smaller",
}
GATE = {"artifact": "left", "success": False, "expectations": [FINDING]}
RED = (
    f"mkdir -p reports/gates; echo '{json.dumps(GATE)}' > reports/gates/left.json; "
    "echo 'validate_left: GateFailed: row 3 holds 7' >&2; exit 2"
)

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init().close()
    Path("dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    Path("gate.sh").write_text(GREEN)
    return tmp_path


def run(target: str | None = None) -> tuple[State, dict[str, Outcome]]:
    state = pipeline(target, return_state=True)
    return state, {each.stage: each.outcome for each in runs_of(state)}


def test_graph_is_the_one_of_dvc_yaml(repository: Path) -> None:
    assert read_graph() == {
        "source": [],
        "left": ["source"],
        "right": ["source"],
        "validate_left": ["left"],
        "join": ["right", "validate_left"],
    }
    assert list(read_graph("validate_left")) == ["source", "left", "validate_left"]
    with pytest.raises(KeyError, match="no stage 'lift'"):
        read_graph("lift")


def test_graph_of_the_project_puts_a_gate_before_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    graph = read_graph()
    gated = {stage for stage in graph if f"validate_{stage}" in graph}
    assert {"demos", "skills", "world_model", "bridge", "post_train"} <= gated
    for stage, upstream in graph.items():
        for gate in (f"validate_{artifact}" for artifact in gated & set(upstream)):
            # a gate may read several artifacts; a stage that measures an artifact for its gate runs before that gate
            assert stage.startswith("validate_") or gate in upstream or stage in graph[gate], stage


def test_first_run_runs_all_and_the_second_nothing(repository: Path) -> None:
    state, outcomes = run()
    assert state.is_completed() and set(outcomes.values()) == {Outcome.RAN}
    state, outcomes = run()
    assert state.is_completed() and set(outcomes.values()) == {Outcome.CACHED}


def test_red_gate_stops_what_stands_behind_it_and_nothing_else(repository: Path) -> None:
    Path("gate.sh").write_text(RED)
    state, outcomes = run()
    assert state.is_failed() and "validate_left, join" in str(state.message)
    assert outcomes == {
        "source": Outcome.RAN,
        "left": Outcome.RAN,
        "right": Outcome.RAN,
        "validate_left": Outcome.GATE_FAILED,
        "join": Outcome.NOT_RUN,
    }
    assert not Path("join.txt").exists()
    _states_are_visible(state, outcomes)
    Path("gate.sh").write_text(GREEN)
    state, outcomes = run()
    assert state.is_completed()
    assert {stage for stage, outcome in outcomes.items() if outcome is Outcome.RAN} == {"validate_left", "join"}


def _states_are_visible(state: State, outcomes: dict[str, Outcome]) -> None:
    """The server knows each task by its stage, its state by the outcome, and holds the table."""
    with get_client(sync_client=True) as client:
        flow_run_id = state.state_details.flow_run_id
        deadline = time.monotonic() + 30
        while True:  # Prefect sends task states to its server in the background
            tasks = {task.name: task.state_name for task in client.read_task_runs() if task.flow_run_id == flow_run_id}
            seen = {stage: Outcome.NOT_RUN if name == "NotReady" else name for stage, name in tasks.items()}
            if seen == outcomes or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert seen == outcomes
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["world2act-pipeline"]))
        tables = [a.data for a in client.read_artifacts(artifact_filter=key) if a.flow_run_id == flow_run_id]
    assert len(tables) == 1
    assert re.search(r"\| left \| Ran \| \d+\.\d \| Gate failed \|", tables[0])
    assert "row 3 holds 7" in tables[0]


def test_red_gate_shows_its_rows_and_remedy_and_raises_an_event(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr("flows.show.emit_event", lambda event, **rest: events.append({"event": event, **rest}))
    monkeypatch.chdir(tmp_path)
    write_json("reports/gates/left.json", GATE)

    @flow
    def show() -> None:
        show_stage(StageRun("validate_left", Outcome.GATE_FAILED))

    run = show(return_state=True).state_details.flow_run_id
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["left-gate"]))
        (shown,) = [each.data for each in client.read_artifacts(artifact_filter=key) if each.flow_run_id == run]
    assert all(
        words in shown for words in ("left: red", "x is small", "at most 5", "{'row': 3, 'x': 7}", "make x smaller")
    )
    assert [each["event"] for each in events] == ["world2act.gate.failed"]
    assert events[0]["resource"]["prefect.resource.id"] == "world2act.artifact.left"
    assert events[0]["payload"]["failed"][0]["remedy"] == "make x smaller"


def test_stage_shows_its_metrics_and_its_curve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_json("metrics/left/metrics.json", {"loss": 0.5, "of": {"x": 1}})
    curve = Path("metrics/left/train/plots/metrics/loss.tsv")
    curve.parent.mkdir(parents=True)
    curve.write_text("step\tloss\n1\t2.0\n2\t1.0\n")

    @flow
    def show() -> None:
        show_stage(StageRun("left", Outcome.RAN))

    show()
    with get_client(sync_client=True) as client:
        shown = {artifact.key: artifact.data for artifact in client.read_artifacts()}
    assert json.loads(shown["left-metrics"]) == [{"metric": "loss", "value": 0.5}, {"metric": "of.x", "value": 1}]
    picture = base64.b64decode(shown["left-picture"].partition("base64,")[2].removesuffix(")"))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width > image.height > 100 and image.convert("L").getextrema()[0] < 100, "something is drawn"


def test_failed_stage_is_not_taken_for_a_gate(repository: Path) -> None:
    Path("gate.sh").write_text("exit 1")
    Path("right.here").touch()
    assert run("validate_left")[1]["validate_left"] is Outcome.FAILED


def test_outcomes_survive_a_lost_answer_of_the_server(repository: Path) -> None:
    with fault_proxy(PREFECT_API_URL.value()) as proxy:
        proxy.faults = [Fault("/set_state"), Fault("/set_state", lose_answer=True)]  # the second says that it has ended
        with temporary_settings({PREFECT_API_URL: f"{proxy.endpoint}/api"}):
            state, outcomes = run("source")
        ends = [answer for answer in proxy.log if answer.path.endswith("/set_state")]
    assert len(ends) == 3, "Prefect sent the state whose answer was lost again"
    assert state.is_completed() and outcomes == {"source": Outcome.RAN}


def test_target_runs_only_what_it_needs(repository: Path) -> None:
    assert run("source")[1] == {"source": Outcome.RAN}


def test_stage_waits_for_a_path_that_another_dvc_process_writes(repository: Path) -> None:
    busy = Path(".dvc/tmp/rwlock")
    busy.parent.mkdir(exist_ok=True)
    blocker = {"pid": os.getpid(), "cmd": "another dvc"}
    busy.write_text(json.dumps({"write": {str(repository / "source.txt"): blocker}, "read": {}}))
    release = threading.Timer(4, busy.unlink)
    release.start()
    state, outcomes = run("source")
    assert release.finished.is_set(), "the stage ran while its output was locked"
    assert outcomes == {"source": Outcome.RAN} and state.is_completed()


def test_clock_that_was_set_makes_nothing_run_and_hides_no_change(repository: Path) -> None:
    run()
    for shift_s in (10 * 365 * 86400, -10 * 365 * 86400):
        for path in [path for path in repository.rglob("*") if path.is_file() and ".git/" not in str(path)]:
            os.utime(path, (time.time() + shift_s, time.time() + shift_s))
        assert set(run()[1].values()) == {Outcome.CACHED}
    gate, before = Path("gate.sh"), Path("gate.sh").stat()
    gate.write_text(": >  left.gate ")
    assert gate.stat().st_size == before.st_size, "only the content differs"
    os.utime(gate, ns=(before.st_atime_ns, before.st_mtime_ns - 3600 * 10**9))
    assert run()[1]["validate_left"] is Outcome.RAN


def test_what_is_done_is_pushed_after_a_red_gate_too_and_pulled_where_it_is_missing(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    remote = tmp_path_factory.mktemp("remote")
    Path("gate.sh").write_text(RED)
    with Repo() as repo, repo.config.edit("repo") as config:
        config["remote"]["store"], config["core"]["remote"] = {"url": str(remote)}, "store"
    state = pipeline(push=True, return_state=True)
    assert "validate_left" in str(state.message), state
    pushed = {path.relative_to(remote / "files/md5").as_posix() for path in remote.rglob("*") if path.is_file()}
    with Repo() as repo:
        done = {out.hash_info.value for stage in repo.index.stages for out in stage.outs if out.hash_info.value}
    assert {f"{md5[:2]}/{md5[2:]}" for md5 in done} == pushed and pushed
    Path("gate.sh").write_text(GREEN)
    run()
    pipeline(push=True, return_state=True)
    shutil.rmtree(".dvc/cache")
    for name in ("source.txt", "left.txt", "right.txt", "left.gate", "join.txt"):
        Path(name).unlink()
    state = pipeline(pull=True, return_state=True)
    assert {each.outcome for each in runs_of(state)} == {Outcome.CACHED} and Path("join.txt").exists()


def test_parameters_that_name_no_stage_are_refused_before_anything_runs(repository: Path) -> None:
    for parameters, said in (
        ({"placement": {"lift": "process"}}, "placement: lift(.|\n)*no such stage"),
        ({"spread": {"lift": 2}}, "spread: lift(.|\n)*no such stage"),
        ({"placement": {"left": "process"}, "spread": {"left": 2}}, "spread: left(.|\n)*one of the two"),
        ({"placement": {"left": "process"}}, "no DVC remote"),
    ):
        state = pipeline(return_state=True, **parameters)
        assert state.is_failed() and re.search(said, str(state.message)), state.message
    assert not Path("source.txt").exists()


def test_command_exits_with_1_on_a_red_gate_and_needs_no_server(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Path("gate.sh").write_text(RED)
    home = tmp_path_factory.mktemp("prefect")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.pipeline", "--target", "validate_left", "--parallel", "2"]
    Path("right.here").touch()
    done = subprocess.run(
        command, env=kept | {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"^validate_left +Gate failed", done.stdout, re.MULTILINE)
    assert "validate_left | validate_left: GateFailed: row 3 holds 7" in done.stdout
    assert (home / "prefect.db").exists()


def test_table_shows_each_stage_beside_its_gate() -> None:
    runs = [
        StageRun("demos", Outcome.RAN, 61.25),
        StageRun("validate_demos", Outcome.CACHED, 1.0),
        StageRun("report", Outcome.NOT_RUN),
    ]
    assert render_table(runs).splitlines()[2:] == ["| demos | Ran | 61.2 | Cached |", "| report | Not run | 0.0 |  |"]
