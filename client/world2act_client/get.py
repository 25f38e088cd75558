"""`get`: resolve a reference, fetch what is missing from the cache, and build the folder."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from world2act_client.cache import Cache, Remembered
from world2act_client.destination import install, prepare
from world2act_client.errors import NotFound, Unreachable
from world2act_client.files import disk_errors
from world2act_client.manifest import FileEntry, Manifest
from world2act_client.releases import (
    Reference,
    list_serials,
    list_versions,
    parse_reference,
    read_manifest,
    read_pointer,
    resolve,
)
from world2act_client.signing import TrustedKeys, load_trusted_keys
from world2act_client.store import Store
from world2act_client.transfer import Progress, fetch


def get(
    reference: str,
    destination: str | Path,
    *,
    store: str | Store | None = None,
    cache: str | Path | None = None,
    trusted_keys: str | Path | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Manifest:
    """Make `destination` a folder with exactly the files of a release.

    Args:
        reference: policy@prod, policy@v12 or policy@latest.
        destination: a folder that does not exist, is empty, or holds an earlier release.
        store: `s3://bucket/prefix`; by default the value of WORLD2ACT_STORE.
        cache: a folder; by default the value of WORLD2ACT_CACHE, or ~/.cache/world2act.
        trusted_keys: a PEM file of public keys; by default the value of WORLD2ACT_TRUSTED_KEYS.
        offline: use only the cache. This also happens, with a note on stderr, when the store does not answer.
        progress: draw a progress bar, if stderr is a terminal.

    Returns: the manifest of the release that is now in `destination`.

    Raises:
        NotFound: the name, channel, version or bucket does not exist, or a setting is missing.
        Denied: the store refuses the credentials or the action.
        Tampered: a manifest, object or channel differs from what was signed.
        Unreachable: the store does not answer, and the cache has no complete release.
        Conflict: `destination` holds something else than a release.
        ReleaseError: the disk is full, or the file system reports another error.
    """
    wanted = parse_reference(reference)
    source = store if isinstance(store, Store) else Store(store or setting("WORLD2ACT_STORE"))
    trusted = load_trusted_keys(trusted_keys or setting("WORLD2ACT_TRUSTED_KEYS"))
    # links in the parent's path are the user's choice; a link at the destination itself would be replaced: refused
    target = Path(destination).absolute()
    target = target.resolve() if target.name == ".." else target.parent.resolve() / target.name
    with disk_errors(target):
        local = Cache(cache or os.environ.get("WORLD2ACT_CACHE") or "~/.cache/world2act")
        prepare(target)
        manifest, digest = _fetch_release(source, local, wanted, trusted, offline, progress)
        install(local, manifest, digest, target, {"reference": reference, "store": source.url})
    return manifest


def setting(name: str) -> str:
    """A required environment variable. Raises `NotFound` where it is not set."""
    if not os.environ.get(name):
        expected = {"WORLD2ACT_STORE": "s3://bucket/prefix"}.get(name, "the path of a PEM file of public keys")
        raise NotFound(name, "not set", expected, f"export {name}=..., or give it as an argument")
    return os.environ[name]


def _fetch_release(
    store: Store, cache: Cache, wanted: Reference, trusted: TrustedKeys, offline: bool, progress: bool
) -> tuple[Manifest, str]:
    """Resolve the reference and fetch its files; from the cache alone where the store does not answer."""
    remembered = cache.remembered(store.url)
    if offline:
        return _take_from_cache(cache, remembered, wanted, trusted, "--offline was given")
    try:
        recorded = _RecordedStore(store)
        manifest, digest = resolve(recorded, wanted, trusted, not_before=_seen(remembered, wanted))
        # a pointer is remembered at once, so that no older one is accepted; a manifest once all its files are cached
        recorded.keep(remembered, "channels")
        _fill(store, cache, manifest, digest, progress)
        recorded.keep(remembered, "versions")
        return manifest, digest
    except Unreachable as error:
        try:
            return _take_from_cache(cache, remembered, wanted, trusted, f"{store.url} does not answer ({error.found})")
        except Unreachable:
            raise error from None


def _take_from_cache(
    cache: Cache, remembered: Remembered, wanted: Reference, trusted: TrustedKeys, why: str
) -> tuple[Manifest, str]:
    """The last release of the reference that is complete in the cache; prints a note on stderr."""
    where, expected = f"{cache.folder}: {wanted}", "a complete release in the cache"
    try:
        manifest, digest = _last_complete(remembered, wanted, trusted)
    except NotFound as error:
        raise Unreachable(where, f"{why}, and nothing was fetched earlier", expected, "run it again online") from error
    if missing := _missing(cache, manifest.files):
        names = ", ".join(file.path for file in missing[:3])
        found = f"{why}, and {len(missing)} cached files are missing or damaged ({names})"
        raise Unreachable(where, found, expected, "run it again online")
    print(f"world2act-client: {why}; serving {manifest.name} v{manifest.version} from the cache", file=sys.stderr)
    return manifest, digest


def _last_complete(remembered: Remembered, wanted: Reference, trusted: TrustedKeys) -> tuple[Manifest, str]:
    if not wanted.channel:
        return resolve(remembered, wanted, trusted)
    for serial in reversed(list_serials(remembered, wanted.name, wanted.channel)):
        pointer = read_pointer(remembered, wanted.name, wanted.channel, serial, trusted)
        with suppress(NotFound):  # its pointer was seen, but its files were never fetched
            manifest, digest = read_manifest(remembered, wanted.name, pointer.version, trusted)
            if digest == pointer.manifest_sha256:
                return manifest, digest
    raise NotFound(wanted, "nothing in the cache", "an answer from an earlier run", "run it again online")


class _RecordedStore:
    """A store whose answers are recorded, so that they can be remembered once they are verified."""

    def __init__(self, store: Store) -> None:
        self.url, self.keys = store.url, store.keys
        self._store = store
        self._answers: dict[str, bytes] = {}

    def read(self, relative: str) -> bytes:
        self._answers[relative] = self._store.read(relative)
        return self._answers[relative]

    def keep(self, remembered: Remembered, kind: str) -> None:
        """Remember the envelopes that were read, of "channels" or "versions". Call it only once they are verified."""
        for relative, content in self._answers.items():
            if relative.split("/")[2] == kind:
                remembered.keep(relative, content)


def _seen(remembered: Remembered, wanted: Reference) -> int:
    """The highest serial of the channel, or version for `latest`, that this machine has seen."""
    if wanted.version:
        return 0
    if wanted.channel:
        return max(list_serials(remembered, wanted.name, wanted.channel), default=0)
    return max(list_versions(remembered, wanted.name), default=0)


def _missing(cache: Cache, files: Iterable[FileEntry]) -> list[FileEntry]:
    """The files, one per content, that the cache lacks or has damaged. Reads and hashes all that it has."""
    contents = {file.sha256: file for file in files}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        held = dict(zip(contents, pool.map(cache.holds, contents), strict=True))
    return [file for sha256, file in contents.items() if not held[sha256]]


def _fill(store: Store, cache: Cache, manifest: Manifest, digest: str, progress: bool) -> None:
    """Fetch the files of a manifest that the cache lacks."""
    missing = _missing(cache, manifest.files)
    if not missing:
        return
    with cache.partial(digest) as folder:
        missing = _missing(cache, missing)  # another process may have fetched them while this one waited
        with _bar(f"{manifest.name} v{manifest.version}", sum(file.size for file in missing), progress) as advance:
            fetch(store, cache, missing, folder, advance)
        shutil.rmtree(folder)


@contextmanager
def _bar(title: str, total: int, shown: bool) -> Iterator[Progress]:
    lock = threading.Lock()
    # disable=None: drawn on a terminal only
    with tqdm(desc=title, total=total, unit="B", unit_scale=True, disable=None if shown else True) as bar:

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        yield advance
