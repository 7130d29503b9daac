"""A real llama.cpp, in the process of llama_server.py, to hold an exported file against."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from biddable.errors import BiddableError
from biddable.generation.generate import Answer

# Seconds for one answer.
_PATIENCE = 600


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """llama.cpp with a model in it, at an address."""

    address: str
    name: str = "llama.cpp"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the server answers to a JSON body."""
        headers = {"Content-Type": "application/json"}
        request = Request(self.address + path, json.dumps(body).encode(), headers)
        # Never through a proxy: it is this machine.
        with build_opener(ProxyHandler({})).open(request, timeout=_PATIENCE) as reply:
            return json.load(reply)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of the prompt."""
        text: str = self.post("/apply-template", {"messages": messages})["prompt"]
        return text

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered prompt, as the server itself encodes it."""
        body = {"content": text, "add_special": True, "parse_special": True}
        ids: list[int] = self.post("/tokenize", body)["tokens"]
        return ids

    def answer(self, prompt: Sequence[int], limit: int, bias: Sequence[Any] = ()) -> Answer:
        """The greedy answer to the ids of a prompt.

        Args:
            bias: pairs of an id and what is added to its logit.
        """
        body = {
            "prompt": list(prompt), "n_predict": limit, "temperature": 0, "return_tokens": True,
            "cache_prompt": False, "logit_bias": list(bias), "samplers": ["top_k"], "top_k": 1,
        }  # fmt: skip
        reply = self.post("/completion", body)
        stopped = reply["stop_type"] == "eos"
        ids = reply["tokens"]
        # It returns the stop token or leaves it out, from version to version.
        return Answer(tuple(ids[: reply["tokens_predicted"] - 1] if stopped else ids), stopped)


@contextmanager
def llama_cpp(
    file: Path, context: int, threads: int, *, exact: bool, adapter: Path | None = None
) -> Iterator[LlamaCpp]:
    """A server with a GGUF file.

    Args:
        context: tokens that it makes room for.
        exact: its keys and values are kept in fp32, not in half precision as by default.
        adapter: the GGUF file of an adapter on it.

    Raises:
        BiddableError: `export_differs`, llama.cpp does not take the file.
    """
    words = [str(file), str(context), str(threads), "exact" if exact else "usual"]
    words += [str(adapter)] if adapter else []
    command = [sys.executable, "-P", str(Path(__file__).with_name("llama_server.py")), *words]
    with tempfile.TemporaryFile() as errors:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as child:
            try:
                address = _address(child)
                if not address:
                    errors.seek(0)
                    raise _refused(errors.read().decode(errors="replace"))
                yield LlamaCpp(address)
            finally:
                child.kill()


def _address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    lines = iter(child.stdout.readline, "")
    return next((line.strip()[1:] for line in lines if line.startswith("@http")), "")


def _refused(log: str) -> BiddableError:
    reasons = [line for line in log.splitlines() if "rror" in line or "unknown" in line]
    why = reasons[0].strip()[:300] if reasons else "it ends without a word"
    return BiddableError(
        "export_differs",
        f"llama.cpp does not take the file: {why}",
        "please report it with the model's config.json",
    )
