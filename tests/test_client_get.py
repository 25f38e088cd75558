"""Fetching a release from a real S3 server: what lands in the folder, what is read twice, what is never read."""

from __future__ import annotations

from client_release import Shelf, random_bytes

FILES = {"config.json": b"{}", "deep/er/model.safetensors": random_bytes(3_000_000), "empty": b"", "same": b"{}"}


def test_get_makes_the_folder_and_reads_each_content_once(shelf: Shelf) -> None:
    manifest = shelf.publish(1, FILES)
    shelf.promote(manifest, 1)
    assert shelf.get() == manifest
    assert shelf.read_destination() == FILES
    assert shelf.proxy.payload_bytes() == 3_000_002


def test_warm_get_reads_no_payload(shelf: Shelf) -> None:
    shelf.promote(shelf.publish(1, FILES), 1)
    shelf.get()
    before = shelf.proxy.payload_bytes()
    shelf.get()
    other = shelf.folder / "elsewhere"
    from world2act_client.get import get

    get("policy@latest", other)
    assert shelf.proxy.payload_bytes() == before
    assert (other / "deep/er/model.safetensors").stat().st_ino == (
        shelf.destination / "deep/er/model.safetensors"
    ).stat().st_ino
