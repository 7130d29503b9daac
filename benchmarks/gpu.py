"""Proves and measures on a GPU in one go: `make gpu`, or `python -m benchmarks.gpu`.

Needs Python, PyTorch 2.11 or later and, for what the machine lacks, wheels in a folder; PyTorch
itself is never installed. Each part is a process of its own: what fails, or does not fit into the
time, is a line, and the rest goes on. All lines are printed, and appended to gpu-DATE.jsonl.
`--device cpu --small` runs all of it on tiny shapes.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu_workloads import PEER_TOKENS, SHAPES, TINY, WORK, result_of, write_workload

HERE = Path(__file__).parent
ROOT = HERE.parent
# The machine's own, which a wheel beside it would only break.
OWN = re.compile(r"(torch|torchvision|torchaudio|triton|nvidia_\w+|cuda_\w+)-")
LAWS = ["attention", "gradients", "isolation", "adapters", "resume", "answers", "proof", "train"]
# Seconds that a part gets at most on a GPU, and without which none is begun.
MOST, LEAST = 150.0, 15.0


@dataclass
class Session:
    """What all parts have in common.

    Args:
        environment: of each part's process.
        header: what each line says of device, versions and command.
        files: where each line is written.
        deadline: by time.monotonic().
        most: seconds that a part gets at most.
        faults: lines that say of a law that it broke, or of a part that it failed.
    """

    environment: dict[str, str]
    header: dict[str, Any]
    files: list[TextIO]
    deadline: float
    most: float = MOST
    faults: int = 0

    def write(self, line: dict[str, Any]) -> None:
        """Prints a line and keeps it."""
        self.faults += "fault" in line or line.get("held") is False
        for file in self.files:
            print(json.dumps({**line, **self.header}), file=file, flush=True)

    def run(self, part: str, command: list[str]) -> list[dict[str, Any]]:
        """The JSON lines that a process prints; if it fails, with the last line of its errors."""
        left = self.deadline - time.monotonic()
        if left < LEAST:
            self.write({"part": part, "skipped": f"{max(0.0, left):.0f} seconds are left"})
            return []
        limit = min(left, self.most)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=out, stderr=errors
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                print(f"it did not end within {limit:.0f} seconds", file=errors, flush=True)
            out.seek(0)
            errors.seek(0)
            # A line that was not finished is none.
            whole = [text for text in out if text.startswith('{"') and text.endswith("}\n")]
            lines = [json.loads(text) for text in whole]
            said = errors.read().strip().splitlines()
        if code and not any("fault" in line for line in lines):
            self.write({"part": part, "fault": (said or [""])[-1], "exit_code": code})
        return lines


def install(wheels: str, site: Path) -> str:
    """Installs wheels into a folder of this run; returns what pip says where it cannot."""
    own = [str(w) for w in sorted(Path(wheels).glob("*.whl")) if not OWN.match(w.name.lower())]
    if not own:
        return ""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    done = subprocess.run(
        [*pip, "--target", str(site), *own], capture_output=True, text=True, check=False
    )
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""


def install_source(site: Path) -> None:
    """Tells Python of the package that it takes out of this folder, as pip would."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = site / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def packages() -> dict[str, Any]:
    """The package's dependencies that this interpreter lacks, or has in another version."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    missing, other = [], []
    for text in wanted:
        name = re.split(r"[<>=~!]", text)[0]
        try:
            version = importlib.metadata.version(name)
            from packaging.requirements import Requirement
        except (importlib.metadata.PackageNotFoundError, ImportError):
            missing.append(name)
            continue
        if not Requirement(text).specifier.contains(version, prereleases=True):
            other.append(f"{name} {version}, not {text}")
    return {"missing": missing, "other_versions": other}


def header_of(device: str, peer: str, environment: dict[str, str]) -> dict[str, Any]:
    """What each line says of the machine, the versions and the command."""
    name = "torch.cuda.get_device_name()" if device == "cuda" else "platform.processor() or 'cpu'"
    script = f"import platform, torch; print(torch.__version__, {name}, sep='; ')"
    smi = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    torch, _, model = output_of([sys.executable, "-c", script], environment).partition("; ")
    trl = "import trl; print(trl.__version__)"
    return {
        "device": model, "torch": torch, "driver": output_of(smi, environment),
        "peer": output_of([peer, "-c", trl], environment),
        "commit": output_of(["git", "rev-parse", "--short", "HEAD"], environment) or "unknown",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
    }  # fmt: skip


def output_of(command: list[str], environment: dict[str, str]) -> str:
    """What a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def laws(session: Session, parts: list[str], device: str, *, small: bool) -> None:
    """A line for each case of each part; tiny ones share a process, which starts slowly."""
    for names in [",".join(parts)] if small else parts:
        command = [sys.executable, "-m", "benchmarks.gpu_laws", names, device]
        for line in session.run(names, [*command, *["small"] * small]) if names else ():
            session.write(line)


