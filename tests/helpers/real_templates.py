"""Chat templates as they are shipped in the packages trl and axolotl, and tokenizers for them.

The packages are read as files (their wheels are zip archives); nothing of them is installed or run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PACKAGES = ("trl==1.16.0", "axolotl==0.19.0")

# How the control tokens of these families are written. Tags such as <think> and <tool_call> are
# added tokens too, but not special ones, as in the tokenizers of Qwen.
SPECIAL = re.compile(
    r"<\|[^|<>\s'{}]{1,40}\|?>|<[a-z_]{1,20}\|>|<\|\"\|>|<\uff5c[^\uff5c<>]{1,40}\uff5c>|\[\|[a-z]+\|\]"
    r"|<(?:start|end)_of_(?:turn|utterance|image)>|<(?:bos|eos|pad)>|</?s>|\[gMASK\]|<sop>|<image>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG)\]"
)
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# Families whose tokenizers call their end of turn the EOS; the others here have a different EOS.
ENDS_AS_EOS = ("<|END_OF_TURN_TOKEN|>", "<\uff5cend▁of▁sentence\uff5c>", "<|im_end|>")


def fetch(folder: Path) -> bool:
    """Downloads the wheels where they are missing; False where that is impossible."""
    if len(list(folder.glob("*.whl"))) == len(PACKAGES):
        return True
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder)]
    try:
        done = subprocess.run([*command, *PACKAGES], check=False, capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def read(folder: Path) -> dict[str, str]:
    """Every template of both packages, as `trl/NAME` and `axolotl/NAME`."""
    templates = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".jinja") and "chat_templates/" in name:
                    key = f"{name.split('/')[0]}/{Path(name).stem}"
                    templates[key] = archive.read(name).decode("utf-8")
    return dict(sorted(templates.items()))


@lru_cache(maxsize=1)
def byte_level_source() -> str:
    """A small byte-level BPE, trained here on words that the tests use."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = (
        "the user asks what the assistant answers and system says be brief\n\n think im end start"
    )
    tokenizer.train_from_iterator([words] * 4, trainer)
    return str(tokenizer.to_str())


def tokenizer_for(template: str, *, bos: str = "<s>", name: str = "") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has the control tokens of a template."""
    special = dict.fromkeys([*SPECIAL.findall(template), bos, "</s>", "<|endoftext|>"])
    if "<|return|>" in template:
        special["<|call|>"] = None
    tokenizer = Tokenizer.from_str(byte_level_source())
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=next((end for end in ENDS_AS_EOS if end in template), "</s>"),
        chat_template=template,
        name_or_path=name,
    )
