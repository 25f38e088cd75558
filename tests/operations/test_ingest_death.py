"""Ingest killed by SIGKILL anywhere, and run again: the same bytes as one undisturbed pass."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType

import pytest
from world2act_client.store import Store

from tests.helpers.ceph import S3
from tests.helpers.recordings import episodes, files_of, make_workspace, params, write_upload
from world2act.collection.ingested import INDEX, read_ledger
from world2act.core.storage import sha256
from world2act.ingest import run, staging, version
from world2act.ingest.run import run_pass

_WATCHED = {module.__file__ for module in (run, staging, version)}


class Trial:
    """One workspace and store after another, all with the same uploads."""

    def __init__(self, s3: S3, folder: Path) -> None:
        import great_expectations  # noqa: F401 - once, before the forks

        import world2act.gates.demos
        import world2act.sims.metaworld.environment  # noqa: F401

        self._client, self._bucket, self._folder, self._count = s3.client(), s3.make_bucket(), folder, 0
        self._uploads = {
            "a": write_upload(folder / "a", episodes(0, 1)),
            "b": write_upload(folder / "b", episodes(1, 2), video_only=True),
            "c": write_upload(folder / "c", episodes(0, 3)),
            "d": write_upload(folder / "d", episodes(3), info={"fps": 1}),
        }
        self.root, self.store, self.results = folder, "", folder / "events"

    def begin(self) -> None:
        """A new workspace and a new store."""
        self._count += 1
        self.store = f"s3://{self._bucket}/store-{self._count}"
        self.root = make_workspace(self._folder / f"workspace-{self._count}", self.store)
        for name, path in self._uploads.items():
            for file in files_of(path):
                key = f"store-{self._count}/incoming/{name}/{file}"
                self._client.upload_file(str(path / file), self._bucket, key)

    def look(self, *, kill_at: int = 0, kill_after_s: float = 0.0) -> tuple[int, float]:
        """One pass in a process of its own, killed at an event of the code that is watched, or after a time.

        Returns:
            how many events it had, and its seconds; the events are 0 when it was killed.
        """
        self.results.unlink(missing_ok=True)
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            self._child(kill_at)
        if kill_after_s:
            timer = threading.Timer(kill_after_s, os.kill, (process, signal.SIGKILL))
            timer.start()
        _, status = os.waitpid(process, 0)
        if kill_after_s:
            timer.cancel()
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or status == 0, self.results.read_text()
        return (0 if killed else int(self.results.read_text())), time.monotonic() - started

    def _child(self, kill_at: int) -> None:
        seen = 0

        def watch(frame: FrameType, _event: str, _argument: object) -> None:
            nonlocal seen
            if frame.f_code.co_filename in _WATCHED:
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            os.chdir(self.root)
            store = Store(self.store)
            sys.setprofile(watch)
            run_pass(store, "incoming/", params(), stale_after=timedelta(1), commit=True)
            sys.setprofile(None)
            self.results.write_text(str(seen))
            status = 0
        except BaseException as error:
            self.results.write_text(repr(error))
        finally:
            os._exit(status)

    def data(self) -> str:
        """Data, ledger, index and DVC's pointer."""
        return sha256(self.root / "data")

    def state(self) -> tuple[str, ...]:
        """All that a pass leaves: what lies in data, what a clone can pull, the commits."""
        clone = self._folder / f"clone-{self._count}"
        subprocess.run(["git", "clone", "--quiet", self.root, clone], check=True)
        subprocess.run(["dvc", "pull", "--quiet", "data/ingested.dvc"], cwd=clone, check=True, capture_output=True)
        log = subprocess.run(["git", "log", "--format=%s"], cwd=self.root, check=True, capture_output=True, text=True)
        return self.data(), sha256(clone / "data"), log.stdout


@pytest.fixture(scope="module")
def trial(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        yield Trial(s3, tmp_path_factory.mktemp("death"))


@pytest.fixture(scope="module")
def undisturbed(trial: Trial) -> tuple[tuple[str, ...], int, float]:
    trial.begin()
    events, seconds = trial.look()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trial.root)
        assert [(row.outcome, len(row.episodes)) for row in read_ledger()] == [
            ("set aside", 0),
            ("taken", 2),
            ("taken", 2),
            ("taken", 1),
        ]
        assert INDEX.exists()
    state = trial.state()
    assert state[0] == state[1] and state[2].splitlines() == ["Ingest data version 1", "a clone"]
    return state, events, seconds


def die_and_go_on(trial: Trial, undisturbed: tuple[tuple[str, ...], int, float], generator: random.Random) -> None:
    """Kill a pass, perhaps kill the next one too, then let one end."""
    state, events, seconds = undisturbed
    trial.begin()
    for _ in range(generator.choice([1, 1, 2])):
        if generator.random() < 0.5:
            trial.look(kill_at=generator.randint(1, events))
        else:
            trial.look(kill_after_s=generator.uniform(0, seconds))
    trial.look()
    assert trial.state() == state
    trial.look()
    assert trial.data() == state[0]


@pytest.mark.parametrize("seed", range(1))
def test_a_pass_that_is_killed_and_run_again(
    trial: Trial, undisturbed: tuple[tuple[str, ...], int, float], seed: int
) -> None:
    die_and_go_on(trial, undisturbed, random.Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 40))
def test_a_pass_that_is_killed_anywhere(
    trial: Trial, undisturbed: tuple[tuple[str, ...], int, float], seed: int
) -> None:
    die_and_go_on(trial, undisturbed, random.Random(seed))
