"""Which format a source has: its files in, the importer out."""

from __future__ import annotations

import json
from collections.abc import Callable

from world2act.core.errors import BadInput
from world2act.formats.importers import folder, lerobot, libero, robocasa
from world2act.formats.importers.hdf5 import Unusable, demonstrations, hdf5_files, open_data
from world2act.formats.importers.recording import Recording
from world2act.formats.importers.source import Source
from world2act.sims.robocasa import EMBODIMENT

IMPORTERS: dict[str, Callable[[Source], Recording]] = {
    "libero": libero.open_recording,
    "robocasa": robocasa.open_recording,
    "lerobot": lerobot.open_recording,
    "folder": folder.open_recording,
}
_EXPECTED = (
    "LIBERO's or RoboCasa's HDF5 files, a LeRobot data set (meta/info.json), or folders with an "
    f"{folder.MANIFEST} (`python -m pydoc world2act.formats.importers.folder`)"
)


def find_importer(source: Source, name: str | None) -> Callable[[Source], Recording]:
    """The importer that is named, or that knows the files.

    Raises:
        BadInput: there is no importer of that name, or none knows the files.
    """
    if name is None:
        name = _detect(source)
    if name not in IMPORTERS:
        raise BadInput("--format", "", name, f"one of {', '.join(IMPORTERS)}", "name one of these, or none")
    return IMPORTERS[name]


def _detect(source: Source) -> str:
    if lerobot.INFO in source.files:
        return "lerobot"
    for name in hdf5_files(source):
        try:
            with open_data(source, name, glance=True) as data:
                if "macros_image_convention" in data.attrs or "bddl_file_name" in data.attrs:
                    return "libero"
                demos = demonstrations(data)
                shape = getattr(data[demos[0]].get("actions"), "shape", ()) if demos else ()
                if "env_args" in data.attrs and shape[1:] == (EMBODIMENT.action_dim,):
                    return "robocasa"
                found = f"{name}: attributes {sorted(data.attrs)}, actions of shape {shape}"
                raise BadInput(source.where, "", found, _EXPECTED, "name the format with --format, if it is one")
        except Unusable:
            continue
    if hdf5_files(source):
        found = f"{len(hdf5_files(source))} HDF5 files, none whole"
        raise BadInput(source.where, "", found, "one at least", "get the files again")
    if folder.folders(source):
        return "folder"
    found = f"{len(source.files)} files, such as {json.dumps(next(iter(source.files)))}"
    raise BadInput(source.where, "", found, _EXPECTED, "name the folder that holds one of these")
