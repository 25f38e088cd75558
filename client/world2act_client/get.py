"""From a reference to a folder: resolve it, fetch what the cache lacks, put the folder in its place."""

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
        destination: a folder that is not there, is empty, or holds an earlier release.
        store: `s3://bucket/prefix`; by default what WORLD2ACT_STORE names.
        cache: by default what WORLD2ACT_CACHE names, or ~/.cache/world2act.
        trusted_keys: a PEM file of public keys; by default what WORLD2ACT_TRUSTED_KEYS names.
        offline: use only what the cache has. It is used too, and said on stderr, when the store does not answer.
        progress: draw a progress bar, if stderr is a terminal.

    Returns: the manifest of what now lies in `destination`.

    Raises:
        NotFound: no such name, channel, version or bucket, or a setting is missing.
        Denied: the store refuses the key, or the action.
        Tampered: a signature, manifest, object or channel is not what was signed.
        Unreachable: the store does not answer, and the cache does not hold all of an earlier answer.
        Conflict: `destination` holds something that is not ours to replace.
        ReleaseError: the disk is full, or the file system refuses.
    """
    wanted = parse_reference(reference)
    source = store if isinstance(store, Store) else Store(store or setting("WORLD2ACT_STORE"))
    trusted = load_trusted_keys(trusted_keys or setting("WORLD2ACT_TRUSTED_KEYS"))
    # a link above it is the user's way of saying where; one at its own place would be replaced, and is refused
    target = Path(destination).absolute()
    target = target.resolve() if target.name == ".." else target.parent.resolve() / target.name
    with disk_errors(target):
        kept = Cache(cache or os.environ.get("WORLD2ACT_CACHE") or "~/.cache/world2act")
        prepare(target)
        manifest, digest = _bring(source, kept, wanted, trusted, offline, progress)
        install(kept, manifest, digest, target, {"reference": reference, "store": source.url})
    return manifest


def setting(name: str) -> str:
    """An environment variable that has to be there. Raises `NotFound`."""
    if not os.environ.get(name):
        expected = {"WORLD2ACT_STORE": "s3://bucket/prefix"}.get(name, "the path of a PEM file of public keys")
        raise NotFound(name, "not set", expected, f"export {name}=..., or give it as an argument")
    return os.environ[name]


def _bring(
    store: Store, cache: Cache, wanted: Reference, trusted: TrustedKeys, offline: bool, progress: bool
) -> tuple[Manifest, str]:
    """Resolve the reference and fill the cache with what it names; from the cache alone where the store is silent."""
    remembered = cache.remembered(store.url)
    if offline:
        return _bring_offline(cache, remembered, wanted, trusted, "offline was asked for")
    try:
        heard = _Heard(store)
        manifest, digest = resolve(heard, wanted, trusted, not_before=_seen(remembered, wanted))
        # a pointer is remembered at once, so that no older one is taken; a manifest when all of it is here
        heard.keep(remembered, "channels")
        _fill(store, cache, manifest, digest, progress)
        heard.keep(remembered, "versions")
        return manifest, digest
    except Unreachable as error:
        try:
            return _bring_offline(cache, remembered, wanted, trusted, f"{store.url} does not answer ({error.found})")
        except Unreachable:
            raise error from None


def _bring_offline(
    cache: Cache, remembered: Remembered, wanted: Reference, trusted: TrustedKeys, why: str
) -> tuple[Manifest, str]:
    """What the reference last meant, of which the cache has all; says so on stderr."""
    where, expected = f"{cache.folder}: {wanted}", "all of a release in the cache"
    try:
        manifest, digest = _last_complete(remembered, wanted, trusted)
    except NotFound as error:
        raise Unreachable(where, f"{why}, and nothing was fetched before", expected, "run it again online") from error
    if missing := _missing(cache, manifest.files):
        names = ", ".join(file.path for file in missing[:3])
        found = f"{why}, and {len(missing)} files missing or damaged ({names})"
        raise Unreachable(where, found, expected, "run it again online")
    print(f"world2act-client: {why}; serving {manifest.name} v{manifest.version} from the cache", file=sys.stderr)
    return manifest, digest


def _last_complete(remembered: Remembered, wanted: Reference, trusted: TrustedKeys) -> tuple[Manifest, str]:
    if not wanted.channel:
        return resolve(remembered, wanted, trusted)
    for serial in reversed(list_serials(remembered, wanted.name, wanted.channel)):
        pointer = read_pointer(remembered, wanted.name, wanted.channel, serial, trusted)
        with suppress(NotFound):  # this one was seen, but its files never came
            manifest, digest = read_manifest(remembered, wanted.name, pointer.version, trusted)
            if digest == pointer.manifest_sha256:
                return manifest, digest
    raise NotFound(wanted, "nothing remembered", "an earlier answer", "run it again online")


class _Heard:
    """A store whose answers can be kept."""

    def __init__(self, store: Store) -> None:
        self.url, self.list = store.url, store.list
        self._store = store
        self._answers: dict[str, bytes] = {}

    def read(self, relative: str) -> bytes:
        self._answers[relative] = self._store.read(relative)
        return self._answers[relative]

    def keep(self, remembered: Remembered, kind: str) -> None:
        """Remember the envelopes read, of "channels" or of "versions". Only what was verified may get here."""
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
    """The files, one a content, that the cache does not hold whole. Reads and hashes all that it holds."""
    contents = {file.sha256: file for file in files}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        held = dict(zip(contents, pool.map(cache.holds, contents), strict=True))
    return [file for sha256, file in contents.items() if not held[sha256]]


def _fill(store: Store, cache: Cache, manifest: Manifest, digest: str, progress: bool) -> None:
    """Fetch what the cache lacks of a manifest."""
    missing = _missing(cache, manifest.files)
    if not missing:
        return
    with cache.partial(digest) as folder:
        missing = _missing(cache, missing)  # another process may have brought them while this one waited
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
