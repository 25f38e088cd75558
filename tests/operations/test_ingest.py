"""Ingest against a real S3 server, real DVC and real git: each episode once, whatever arrives and however."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from world2act_client.store import Store

from tests.helpers.ceph import S3
from tests.helpers.recordings import episodes, files_of, make_workspace, overwrite, params, write_upload
from world2act.collection.ingested import FOLDER, INDEX, LEDGER, open_ingested, read_ledger
from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.storage import read_json, sha256
from world2act.data.recording import ACTION, EXECUTED, STATE
from world2act.ingest.run import Pass, run_pass
from world2act.ingest.uploads import Strays, group

DAY = timedelta(days=1)


class Arrivals:
    """The store of a test and the workspace in the current folder."""

    def __init__(self, s3: S3, bucket: str) -> None:
        self.client, self.bucket = s3.client(), bucket
        self.store = Store(f"s3://{bucket}/store")
        self.got: list[str] = []
        self.on_read(self.got.append)

    def on_read(self, do: Callable[[str], None]) -> None:
        """Do something with the key whenever an object is about to be read."""
        events = self.store.s3.meta.events
        events.register("before-parameter-build.s3.GetObject", lambda params, **_: do(params["Key"]))

    def put(self, source: Path, folder: str, *names: str) -> None:
        for name in names or files_of(source):
            self.client.upload_file(str(source / name), self.bucket, f"store/incoming/{folder}/{name}")

    def look(self, rules: Params | None = None, **options: Any) -> Pass:
        self.got.clear()
        settings = {"stale_after": DAY, "commit": False} | options
        return run_pass(self.store, "incoming/", rules or params(), **settings)


@pytest.fixture
def arrivals(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket()
    monkeypatch.chdir(make_workspace(tmp_path / "workspace", f"s3://{bucket}/store"))
    return Arrivals(s3, bucket)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_upload(tmp_path_factory.mktemp("uploads") / "two", episodes(0, 1))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_upload(tmp_path_factory.mktemp("uploads") / "video", episodes(5), video_only=True)


def outcomes(seen: Pass) -> dict[str, tuple[str, int]]:
    return {row.upload.removeprefix("incoming/"): (row.outcome, len(row.episodes)) for row in seen.decided}


def reasons(seen: Pass) -> dict[str, str]:
    return {row.upload.removeprefix("incoming/"): row.reason for row in seen.decided if row.outcome == "set aside"}


def test_what_is_complete_is_taken_once_and_what_is_known_is_not_read_again(
    arrivals: Arrivals, two: Path, video: Path
) -> None:
    arrivals.put(two, "lab-1/monday")
    arrivals.put(video, "lab-1/monday/camera only")
    arrivals.client.put_object(Bucket=arrivals.bucket, Key="store/incoming/notes.txt", Body=b"")
    seen = arrivals.look()
    assert outcomes(seen) == {"lab-1/monday": ("taken", 2), "lab-1/monday/camera only": ("taken", 1)}
    assert (seen.objects, seen.strays.count, seen.strays.first) == (11, 1, "incoming/notes.txt")
    index = read_json(INDEX)
    assert index["version"] == 1 and index["labelled"]["episodes"] == 2 and index["video_only"]["episodes"] == 1
    opened = {each.kind: each for each in open_ingested()}
    assert opened["labelled"].episodes == [0, 1] and len(opened["video_only"].dataset) == 1
    recording = episodes(1)[0]
    np.testing.assert_array_equal(opened["labelled"].dataset.frames(1, "corner2"), recording.images["corner2"])
    before = sha256("data")
    again = arrivals.look()
    assert not again.decided and not again.waiting and again.known == 2
    assert arrivals.got == [] and sha256("data") == before


def test_the_same_demonstrations_elsewhere_or_exported_anew_are_duplicates(
    arrivals: Arrivals, two: Path, tmp_path: Path
) -> None:
    arrivals.put(two, "a")
    more = write_upload(tmp_path / "more", episodes(1, 2))
    arrivals.put(more, "b")  # one of them in the same pass
    seen = arrivals.look()
    assert outcomes(seen) == {"a": ("taken", 2), "b": ("taken", 1)}
    arrivals.put(two, "c")
    seen = arrivals.look()
    assert outcomes(seen) == {"c": ("duplicate", 0)} and arrivals.got == []  # known by its ETags
    arrivals.put(write_upload(tmp_path / "anew", episodes(2, 1, 0)), "d")
    seen = arrivals.look()
    assert outcomes(seen) == {"d": ("duplicate", 0)} and arrivals.got
    assert read_json(INDEX)["version"] == 1 and seen.index["labelled"]["episodes"] == 3
    arrivals.put(write_upload(tmp_path / "grown", episodes(2, 1, 0, 3)), "d")  # the recorder went on
    assert outcomes(arrivals.look()) == {"d": ("taken", 1)}
    assert read_json(INDEX)["version"] == 2
    assert [row.episodes for row in read_ledger() if row.outcome == "taken"] == [[0, 1], [1], [3]]


def test_objects_that_come_one_by_one_in_any_order_are_waited_for(arrivals: Arrivals, two: Path, video: Path) -> None:
    names = files_of(two)
    for seed in range(3):
        order = random.Random(seed).sample(names, len(names))
        for name in order[:-1]:
            arrivals.put(two, f"order {seed}", name)
            seen = arrivals.look()
            assert not seen.decided and [each.stale for each in seen.waiting] == [False] * len(seen.waiting)
            assert {each.folder for each in seen.waiting} == {f"incoming/order {seed}"}
            assert "has not arrived" in seen.waiting[0].reason
        arrivals.client.delete_objects(
            Bucket=arrivals.bucket,
            Delete={"Objects": [{"Key": f"store/incoming/order {seed}/{name}"} for name in order]},
        )
    arrivals.put(two, "last", *names[1:])
    assert arrivals.look(stale_after=-DAY).waiting[0].stale
    arrivals.put(two, "last", names[0])
    assert outcomes(arrivals.look()) == {"last": ("taken", 2)}
    assert not Path("runs/ingest/staged").exists()


def test_damage_is_set_aside_with_its_reason_until_the_objects_change(
    arrivals: Arrivals, two: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for name in files_of(two):
        for how in ("cut", "flipped", "empty"):
            broken = tmp_path / f"{name.replace('/', '-')} {how}"
            shutil.copytree(two, broken)
            content = bytearray((two / name).read_bytes())
            if how == "cut":
                content = content[: len(content) // 2]
            elif how == "flipped":
                for place in generator.integers(0, len(content), 20):
                    content[place] ^= 0xFF
            else:
                content = bytearray()
            (broken / name).write_bytes(content)
            arrivals.put(broken, broken.name)
    seen = arrivals.look()
    found = {name: outcome for name, (outcome, _) in outcomes(seen).items()}
    # the reader uses neither; a flipped text may still be JSON
    unread = ("meta-stats.json", "meta-tasks.parquet")
    must = {name for name in found if not name.startswith(unread) and "info.json flipped" not in name}
    assert len(must) >= 8 and {found[name] for name in must} == {"set aside"}
    why = reasons(seen)
    assert all(reason and str(Path.cwd()) not in reason and "runs/" not in reason for reason in why.values())
    again = arrivals.look()
    assert not again.decided and set(again.standing) == {f"incoming/{name}" for name in why} and not arrivals.got
    name = sorted(must)[0]
    arrivals.client.delete_object(Bucket=arrivals.bucket, Key=f"store/incoming/{name}/meta/info.json")
    assert not arrivals.look().decided
    arrivals.put(write_upload(tmp_path / "fixed", episodes(4)), name)
    assert outcomes(arrivals.look()) == {name: ("taken", 1)}


def _bad_uploads(folder: Path) -> dict[str, tuple[Path, str]]:
    """Datasets that can be read and may not join, and what the reason must name."""
    good = episodes(0)[0]
    state, action = good.arrays[STATE], good.arrays[ACTION]
    no_row = np.ma.masked_array(state, np.zeros_like(state, bool))
    no_row[4] = np.ma.masked
    one_nan = state.copy()
    one_nan[3, 1] = np.nan
    recordings = {
        "task": (replace(good, task="pick-place"), "task_key"),
        "blank": (replace(good, images={"corner2": np.full_like(good.images["corner2"], 7)}), "shows something"),
    }
    declared = {
        "rate": ({"fps": 30}, "fps: found 30, expected 80"),
        "robot": ({"robot_type": "panda"}, "robot_type"),
        "camera": ({"world2act": {"cameras": [{"name": "corner2"}]}}, "world2act.cameras"),
        "no-camera": ({"world2act": None}, "world2act"),
        "path": ({"data_path": "../../../{chunk_index}/{file_index}"}, "data_path"),
        "version": ({"codebase_version": "v2.1"}, "codebase_version"),
        "frames": ({"total_frames": 3}, "total_frames"),
        "features": ({"features": {"action": {"dtype": "float32", "shape": [4]}}}, "features"),
        "shape": ({"features": {"action": {"dtype": "float32", "shape": [10**9]}}}, "shape"),
        "splits": ({"splits": {"train": "all"}}, "splits"),
    }
    columns = {
        "nan": ({STATE: one_nan}, "finite"),
        "infinite": ({ACTION: action + np.inf}, "finite"),
        "wild": ({ACTION: action * 3}, "box of the environment"),
        "late": ({STATE: np.roll(state, 1, axis=0)}, "aligned"),
        "idle": ({ACTION: action * 0, EXECUTED: action * 0}, "acts"),
        "null": (
            {STATE: np.ma.masked_array(state, np.arange(len(state))[:, None] == 4 + 0 * state)},
            "without a value",
        ),
        "narrow": ({ACTION: action[:, :3]}, "action: found fixed_size_list"),
    }
    bad = {name: (write_upload(folder / name, [episode]), named) for name, (episode, named) in recordings.items()}
    bad |= {name: (write_upload(folder / name, [good], info=info), named) for name, (info, named) in declared.items()}
    return bad | {
        name: (overwrite(write_upload(folder / name, [good]), **values), named)
        for name, (values, named) in columns.items()
    }


def test_what_may_not_join_is_set_aside_and_the_rest_goes_on(arrivals: Arrivals, two: Path, tmp_path: Path) -> None:
    bad = _bad_uploads(tmp_path / "bad")
    for name, (path, _) in bad.items():
        arrivals.put(path, name)
    arrivals.put(two, "good")
    seen = arrivals.look()
    assert outcomes(seen).pop("good") == ("taken", 2) and not seen.waiting
    why = reasons(seen)
    assert {name: named for name, (_, named) in bad.items() if named not in why.get(name, "")} == {}
    taken = [row.dataset for row in read_ledger() if row.dataset]
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([LEDGER.name, *taken]) and len(taken) == 1


def test_what_was_set_aside_is_looked_at_again_when_other_things_are_asked_of_it(arrivals: Arrivals, two: Path) -> None:
    arrivals.put(two, "early")
    other = params(tasks=["coffee-push"])
    assert outcomes(arrivals.look(other)) == {"early": ("set aside", 0)}
    assert not arrivals.look(other).decided and not arrivals.got
    assert outcomes(arrivals.look()) == {"early": ("taken", 2)}
    assert not arrivals.look(other).decided and not arrivals.got


def test_an_object_that_is_replaced_while_it_is_read_waits_for_the_next_pass(
    arrivals: Arrivals, two: Path, tmp_path: Path
) -> None:
    arrivals.put(two, "live")
    other = write_upload(tmp_path / "other", episodes(2, 3))
    replaced: list[str] = []

    def replace_it(key: str) -> None:
        if "/data/" in key and not replaced:
            replaced.append(key)
            arrivals.put(other, "live")

    arrivals.on_read(replace_it)
    seen = arrivals.look()
    assert replaced and not seen.decided and "changed while it was read" in seen.waiting[0].reason
    assert outcomes(arrivals.look()) == {"live": ("taken", 2)}
    assert [e.seed for e in open_ingested()[0].dataset.episodes] == [e.seed for e in episodes(2, 3)]


def test_git_gets_the_two_small_files_and_nothing_else(arrivals: Arrivals, two: Path) -> None:
    Path("staged.txt").touch()
    git("add", "staged.txt")
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# edited")
    arrivals.put(two, "a")
    arrivals.look()
    assert "data/ingested.dvc" in git("status", "--porcelain")
    arrivals.look(commit=True)
    assert git("log", "-1", "--format=%s").strip() == "Ingest data version 1"
    assert sorted(git("show", "--name-only", "--format=").split()) == ["data/ingested.dvc", "data/ingested.json"]
    assert sorted(git("status", "--porcelain").splitlines()) == [" M params.yaml", "A  staged.txt"]
    commits = git("rev-list", "--count", "HEAD")
    arrivals.look(commit=True)
    assert git("rev-list", "--count", "HEAD") == commits


def test_a_clone_says_what_is_missing_and_goes_on_where_the_first_workspace_stood(
    arrivals: Arrivals, two: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals.put(two, "a")
    arrivals.look(commit=True)
    first = Path.cwd()
    subprocess.run(["git", "clone", "--quiet", first, tmp_path / "clone"], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(BadInput, match=r"dvc pull data/ingested\.dvc"):
        open_ingested()
    arrivals.put(video, "b")
    seen = arrivals.look(commit=True)
    assert seen.known == 1 and outcomes(seen) == {"b": ("taken", 1)} and seen.index["version"] == 2
    monkeypatch.chdir(first)
    subprocess.run(["git", "pull", "--quiet", tmp_path / "clone", "HEAD"], check=True, capture_output=True)
    with pytest.raises(BadInput, match="force"):
        open_ingested()  # git went on, the data did not
    assert arrivals.look().known == 2 and len(open_ingested()) == 2
    victim = next(FOLDER.glob("*/meta/stats.json"))
    victim.unlink()
    victim.write_text("{}")
    with pytest.raises(BadInput, match="other bytes"):
        open_ingested()


def test_group_holds_only_what_is_open_and_leaves_no_object_out() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    folders = ["a", "a/b", "a-b", "a/data", "c/meta/d", "ü b"]
    names = [
        "meta/info.json",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        "data/chunk-000/file-001.parquet",
    ]
    keys = [f"in/{folder}/{name}" for folder in folders for name in names]
    odd = ["in/x.zip", "in/a/data/../../../etc/passwd", "in/a/meta/info.json.bak", "meta/info.json"]
    listing = ((key, 1, key, when) for key in sorted([*keys, *odd], key=str.encode))
    strays = Strays()
    uploads = {upload.folder: upload for upload in group(listing, strays)}
    assert set(uploads) == {f"in/{folder}" for folder in folders}
    assert all(set(upload.files) == set(names) for upload in uploads.values())
    assert strays.count == len(odd)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
