"""The `world2act-client` command: fetch a release, or list releases."""

from __future__ import annotations

import argparse
import sys

from world2act_client.errors import ReleaseError
from world2act_client.get import get, setting
from world2act_client.releases import current_pointer, list_channels, list_names, list_versions, read_manifest
from world2act_client.signing import load_trusted_keys
from world2act_client.store import Store


def main() -> None:
    """Run one command. Exits with 2 after one message where a release cannot be fetched."""
    parser = argparse.ArgumentParser(
        prog="world2act-client",
        description="Fetch a released policy from S3, every byte verified. Reads WORLD2ACT_STORE, "
        "WORLD2ACT_TRUSTED_KEYS, WORLD2ACT_CACHE and the AWS_* variables.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    getting = commands.add_parser("get", help="make DEST a folder with exactly the files of a release")
    getting.add_argument("reference", metavar="REF", help="policy@prod, policy@v12 or policy@latest")
    getting.add_argument("destination", metavar="DEST")
    getting.add_argument("--store", metavar="URL", help="s3://bucket/prefix")
    getting.add_argument("--cache", metavar="DIR")
    getting.add_argument("--offline", action="store_true", help="use only the cache")
    listing = commands.add_parser("list", help="list all releases, or the channels and versions of one")
    listing.add_argument("name", metavar="NAME", nargs="?")
    listing.add_argument("--store", metavar="URL", help="s3://bucket/prefix")
    arguments = parser.parse_args()
    try:
        if arguments.command == "list":
            _list(Store(arguments.store or setting("WORLD2ACT_STORE")), arguments.name)
        else:
            manifest = get(
                arguments.reference,
                arguments.destination,
                store=arguments.store,
                cache=arguments.cache,
                offline=arguments.offline,
            )
            print(f"{arguments.destination}: {manifest.name} v{manifest.version}, {manifest.size:,} bytes")
    except ReleaseError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run it again to continue", file=sys.stderr)
        sys.exit(130)


def _list(store: Store, name: str | None) -> None:
    trusted = load_trusted_keys(setting("WORLD2ACT_TRUSTED_KEYS"))
    for release in [name] if name else list_names(store):
        versions = list_versions(store, release)
        channels = {c: current_pointer(store, release, c, trusted) for c in list_channels(store, release)}
        positions = [f"{channel} at v{pointer.version}" for channel, pointer in channels.items()]
        print(f"{release}: {', '.join([*positions, f'{len(versions)} versions'])}")
        for version in versions if name else ():
            manifest, _ = read_manifest(store, release, version, trusted)
            marks = " ".join(channel for channel, pointer in channels.items() if pointer.version == version)
            print(f"  v{version}  {manifest.created}  {manifest.size:>15,} bytes  {marks}".rstrip())


if __name__ == "__main__":
    main()
