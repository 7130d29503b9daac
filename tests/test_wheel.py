"""What `pip install` brings: every file of the package that is not code is in the wheel too."""

from __future__ import annotations

import os
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
    assert {"biddable/display/page.css", "biddable/lab/lab.js"} <= files
    assert files <= held
    # The templates are there for whoever has only the wheel.
    templates = [name for name in held if name.startswith("biddable/") and name.endswith(".html")]
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = (
        "import sys; from biddable.display.pages import environment\n"
        "for name in sys.argv[1:]: environment().get_template(name)\n"
        "print(environment().loader.get_source(environment(), name)[1])"
    )
    names = [name.removeprefix("biddable/") for name in templates if "/lab/" not in name]
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=tmp_path / "installed",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert len(names) >= 5
    assert done.stdout.startswith(str(tmp_path / "installed"))
