"""What `pip install` brings: every file of the package that is not code is in the wheel too."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import biddable

PACKAGE = Path(biddable.__file__).parent


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=PACKAGE.parent.parent, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        f"biddable/{p.relative_to(PACKAGE).as_posix()}"
        for p in PACKAGE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {"biddable/display/report.css", "biddable/display/report.js"} <= files
    assert files <= held
