"""What `export` writes for each program, and the proof in that program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from biddable.data.conversation import Message
from biddable.errors import BiddableError
from biddable.exporting.baked import served_template
from biddable.exporting.gguf_file import write_adapter, write_gguf
from biddable.exporting.gguf_weights import Value
from biddable.exporting.gguf_words import vocabulary_of, with_own_tokens
from biddable.exporting.go_template import Frame, frame_of
from biddable.exporting.hf_folder import open_folder, texts_of, write_peft
from biddable.exporting.llama_cpp import llama_cpp
from biddable.exporting.modelfile import modelfile
from biddable.exporting.round_trip import LONGEST, Prompt, control_texts, prompts_of, prove
from biddable.models.base import SYSTEM_PROMPT_FILE, Base
from biddable.models.save import save_model
from biddable.models.support import context_of
from biddable.settings import ExportSettings
from biddable.storage import need_space, write_text
from biddable.template.template import Template
from biddable.terminal import console, line

# Programs that read GGUF files.
GGUF = ("gguf", "ollama")
# Room of llama.cpp beyond prompt and answer.
SPARE = 8


@dataclass(frozen=True, slots=True)
class Tuned:
    """The model that is exported.

    Args:
        name: of the run, as a file's name.
        model: with its adapter merged, unless that is to stay apart.
        stop_ids: at which its answers end.
        system: the system prompt of every training row, None where there is none.
        chats: held-out messages before an answer.
    """

    name: str
    base: Base
    model: Any
    tokenizer: Any
    template: Template
    stop_ids: tuple[int, ...]
    system: str | None
    chats: Sequence[Sequence[Message]]

    def default_system(self, settings: ExportSettings) -> str | None:
        """The system prompt of chats that have none."""
        return self.system if settings.system == "bake" else None

    def prompts(self, settings: ExportSettings) -> list[Prompt]:
        """Those that the proof sends, as far as the model's context has room for them.

        Raises:
            BiddableError: `export_differs`, the system prompt is another one elsewhere.
        """
        if held := [t for t in control_texts(self.tokenizer) if t in (self.system or "")]:
            what = f"the trained system prompt holds {held[0]}, which is a control token elsewhere"
            raise BiddableError("export_differs", what, "train without it in the system prompt")
        system, context = self.default_system(settings), context_of(self.model.config)
        prompts = prompts_of(self.tokenizer, self.template, system, self.chats)
        fitting = [p for p in prompts if len(p.ids) < context]
        if len(fitting) < len(prompts):
            count = f"{len(prompts) - len(fitting)} of {len(prompts)} prompts"
            line(console(), "left out", f"{count} of the proof, which fill the model's context")
        return fitting or prompts

    def bytes(self) -> int:
        """Of its weights in fp32."""
        return sum(4 * int(p.numel()) for p in self.model.parameters())


def write_folder(settings: ExportSettings, tuned: Tuned, folder: Path) -> dict[str, Any]:
    """Writes and proves a folder for transformers or PEFT; returns its part of export.json.

    Raises:
        BiddableError: `export_differs`, `model_not_savable` or `no_space`.
    """
    prompts, own = tuned.prompts(settings), tuned.template
    messages = [prompt.messages for prompt in prompts]
    served = served_template(own, own, tuned.default_system(settings), messages)
    texts = texts_of(tuned.model, tuned.tokenizer, served.text, tuned.stop_ids)
    if tuned.system is not None:
        texts[SYSTEM_PROMPT_FILE] = tuned.system
    adapter = tuned.base.adapter if settings.to == "peft" else None
    line(console(), "writing", "the adapter" if adapter else "model.safetensors")
    if adapter:
        write_peft(folder, adapter, texts)
        if tuned.base.bits or not installed("peft"):
            missing = "PEFT is not installed; pip install peft"
            why = "its base is in four bits, as others round it" if tuned.base.bits else missing
            line(console(), "checked", f"no: {why}")
            return {}
    else:
        need_space(folder, tuned.bytes())
        save_model(tuned.model, dict(tuned.model.named_parameters()), texts, folder)
    reader = open_folder(folder, tuned.base.folder if adapter else None)
    line(console(), "checking", f"{len(prompts)} prompts in {reader.name}")
    trip = prove(reader, tuned.model, prompts, tuned.stop_ids)
    return {"reader": installed(reader.name), "round_trip": asdict(trip)}


def write_gguf_folder(settings: ExportSettings, tuned: Tuned, folder: Path) -> dict[str, Any]:
    """Writes and proves GGUF files, and for Ollama a Modelfile; returns its part of export.json.

    Raises:
        BiddableError: `not_expressible`, `export_differs` or `no_space`.
    """
    prompts = tuned.prompts(settings)
    template = with_own_tokens(tuned.template, tuned.tokenizer)
    messages = [prompt.messages for prompt in prompts]
    system = tuned.default_system(settings)
    served = served_template(template, tuned.template, system, messages)
    words = _words(tuned, served, prompts)
    file = folder / f"{'base' if settings.apart else tuned.name}-{settings.type}.gguf"
    frame = None
    if settings.to == "ollama":
        frame = _write_modelfile(settings, tuned, served, words, file)
    # Twice: the file, and the one of the proof in fp32.
    need_space(folder, 2 * tuned.bytes())
    line(console(), "writing", file.name)
    write_gguf(file, tuned.model, words, settings.type)
    adapter = folder / f"{tuned.name}-adapter.gguf" if settings.apart else None
    if adapter:
        write_adapter(adapter, tuned.model)
    record = {"type": settings.type, "file": file.name, "adapter": adapter and adapter.name}
    if not installed("xllamacpp"):
        line(console(), "checked", "no: llama.cpp is not installed; pip install 'biddable[export]'")
        return record
    twin = file if settings.type == "f32" else folder / "twin.gguf"
    if twin != file:
        write_gguf(twin, tuned.model, words, "f32")
    room = max(len(p.ids) for p in prompts) + LONGEST + SPARE
    line(console(), "checking", f"{len(prompts)} prompts in llama.cpp")
    with llama_cpp(twin, room, torch.get_num_threads(), exact=True, adapter=adapter) as server:
        trip = prove(server, tuned.model, prompts, tuned.stop_ids, _bos(tuned, words), frame)
    if twin != file:
        twin.unlink()
    return {**record, "reader": installed("xllamacpp"), "round_trip": asdict(trip)}


def _words(tuned: Tuned, served: Template, prompts: Sequence[Prompt]) -> dict[str, Value]:
    """The settings of the file that describe tokenizer and template."""
    rows = tuned.model.get_input_embeddings().weight.shape[0]
    begins = prompts[0].ids[:1] == [tuned.tokenizer.bos_token_id]
    words = vocabulary_of(tuned.tokenizer, rows, tuned.stop_ids, begins_with_bos=begins)
    return {**words, "tokenizer.chat_template": served.text}


def _bos(tuned: Tuned, words: dict[str, Value]) -> str:
    """What llama.cpp itself puts before a text."""
    return tuned.tokenizer.bos_token if words["tokenizer.ggml.add_bos_token"] else ""


def _write_modelfile(
    settings: ExportSettings, tuned: Tuned, served: Template, words: dict[str, Value], file: Path
) -> Frame:
    """Writes Ollama's Modelfile; returns the chat template as it stands there."""
    frame = frame_of(served).without(_bos(tuned, words))
    stops = [tuned.tokenizer.decode([i]) for i in tuned.stop_ids]
    system, context = tuned.default_system(settings), context_of(tuned.model.config)
    text = modelfile(file.name, frame.go(), system, stops, context)
    write_text(file.with_name("Modelfile"), text)
    return frame


def installed(package: str) -> str | None:
    """A package's name and version; None where it is not there."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None
