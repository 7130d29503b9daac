"""The README of an exported folder: how to run it, what was proven, what it costs."""

from __future__ import annotations

from typing import Any

_RUNS = {
    "gguf": "    llama-server -m {file} --jinja --temp 0\n",
    "apart": "    llama-server -m {file} --lora {adapter} --jinja --temp 0\n",
    "ollama": "    ollama create {name} -f Modelfile\n    ollama run {name}\n",
    "hf": "    vllm serve . --dtype float32 --served-model-name {name}\n",
    "peft": (
        "    vllm serve BASE --dtype float32 --enable-lora --lora-modules {name}=. \\\n"
        "        --max-lora-rank 64 --tokenizer . --chat-template chat_template.jinja \\\n"
        "        --generation-config .\n\n"
        "BASE is the base's name or folder, as it stands in adapter_base.json; with PEFT:\n\n"
        "    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), '.')\n"
    ),
}
_SAMPLED = (
    "generation_config.json says it to programs that sample: `top_k` 1 leaves the likeliest token"
    " alone. The weights are in fp32, as they were judged; with `--dtype auto` vLLM rounds"
    " them to half precision."
)
_FOUR_BITS = (
    "The adapter was trained and judged on its base in four bits: load the base with"
    " `BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4',"
    " bnb_4bit_use_double_quant=True)`."
)
_OLLAMA = (
    "Ollama joins messages of one role that follow each other, and drops the oldest of a chat that"
    " is longer than `num_ctx`. Messages in an order that the trained template does not know are an"
    " error."
)
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
    run = _RUNS["apart" if record["adapter"] else to]
    parts = [f"# {name}", f"Exported by `biddable export --to {to}`."]
    parts.append(run.format(**record).rstrip())
    parts += [_system(record), "Sampling: greedy (temperature 0), as the model was judged."]
    parts += [_FOUR_BITS] if to == "peft" and record["bits"] else []
    if to in ("hf", "peft"):
        return "\n\n".join([*parts, _SAMPLED, "## Checked", _checked(record)]) + "\n"
    parts += ["## Checked", _checked(record), "## What the type costs", _cost(record)]
    parts += ["## Know", _CONTROL, _OLLAMA if to == "ollama" else _OWN_TEMPLATES]
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
        return "Not checked here."
    ties = f", {trip['ties']} of them up to a tie" if trip["ties"] else ""
    return (
        f"In {record['reader']} the weights in fp32 gave the same rendered text, ids and"
        f" greedy answer for {trip['prompts']} prompts ({trip['tokens']} tokens{ties}), and"
        f" stopped at each stop token ({trip['stops']})."
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
