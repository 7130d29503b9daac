"""The README of an exported folder: how to run it, what was proven, what it costs."""

from __future__ import annotations

from typing import Any

_RUNS = {
    "gguf": "    llama-server -m {file} --jinja --temp 0\n",
    "ollama": "    ollama create {name} -f Modelfile\n    ollama run {name}\n",
    "hf": "    vllm serve .\n",
    "peft": "    vllm serve BASE --enable-lora --lora-modules {name}=.\n",
}
_CONTROL = (
    "A program that renders the chat template to one text takes what looks like a control token in"
    " a user's message for one, as `apply_chat_template` does. `biddable chat` does not. Take such"
    " texts out of messages that you do not trust."
)
_OWN_TEMPLATES = (
    "Some programs ignore the chat template in a GGUF file and choose one of their own"
    " (node-llama-cpp by default; Ollama without this folder's Modelfile): the model is then not"
    " asked as it was trained."
)
_COMPOSED = (
    "The tokenizer first joins letters and their accents (Unicode's NFC), and llama.cpp does not:"
    " send texts in that form."
)


def readme(record: dict[str, Any]) -> str:
    """The text, from what export.json holds."""
    name, to = record["name"], record["to"]
    parts = [f"# {name}", f"Exported by `biddable export --to {to}`."]
    parts.append(_RUNS[to].format(name=name, file=record.get("file", "")).rstrip())
    parts += [_system(record), "Sampling: greedy (temperature 0), as the model was judged."]
    if to in ("gguf", "ollama"):
        parts += ["## Checked", _checked(record), "## What the type costs", _cost(record)]
        parts += ["## Know", _CONTROL, _OWN_TEMPLATES]
        parts += [_COMPOSED] if record["composes"] else []
    return "\n\n".join(parts) + "\n"


def _system(record: dict[str, Any]) -> str:
    if record["system_prompt"] is None:
        return "The model was trained without a system prompt that all rows share."
    if record["system"] == "bake":
        return "The trained system prompt is the default of the chat template."
    return f"Send the trained system prompt yourself:\n\n    {record['system_prompt']!r}"


def _checked(record: dict[str, Any]) -> str:
    trip = record["round_trip"]
    if trip is None:
        return "Not checked: llama.cpp is not installed (`pip install 'biddable[export]'`)."
    ties = f", {trip['ties']} of them up to a tie" if trip["ties"] else ""
    return (
        f"In llama.cpp ({record['llama_cpp']}) the weights in fp32 gave the same rendered text,"
        f" the same ids and the same greedy answer for {trip['prompts']} prompts"
        f" ({trip['tokens']} tokens{ties}), and stopped at each of {trip['stops']} stop tokens."
    )


def _cost(record: dict[str, Any]) -> str:
    cost = record["cost"]
    if cost is None:
        return "Not judged."
    lines = [
        f"`{record['type']}` in llama.cpp beside the tuned model on the held-out rows:"
        f" {cost['answers_changed']} of {cost['answers']} answers changed.",
        "| metric | tuned | exported |\n|---|---|---|",
    ]
    for metric, values in cost["metrics"].items():
        lines[-1] += f"\n| {metric} | {values['tuned']:.4g} | {values['exported']:.4g} |"
    return "\n\n".join(lines)
