"""Fetching a release from a real S3 server: what lands in the folder, what is read twice, what is never read."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from world2act_client.destination import read_record
from world2act_client.errors import Conflict, NotFound, Tampered, Unreachable
from world2act_client.get import get
from world2act_client.store import manifest_key, object_key, pointer_key

from tests.helpers.client_release import Shelf, entry, random_bytes
from tests.helpers.fault_proxy import Fault

MODEL = "deep/er/model.safetensors"
FILES = {"config.json": b"{}", MODEL: random_bytes(3_000_000), "empty": b"", "same content": b"{}"}
NEXT = FILES | {"config.json": b'{"version": 2}'}
MIB = 2**20


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "world2act_client.cli", *map(str, arguments)]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_get_makes_the_folder_and_reads_each_content_once(shelf: Shelf) -> None:
    manifest = shelf.publish(1, FILES)
    shelf.promote(manifest, 1)
    assert shelf.get() == manifest
    assert shelf.read_destination() == FILES
    assert shelf.proxy.payload_bytes() == 3_000_000 + len(b"{}")
    assert read_record(shelf.destination)[0] == manifest
    assert [path.name for path in shelf.destination.parent.iterdir()] == ["policy"]
    assert not list((shelf.cache / "partial").iterdir())


def test_warm_get_reads_no_payload_and_links_what_it_has(shelf: Shelf) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    before, folder = shelf.proxy.payload_bytes(), shelf.destination.stat().st_ino
    shelf.get()
    assert shelf.destination.stat().st_ino == folder, "a whole folder was replaced by the same"
    get("policy@latest", shelf.folder / "second")
    assert (shelf.folder / "second" / MODEL).samefile(shelf.destination / MODEL)
    assert shelf.proxy.payload_bytes() == before


def test_next_version_replaces_the_folder_and_reads_only_what_changed(shelf: Shelf) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    before = shelf.proxy.payload_bytes()
    shelf.promote(shelf.publish(2, NEXT), 2)
    assert shelf.get().version == 2
    assert shelf.read_destination() == NEXT
    assert shelf.proxy.payload_bytes() - before == len(NEXT["config.json"])
    assert shelf.get("policy@v1").version == 1
    assert shelf.read_destination() == FILES


@pytest.mark.parametrize("reference", ["policy@prod", "policy@latest", "policy@v7", "nobody@v1"])
def test_what_is_not_there_is_said(shelf: Shelf, reference: str) -> None:
    with pytest.raises(NotFound, match=r"no such|no release"):
        shelf.get(reference)
    assert not shelf.destination.exists()


@pytest.mark.parametrize("reference", ["policy", "policy@", "policy@v0", "po/licy@prod", "../policy@v1", "policy@Prod"])
def test_what_is_no_reference_is_said(shelf: Shelf, reference: str) -> None:
    with pytest.raises(NotFound, match="not a reference"):
        shelf.get(reference)


def test_large_file_comes_in_parts_of_one_object(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world2act_client.transfer._PART", 4 * MIB)
    files = {"large": random_bytes(19 * MIB + 7)}
    shelf.publish(1, files)
    shelf.get("policy@v1")
    assert shelf.read_destination() == files
    ranges = sorted(each.range for each in shelf.proxy.log if "/files/md5/" in each.path)
    assert len(ranges) == 5 and ranges[0] == f"bytes=0-{4 * MIB - 1}"
    assert shelf.proxy.payload_bytes() == 19 * MIB + 7


def test_damaged_cache_is_never_handed_on(shelf: Shelf) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    kept = shelf.cache / "objects" / (digest := entry("", FILES[MODEL]).sha256)[:2] / digest[2:]
    kept.chmod(0o600)
    with kept.open("r+b") as stream:  # the file in the destination is a link to it, and damaged too
        stream.seek(1000)
        stream.write(b"rot")
    shelf.get()
    assert shelf.read_destination() == FILES
    kept.unlink()
    kept.symlink_to("/etc/hostname")
    shelf.get()
    assert shelf.read_destination() == FILES and not kept.is_symlink()


def test_copies_where_there_can_be_no_hard_link(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.publish(1, FILES)

    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", other_disk)
    shelf.get("policy@v1")
    assert shelf.read_destination() == FILES
    assert (shelf.destination / MODEL).stat().st_nlink == 1


def test_folder_of_somebody_else_is_left_alone(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1, FILES)
    shelf.destination.mkdir(parents=True)
    shelf.get("policy@v1")  # an empty one is nobody's
    (shelf.destination / "notes.txt").write_text("calibrated on Monday")
    shelf.publish(2, NEXT)
    with pytest.raises(Conflict, match=r"notes\.txt"):
        shelf.get("policy@v2")
    assert shelf.read_destination() == FILES | {"notes.txt": b"calibrated on Monday"}
    foreign, link, file = tmp_path / "foreign", tmp_path / "link", tmp_path / "file"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    link.symlink_to(shelf.destination)
    file.write_text("x")
    before = shelf.proxy.payload_bytes()
    for place in (foreign, link, file):
        with pytest.raises(Conflict):
            get("policy@v2", place)
    assert shelf.proxy.payload_bytes() == before, "bytes were read for a folder that cannot be written"
    assert link.is_symlink() and file.read_text() == "x" and [p.name for p in foreign.iterdir()] == ["thesis.tex"]


def test_mount_point_is_not_replaced(shelf: Shelf) -> None:
    shelf.publish(1, FILES)
    shelf.destination.mkdir(parents=True)
    mount = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{shelf.destination}' && exec \"$@\"", "-"]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    done = subprocess.run([*mount, *command("get", "policy@v1", shelf.destination)], capture_output=True, text=True)
    assert done.returncode == 2 and "choose a folder inside it" in done.stderr


def test_killed_get_goes_on_where_it_stopped(shelf: Shelf) -> None:
    size = 24 * MIB
    shelf.publish(1, {"a": random_bytes(size, 1), "b": random_bytes(size, 2)})
    shelf.proxy.faults = [Fault("/files/md5/", times=99, bytes_per_second=12 * MIB)]
    process = subprocess.Popen(command("get", "policy@v1", shelf.destination))
    wait_until(lambda: shelf.proxy.payload_bytes() > size)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = shelf.proxy.payload_bytes()
    assert not shelf.destination.exists()
    shelf.proxy.faults = []
    subprocess.run(command("get", "policy@v1", shelf.destination), check=True)
    assert shelf.read_destination() == shelf.files[1]
    # each connection may have carried bytes that never reached the file
    assert shelf.proxy.payload_bytes() - first <= 2 * size - first + 2 * 2 * MIB


@pytest.mark.parametrize("step", ["replace_folder", "rename", "rmtree"])
def test_crash_while_the_folder_is_replaced_leaves_one(shelf: Shelf, step: str) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    shelf.promote(shelf.publish(2, NEXT), 2)
    die = "import os, signal; die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL); "
    crash = {
        "replace_folder": "from world2act_client import destination as d; d.replace_folder = die",
        # where folders cannot be exchanged in one step: after the first of two renames
        "rename": "import ctypes, pathlib; ctypes.CDLL = lambda *a, **k: object(); real = pathlib.Path.rename; "
        "pathlib.Path.rename = lambda s, t: die() if s.name == 'new' else real(s, t)",
        "rmtree": "import shutil; real = shutil.rmtree; "
        "shutil.rmtree = lambda p, *a: die() if p.name.endswith('partial') else real(p, *a)",
    }
    code = f"{die}{crash[step]}; from world2act_client.get import get; get('policy@prod', {str(shelf.destination)!r})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    if step == "replace_folder":
        assert shelf.read_destination() == FILES
    if step == "rename":
        assert not shelf.destination.exists()
        shelf.proxy.reachable = False
        with pytest.raises(NotFound):  # whatever comes of it, the last good folder is back first
            shelf.get("policy", offline=True)
        get("policy@prod", shelf.destination, offline=True)
        shelf.proxy.reachable = True
    assert shelf.get().version == 2
    assert shelf.read_destination() == NEXT
    assert [path.name for path in shelf.destination.parent.iterdir()] == ["policy"]


def test_two_at_once_share_the_work(shelf: Shelf) -> None:
    shelf.publish(1, {"a": random_bytes(8 * MIB, 1), "b": random_bytes(8 * MIB, 2)})
    shelf.proxy.faults = [Fault("/files/md5/", times=99, bytes_per_second=8 * MIB)]
    places = [shelf.destination, shelf.destination, shelf.folder / "other"]
    processes = [subprocess.Popen(command("get", "policy@v1", place)) for place in places]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert shelf.proxy.payload_bytes() == 16 * MIB
    assert shelf.read_destination() == shelf.files[1]
    assert (places[2] / "b").read_bytes() == shelf.files[1]["b"]


def test_offline_serves_what_it_has_and_says_so(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("world2act_client.store._TRIES", 2)
    with pytest.raises(Unreachable, match="nothing was fetched earlier"):
        shelf.get(offline=True)
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    shelf.promote(shelf.publish(2, NEXT), 2)
    asked = len(shelf.proxy.log)
    assert get("policy@prod", shelf.folder / "second", offline=True).version == 1
    assert len(shelf.proxy.log) == asked
    assert "--offline was given; serving policy v1 from the cache" in capfd.readouterr().err
    shelf.proxy.reachable = False
    assert get("policy@prod", shelf.folder / "third").version == 1
    assert "does not answer" in capfd.readouterr().err
    digest = entry("", FILES[MODEL]).sha256
    (shelf.cache / "objects" / digest[:2] / digest[2:]).unlink()
    with pytest.raises(Unreachable):
        shelf.get()
    with pytest.raises(Unreachable, match="1 cached files are missing or damaged"):
        shelf.get(offline=True)


def test_network_lost_in_mid_transfer_falls_back_to_the_last_whole_version(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("world2act_client.transfer._TRIES", 1)
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    shelf.promote(shelf.publish(2, {"large": random_bytes(4 * MIB, 9)}), 2)
    shelf.proxy.faults = [Fault("/files/md5/", times=99, cut_after=0)]
    assert shelf.get().version == 1
    assert "serving policy v1" in capfd.readouterr().err
    shelf.client.delete_object(Bucket=shelf.bucket, Key=f"robots/{pointer_key('policy', 'prod', 2)}")
    shelf.proxy.faults = []
    with pytest.raises(Tampered, match="serial 1"):  # it had seen serial 2, though never its files
        shelf.get()


def test_replayed_pointer_is_refused(shelf: Shelf) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.promote(shelf.publish(2, NEXT), 2)
    shelf.get()
    shelf.get("policy@latest", cache=shelf.folder / "cache of latest")
    for key in (pointer_key("policy", "prod", 2), manifest_key("policy", 2)):
        shelf.client.delete_object(Bucket=shelf.bucket, Key=f"robots/{key}")
    with pytest.raises(Tampered, match=r"serial 1\b"):
        shelf.get()
    with pytest.raises(Tampered, match=r"version 1\b"):
        shelf.get("policy@latest", cache=shelf.folder / "cache of latest")
    assert shelf.read_destination() == NEXT


def test_keys_are_rotated_without_a_gap(shelf: Shelf) -> None:
    shelf.publish(1, FILES)
    new = shelf.use_new_key()
    shelf.publish(2, NEXT)
    with pytest.raises(Tampered, match="a signature by"):
        shelf.get("policy@v2")
    old = shelf.trusted.read_bytes()
    shelf.trusted.write_bytes(old + new.read_bytes())
    assert shelf.get("policy@v1").version == 1 and shelf.get("policy@v2").version == 2
    shelf.trusted.write_bytes(new.read_bytes())
    with pytest.raises(Tampered, match="a signature by"):
        shelf.get("policy@v1")
    with pytest.raises(Tampered, match="a signature by"):
        shelf.get("policy@v1", offline=True)


def test_command_line(shelf: Shelf) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.publish(2, NEXT)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), capture_output=True, text=True)

    listed = run("list")
    assert listed.stdout == "policy: prod at v1, 2 versions\n"
    assert [line.split()[::4] for line in run("list", "policy").stdout.splitlines()[1:]] == [["v1", "prod"], ["v2"]]
    done = run("get", "policy@prod", shelf.destination)
    assert (done.returncode, done.stderr) == (0, "") and "policy v1" in done.stdout
    failed = run("get", "policy@staging", shelf.destination)
    assert failed.returncode == 2 and failed.stderr.splitlines()[1] == "  found:    no such channel"
    del os.environ["WORLD2ACT_STORE"]
    assert "WORLD2ACT_STORE" in run("list").stderr


def test_progress_is_drawn_on_a_terminal_only(shelf: Shelf) -> None:
    shelf.publish(1, FILES)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run(command("get", "policy@v1", shelf.destination), stderr=theirs, check=True)
    os.close(theirs)
    drawn = ""
    with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO where nobody writes any more
        while True:
            drawn += terminal.read(1024).decode()
    assert "policy v1: 100%" in drawn and "3.00M/3.00M" in drawn


def test_full_disk_is_said_and_the_rest_is_fetched_when_there_is_room(shelf: Shelf) -> None:
    shelf.publish(1, {"small": random_bytes(MIB, 1), "large": random_bytes(3 * MIB, 2)})
    limited = ["bash", "-c", 'ulimit -f 2048 && exec "$@"', "-", *command("get", "policy@v1", shelf.destination)]
    failed = subprocess.run(limited, capture_output=True, text=True)
    assert failed.returncode == 2 and "room for the release" in failed.stderr
    assert not shelf.destination.exists()
    shelf.get("policy@v1")
    assert shelf.read_destination() == shelf.files[1]
    assert shelf.proxy.payload_bytes() <= 5 * MIB  # the small one, if it was on its way when the large one failed


def test_missing_object_is_said(shelf: Shelf) -> None:
    lost = shelf.publish(1, FILES).files[1]
    shelf.client.delete_object(Bucket=shelf.bucket, Key=f"robots/{object_key(lost.md5)}")
    with pytest.raises(NotFound, match="collected"):
        shelf.get("policy@v1")
    assert not shelf.destination.exists()