def speeds(session: Session, shape: str, device: str, peer: str) -> None:
    """W1 to W3 in one size, ours and then the peer's."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: write_workload(name, shape, Path(folder)) for name in WORK}
        files = [str(path) for path in paths.values()]
        dtype = "bf16" if device == "cuda" else "fp32"
        sides = {"ours": [sys.executable, "-m", "benchmarks.ours", *files, device]}
        if session.header["peer"]:
            script = str(HERE / "peer_trl.py")
            sides["peer"] = [peer, script, *files, dtype, f"tokens={PEER_TOKENS[shape]}"]
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in WORK}
        for side, command in sides.items():
            lines = session.run(f"{shape} {side}", command)
            for name, path in paths.items() if lines else ():
                result = result_of(path, [line for line in lines if line["workload"] == name])
                session.write(
                    {"part": "speed", "shape": shape, "work": name, "side": side, **result}
                )
                results[name] += [result] if "seconds" in result else []
    for name, pair in results.items():
        if len(pair) == 2:
            ours, theirs = pair
            losses = zip(ours["losses"], theirs["losses"], strict=True)
            session.write(
                {
                    "part": "speed", "shape": shape, "work": name,
                    "ratio": ours["seconds"] / theirs["seconds"],
                    "memory_ratio": ours["peak"] / theirs["peak"],
                    "loss_difference": max(abs(a - b) for a, b in losses),
                }
            )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="laws or shapes; else all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--wheels", default="", help="folder with wheels of what is missing")
    parser.add_argument("--out", default=str(HERE / "results"), help="folder of gpu-DATE.jsonl")
    parser.add_argument("--seconds", type=float, default=530.0)
    parser.add_argument("--peer", default=sys.executable, help="interpreter that has TRL")
    args = parser.parse_args()
    known = [*LAWS, *(TINY if args.small else SHAPES)]
    args.parts = args.parts or known
    if unknown := set(args.parts) - set(known):
        parser.error(f"{min(unknown)} is none of {', '.join(known)}")
    return args


def main() -> int:
    args, start = arguments(), time.monotonic()
    with tempfile.TemporaryDirectory() as text:
        site = Path(text)
        places = [str(ROOT / "src"), str(ROOT), str(ROOT / "tests" / "helpers"), text]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        fault = install(args.wheels, site) if args.wheels else ""
        install_source(site)
        sys.path.insert(1, text)
        header = header_of(args.device, args.peer, environment)
        file = Path(args.out) / f"gpu-{header['date']}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as results:
            most = MOST if args.device == "cuda" else args.seconds
            files, deadline = [sys.stdout, results], start + args.seconds
            session = Session(environment, header, files, deadline, most)
            session.write({"part": "packages", **packages(), **({"fault": fault} if fault else {})})
            if not header["device"]:
                what = f"PyTorch is missing or finds no {args.device}"
                session.write({"part": "device", "fault": what})
                return 1
            laws(session, [p for p in args.parts if p in LAWS], args.device, small=args.small)
            for shape in (p for p in args.parts if p not in LAWS):
                speeds(session, shape, args.device, args.peer)
            seconds = round(time.monotonic() - start)
            session.write({"part": "all", "faults": session.faults, "seconds": seconds})
    return int(session.faults > 0)


if __name__ == "__main__":
    sys.exit(main())
