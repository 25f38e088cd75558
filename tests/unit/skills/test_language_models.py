"""Real language models: one that `transformers serve` serves, one in this process; both tiny, random and useless."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml

from tests.helpers.language_server import Handler, LanguageServer, Received, language_server, say
from tests.helpers.paths import ROOT
from tests.helpers.tiny_language_model import make_model
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.skills.contact import Event
from world2act.skills.language import Request
from world2act.skills.providers import make_provider

REQUESTS = [
    Request("cup", f"lift the {thing} from the shelf", 60, (Event(20, "contact_onset"),))
    for thing in ("cup", "pan", "jar")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def skills(provider: str, **block: Any) -> dict[str, Any]:
    values = compose("default", ROOT)
    values["skills"] |= {"provider": provider, provider: block}
    return values


def openai(url: str, **changes: Any) -> dict[str, Any]:
    block = {
        "base_url": url,
        "model": "tiny",
        "key_variable": None,
        "response_format": "text",
        "temperature": 0.0,
        "max_tokens": 48,
        "max_tokens_field": "max_tokens",
        "timeout_s": 120.0,
        "retries": 1,
        "requests_per_minute": 6000.0,
        "concurrency": 2,
        "price_per_million": {"prompt": 0.0, "completion": 0.0},
    }
    return skills("openai", **(block | changes))


def transformers(model: Path, **changes: Any) -> dict[str, Any]:
    block = {"path": str(model), "device": "cpu", "dtype": "float32", "batch_size": 2, "max_tokens": 24}
    return skills("transformers", **(block | ({"sha256": sha256(model)} if "sha256" not in changes else {}) | changes))


def build(values: dict[str, Any], folder: Path) -> Any:
    values["skills"]["prompt_file"] = str(ROOT / "conf/skills/prompt.yaml")
    parsed = parse_params(values, "test").skills
    return make_provider(parsed, journal=folder / "answers.jsonl", finished=folder / "transcripts.jsonl")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The root of a pipeline with a few episodes of two tasks, each grasped once or twice, and nothing else."""
    root = tmp_path / "workspace"
    state = array_feature(["ee_x_m", "ee_y_m", "ee_z_m", "gripper_opening_m"])
    features = {"observation.state": state, "observation.images.front": image_feature(4, 4)}
    onsets = {"cup": [[20], [24], [16, 40]], "jar": [[20], [28]]}
    for name in ("labelled", "video_only"):
        path = root / "artifacts/demos" / name
        path.mkdir(parents=True)
        with DatasetWriter(path, features=features, fps=80, robot_type="sawyer", extra={}) as writer:
            for task, episodes in onsets.items():
                for frames in episodes:
                    grip = np.full(61, 0.1)
                    for frame in frames:
                        grip[frame : frame + 12] = 0.05
                    grip[frames[-1] :] = 0.05
                    arrays = np.concatenate([np.zeros((61, 3)), grip[:, None]], 1).astype(np.float32)
                    pixels = {"front": np.zeros((61, 4, 4, 3), np.uint8)}
                    writer.add(encode(Episode(task, f"lift the {task}", 1, pixels, {"observation.state": arrays})))
            writer.set_splits({"train": range(4), "heldout": range(4, 5)})
    (root / "conf").symlink_to(ROOT / "conf")
    return root


