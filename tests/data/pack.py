"""Make an HDF5 file that other software wrote fit for this repository: the folders it was made in are taken out of its
texts, what that leaves unused out of the file, and the rest is compressed.

    python pack.py FILE.hdf5 OUT.hdf5.xz FOLDER...
"""

import lzma
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py

source, target, *folders = sys.argv[1:]
with TemporaryDirectory() as temporary:
    renamed, packed = Path(temporary, "renamed"), Path(temporary, "packed")
    with h5py.File(source) as old, h5py.File(renamed, "w") as new:
        old.copy(old["data"], new, "data")
        for group in (new["data"], *new["data"].values()):
            for name, value in group.attrs.items():
                if isinstance(value, str):
                    for folder in folders:
                        value = value.replace(folder, "")
                    group.attrs[name] = value
    with h5py.File(renamed) as old, h5py.File(packed, "w") as new:
        old.copy(old["data"], new, "data")
    Path(target).write_bytes(lzma.compress(packed.read_bytes(), preset=9))
