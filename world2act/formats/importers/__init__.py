"""Demonstrations of other software in, datasets of ours out.

An importer is a module of this package, or the module of an installed package's entry point in the group
`world2act.formats.importers`, with three attributes:

    RECOGNISED: str                                 what it recognises, in words, for messages
    recognises(source: Source) -> bool              whether it reads these files; looks at no more than it needs
    open_recording(source: Source) -> Recording     the demonstrations

Its name is the value of `world2act import --format`. The other modules are parts that importers share; `run` imports.
"""
