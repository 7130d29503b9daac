"""The rooms import only from those above them, and the text rooms never load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import biddable

# Modules that every room may use.
GROUND = {"terminal"}
# From the ground floor up; the first are single files.
ROOMS = [
    *("terminal", "errors", "storage", "settings", "options", "command_table"),
    *("data", "mining", "template", "encoding", "models", "dataset", "engine", "generation"),
    *("training", "judging", "exporting", "display", "from_scratch", "serving", "lab"),
    *("commands", "cli"),
]
ROOT = Path(biddable.__file__).parent


def imported_rooms(path: Path) -> set[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return {n.split(".")[1] for n in names if n.startswith("biddable.")} - GROUND


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]


def test_no_file_name_stands_twice() -> None:
    names = [
        path.name
        for path in ROOT.rglob("*.py")
        if not path.name.startswith("__") and path.parent.name != "commands"
    ]
    assert sorted(names) == sorted(set(names))


def test_each_room_imports_only_from_the_rooms_above_it() -> None:
    for place, room in enumerate(ROOMS):
        for path in files_of(room):
            below = imported_rooms(path) - set(ROOMS[: place + 1])
            assert not below, f"{path.relative_to(ROOT)} imports from {sorted(below)}"


def test_every_folder_is_a_known_room() -> None:
    names = {p.stem for p in ROOT.iterdir() if p.suffix in ("", ".py")}
    assert {name for name in names if not name.startswith("_")} == set(ROOMS)


def test_the_text_rooms_load_no_torch() -> None:
    modules = [
        f"biddable.{room}.{path.stem}"
        for room in ("data", "template", "encoding")
        for path in sorted((ROOT / room).glob("*.py"))
        if path.stem != "__init__"
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, biddable; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_room_hides_a_public_name() -> None:
    """`from biddable import X` gives a room once it is imported, whatever __getattr__ says."""
    import biddable

    assert not set(ROOMS) & set(biddable.__all__)
