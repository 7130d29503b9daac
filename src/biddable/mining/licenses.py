"""Under which license a file stands: its own SPDX line, else the nearest license file above it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]+?)\s*(?:\*/|-->|$)", re.MULTILINE)
NAMES = ("LICENSE", "LICENCE", "COPYING", "LICENSE.txt", "LICENSE.md", "LICENCE.txt", "LICENSE.rst",
         "COPYING.txt", "COPYING.md", "LICENSE-MIT", "LICENSE-APACHE", "UNLICENSE")  # fmt: skip
# What only the text of each says, the narrower first; a file of several begins with its own.
TEXTS = {
    "Apache-2.0": r"Apache License\s+Version 2\.0",
    "AGPL-3.0": r"\A\s*GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3",
    "LGPL-3.0": r"\A\s*GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3",
    "LGPL-2.1": r"\A\s*GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1",
    "GPL-3.0": r"\A\s*GNU GENERAL PUBLIC LICENSE\s+Version 3",
    "GPL-2.0": r"\A\s*GNU GENERAL PUBLIC LICENSE\s+Version 2",
    "MPL-2.0": r"Mozilla Public License,? (?:Version|v\.?) ?2\.0",
    "CC0-1.0": r"CC0 1\.0 Universal",
    "CC-BY-SA-4.0": r"Attribution-ShareAlike 4\.0 International",
    "CC-BY-4.0": r"Attribution 4\.0 International",
    "Unlicense": r"This is free and unencumbered software released into the public domain",
    "BSD-3-Clause": r"Redistribution and use in source and binary forms(?s:.*)Neither the name",
    "BSD-2-Clause": r"Redistribution and use in source and binary forms",
    "MIT": r"Permission is hereby granted, free of charge, to any person obtaining a copy",
    "ISC": r"Permission to use, copy, modify, and(?:/or)? distribute this software",
}


def license_of(data: bytes, path: Path, root: Path) -> str:
    """The SPDX name of a file's license; empty where it is not known.

    Args:
        data: its content.
        root: the folder up to which those above the file are looked at.
    """
    if match := SPDX.search(data[:4096].decode("utf-8", "replace")):
        return match[1]
    return _of_folder(path.absolute() if path.is_dir() else path.absolute().parent, root)


@cache
def _of_folder(folder: Path, root: Path) -> str:
    for name in NAMES:
        path = folder / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")[:40_000]
            matches = {name: re.search(shape, text) for name, shape in TEXTS.items()}
            starts = {name: match.start() for name, match in matches.items() if match}
            return min(starts, key=lambda name: starts[name], default="")
    return _of_folder(folder.parent, root) if root in folder.parents else ""
