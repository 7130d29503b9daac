"""An adapter folder: PEFT's format, and beside it which base the adapter belongs to.

An adapter changes a model by small sums, so on another base than its own it gives nonsense without
any error. Its folder therefore names the base and the SHA-256 of each of the base's files, and it
is loaded on no other.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biddable.errors import BiddableError
from biddable.models.vetting import damaged, read_object, vet_folder
from biddable.storage import sha256

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"
# The one number of bits a weight, other than its own, that a base can be held in.
BITS = 4


def weight_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files that decide what a model computes, by name."""
    paths = [*folder.glob("*.safetensors"), folder / "config.json"]
    return {path.name: sha256(path) for path in sorted(paths)}


def base_text(name: str, sums: Mapping[str, str], bits: int = 0) -> str:
    """The content of the file that says which base an adapter belongs to.

    Args:
        name: that `--base` takes anywhere: a hub id, `smollm2`, or a whole path.
        bits: in which its linear weights were held; 0 as they are in its files.
    """
    record = {"base": name, "sha256": dict(sums)} | ({"bits": bits} if bits else {})
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def adapter_folder(folder: Path) -> Path | None:
    """The adapter that `train --lora` wrote: the folder itself, or `adapter/` of a run folder."""
    return next((p for p in (folder, folder / "adapter") if (p / BASE).is_file()), None)


def base_name(folder: Path, name: str) -> str:
    """The name of the base that an adapter belongs to.

    Raises:
        BiddableError: `base_damaged`, `code_in_base` or `base_not_found`.
    """
    vet_folder(folder, name, adapter=True)
    base, sums = (read_object(folder / BASE, name).get(key) for key in ("base", "sha256"))
    if not isinstance(base, str) or not base or not isinstance(sums, dict) or not sums:
        raise damaged(name, f"{BASE} names no base with its sums", "train the adapter anew")
    if Path(base).is_absolute() and not Path(base).exists():
        what = f"the base {base} of the adapter {name} is not there any more"
        fix = f"put it back, or name the place where it is now in {folder / BASE}"
        raise BiddableError("base_not_found", what, fix)
    return base


def base_bits(folder: Path, name: str) -> int:
    """In how many bits an adapter's base was held while it was trained: 4, or 0 for as it is.

    Raises:
        BiddableError: `base_damaged`.
    """
    bits = read_object(folder / BASE, name).get("bits", 0)
    if type(bits) is not int or bits not in (0, BITS):
        raise damaged(name, f"{BASE} has bits {str(bits)[:40]}", "train the adapter anew")
    return bits


def refuse_without_bits() -> None:
    """Refuses four bits before anything slow is loaded.

    Raises:
        BiddableError: `missing_extra`.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_bits("which is not installed")


def missing_bits(why: str) -> BiddableError:
    """The error where four bits cannot be computed with."""
    what = f"a base in {BITS} bits needs the package bitsandbytes, {why}"
    return BiddableError("missing_extra", what, "pip install 'biddable[bits]'")


def refuse_other_base(folder: Path, base: Path, name: str) -> None:
    """Refuses a base that is not, byte for byte, the one that the adapter was trained on.

    Raises:
        BiddableError: `other_base`.
    """
    record: dict[str, Any] = read_object(folder / BASE, name)
    sums = weight_sums(base)
    changed = sorted(
        k for k in {*sums, *record["sha256"]} if sums.get(k) != record["sha256"].get(k)
    )
    if changed:
        raise BiddableError(
            "other_base",
            f"the adapter {name} was trained on another base than {record['base']} is now: "
            f"{', '.join(changed)} changed",
            "put the base back as it was, or train the adapter anew on the one that is there",
        )