def run_stage(root: Path, values: dict[str, Any], *stage: str) -> subprocess.CompletedProcess[str]:
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    return subprocess.run(
        [sys.executable, "-m", *(stage or ["stages.skills"])],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "400"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with language_server() as running:
        yield running


def one_task_well(handler: Handler, received: Received) -> None:
    """Divide what is said of the cup and choose the last event; babble about the jar."""
    if not received.is_plan:
        say(json.dumps({"events": [len(received.data["events"]) - 1], "refusal": ""}))(handler, received)
    elif received.data["task"] == "cup":
        skills = [
            {"prompt": "grasp the cup", "ends_at": "contact_onset"},
            {"prompt": "lift the cup up", "ends_at": "episode_end"},
        ]
        say(json.dumps({"skills": skills, "refusal": ""}))(handler, received)
    else:
        say("The jar? What jar?")(handler, received)


def test_the_stage_keeps_what_fits_and_asks_nothing_twice(workspace: Path, server: LanguageServer) -> None:
    server.answer(otherwise=one_task_well)
    done = run_stage(workspace, openai(server.url))
    assert done.returncode == 0, done.stderr
    rows = read_parquet(workspace / "artifacts/skills/skills.parquet").to_pylist()
    assert {row["task"] for row in rows} == {"cup"} and {row["provider"] for row in rows} == {"openai/tiny"}
    assert [row["raw_end"] for row in rows if row["dataset"] == "labelled"] == [20, 60, 24, 60, 40, 60]
    discards = read_parquet(workspace / "artifacts/skills/discards.parquet").to_pylist()
    assert len(discards) == 4 and all("not the JSON asked for" in row["reason"] for row in discards)
    language = read_json(workspace / "metrics/skills/metrics.json")["language"]
    assert (language["calls"], language["reused"], language["prompt_tokens"]) == (3, 0, 300)
    transcripts = (workspace / "artifacts/skills/transcripts.jsonl").read_bytes()
    assert len(transcripts.splitlines()) == 3 and b"What jar" in transcripts and b"127.0.0.1" not in transcripts

    gate = run_stage(workspace, openai(server.url), "stages.validate", "skills")
    assert gate.returncode == 2 and "task jar" in gate.stderr and "read the reasons" in gate.stderr, gate.stderr

    server.answer()
    (workspace / "runs/skills/answers.jsonl").unlink()  # a fresh clone after `dvc pull` has the artifact only
    done = run_stage(workspace, openai(server.url))
    assert done.returncode == 0, done.stderr
    assert server.received == []
    assert (workspace / "artifacts/skills/transcripts.jsonl").read_bytes() == transcripts
    language = read_json(workspace / "metrics/skills/metrics.json")["language"]
    assert (language["calls"], language["reused"], language["total_prompt_tokens"]) == (0, 3, 300)


def test_the_stage_says_that_a_model_is_of_no_use(workspace: Path, model: Path) -> None:
    """The transformers provider in a real stage: what was there before stays, and the answers are kept."""
    (workspace / "artifacts/skills").mkdir()
    (workspace / "artifacts/skills/mark").write_text("the last good artifact")
    done = run_stage(workspace, transformers(model))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "every episode was discarded: 6 times: the model's answer was cut at max_tokens" in done.stderr, done.stderr
    assert (workspace / "artifacts/skills/mark").exists()
    journal = [json.loads(line) for line in (workspace / "runs/skills/answers.jsonl").read_text().splitlines()]
    assert [line["request"]["task"] for line in journal] == ["cup", "jar"]
    assert all(line["model"] == "tiny" and line["raw"] for line in journal)


def test_a_local_model_answers_the_same_every_time_and_is_asked_once(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        provider = build(transformers(model), tmp_path / name)
        answers = provider.split(REQUESTS)
        assert all(not answer.segments and answer.refusal for answer in answers)
        assert provider.usage.calls == 3 and provider.usage.completion_tokens > 0
    journal = (tmp_path / "a/answers.jsonl").read_bytes()
    assert journal == (tmp_path / "b/answers.jsonl").read_bytes()
    elsewhere = model.rename(model.with_name("moved away"))
    try:
        again = build(transformers(model, sha256=sha256(elsewhere)), tmp_path / "a")
        assert again.split(REQUESTS) == answers and again.usage.calls == 0
    finally:
        elsewhere.rename(model)


def test_a_batch_says_what_its_questions_alone_say(model: Path, tmp_path: Path) -> None:
    raw = []
    for size in (1, 3):
        provider = build(transformers(model, batch_size=size), tmp_path / str(size))
        provider.split(REQUESTS)
        raw.append([(line["raw"], line["prompt_tokens"]) for line in provider.transcripts])
    assert raw[0] == raw[1] and len(set(raw[0])) > 1


@pytest.mark.parametrize(
    ("change", "key", "found"),
    [
        ({"path": "nowhere", "sha256": "0" * 64}, "path", "no model in nowhere"),
        ({"sha256": "0" * 64}, "sha256", "a folder of sha256 "),
        ({"max_tokens": 5000}, "max_tokens", "5000 of answer"),
    ],
)
def test_a_local_model_that_cannot_be_used_is_named(
    model: Path, tmp_path: Path, change: dict, key: str, found: str
) -> None:
    with pytest.raises(BadInput, match=rf"skills\.transformers\.{key}") as error:
        build(transformers(model, **change), tmp_path).split(REQUESTS)
    assert found in str(error.value)


@pytest.mark.parametrize("damage", ["no safetensors", "torn", "no template", "code"])
def test_a_damaged_model_is_refused(tmp_path: Path, damage: str) -> None:
    folder = make_model(tmp_path / "damaged")
    weights = folder / "model.safetensors"
    if damage == "no safetensors":
        (folder / "pytorch_model.bin").write_bytes(weights.read_bytes())
        weights.unlink()
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no template":
        (folder / "chat_template.jinja").unlink()
    else:
        config = read_json(folder / "config.json")
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(BadInput, match=r"skills\.transformers\.path"):
        build(transformers(folder), tmp_path).split(REQUESTS)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def inference_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` on the tiny model, in a process of its own."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 120
            while not _is_well(port):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def _is_well(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def test_all_that_a_random_model_says_over_http_is_discarded_and_told(
    inference_server: str, model: Path, workspace: Path
) -> None:
    values = openai(inference_server, model=str(model))
    done = run_stage(workspace, values)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "every episode was discarded: 6 times: the model's answer was cut at max_tokens" in done.stderr, done.stderr
    assert not (workspace / "artifacts/skills").exists()
    journal = (workspace / "runs/skills/answers.jsonl").read_bytes()
    assert len(journal.splitlines()) == 2

    # asked again, it would say the same: the stage knows without asking
    again = run_stage(workspace, openai("http://127.0.0.1:9/v1", model=str(model)))
    assert again.stderr == done.stderr
    assert (workspace / "runs/skills/answers.jsonl").read_bytes() == journal
