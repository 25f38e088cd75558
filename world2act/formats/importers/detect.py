"""Finding the importer for a source: by name, or by asking every importer whether it recognises the files."""

from __future__ import annotations

import json
from typing import Protocol, cast

from world2act.core.errors import BadInput
from world2act.core.members import load_members
from world2act.formats.importers.hdf5 import first_header, hdf5_files
from world2act.formats.importers.recording import Recording
from world2act.formats.importers.source import Source


class Importer(Protocol):
    """A module that reads one format; see `world2act.formats.importers`."""

    RECOGNISED: str

    def recognises(self, source: Source) -> bool: ...

    def open_recording(self, source: Source) -> Recording: ...


def all_importers() -> dict[str, Importer]:
    """Every importer by name: our own, then those of installed packages."""
    members = load_members("world2act.formats.importers", "recognises")
    return {name: cast(Importer, module) for name, module in members.items()}


def find_importer(source: Source, name: str | None) -> Importer:
    """The importer of that name, or the one that recognises the files.

    Raises:
        BadInput: there is no importer of that name, or not exactly one recognises the files.
    """
    known = all_importers()
    if name is not None:
        if name not in known:
            raise BadInput("--format", "", name, f"one of {', '.join(known)}", "correct the name, or omit it")
        return known[name]
    recognised = {name: importer for name, importer in known.items() if importer.recognises(source)}
    if len(recognised) > 1:
        found = f"files of several formats: {', '.join(recognised)}"
        raise BadInput(source.where, "", found, "files of one format", "name the format with --format")
    if not recognised:
        expected = ", or ".join(importer.RECOGNISED for importer in known.values())
        raise BadInput(source.where, "", _describe(source), expected, "name the right folder, or --format")
    return next(iter(recognised.values()))


def _describe(source: Source) -> str:
    """What an unrecognised source has, in words."""
    if files := hdf5_files(source):
        header = first_header(source)
        if header is None:
            return f"{len(files)} HDF5 files, all damaged"
        return f"{header.file}: attributes {sorted(header.attributes)}, actions of shape {header.actions}"
    return f"{len(source.files)} files, such as {json.dumps(next(iter(source.files)))}"
