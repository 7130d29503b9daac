"""Model folders that someone damaged, or made to do harm, each from the same sound one."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CANARY = "ran.txt"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def edit(folder: Path, file: str, **changes: Any) -> None:
    """Sets keys of a JSON file; a value of `...` takes the key out."""
    path = folder / file
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings |= changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))


def put(file: str, content: str | bytes) -> Callable[[Path], None]:
    """Replaces a file."""

    def do(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / file).write_bytes(raw)

    return do


def config(**changes: Any) -> Callable[[Path], None]:
    """Sets keys of config.json."""
    return lambda folder: edit(folder, "config.json", **changes)


def generation(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "generation_config.json", **changes)


def words(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "tokenizer_config.json", **changes)


def tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Changes tokenizer.json."""

    def do(folder: Path) -> None:
        described = json.loads((folder / "tokenizer.json").read_text())
        change(described)
        (folder / "tokenizer.json").write_text(json.dumps(described))

    return do


def tensors(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    """Changes the tensors."""

    def do(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return do


def header(change: Callable[[dict[str, Any], bytes], bytes]) -> Callable[[Path], None]:
    """Rewrites the weights' file from its header and its tensors' bytes."""

    def do(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        described = json.loads(raw[8 : 8 + length])
        (folder / WEIGHTS).write_bytes(change(described, raw[8 + length :]))

    return do


def packed(described: dict[str, Any], data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _set(described: dict[str, Any], data: bytes, **entry: Any) -> bytes:
    described[Q_PROJ] |= entry
    return packed(described, data)


def shards(change: Callable[[Path, dict[str, str]], None]) -> Callable[[Path], None]:
    """Cuts the weights into two files with an index, then changes folder and index."""

    def do(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        places: dict[str, str] = {}
        for n, names in enumerate((sorted(state)[:9], sorted(state)[9:])):
            file = f"model-0000{n + 1}-of-00002.safetensors"
            save_file({k: state[k] for k in names}, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(names, file)
        change(folder, places)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))

    return do


def code(folder: Path) -> None:
    """A module that tells that it ran, beside a config.json that names it."""
    ran = str(folder / CANARY)
    text = f"open({ran!r}, 'w').close()\nfrom transformers import LlamaConfig as Evil\n"
    (folder / "evil.py").write_text(text)
    edit(folder, "config.json", auto_map={"AutoConfig": "evil.Evil"})


def pickled(folder: Path) -> None:
    """Weights as a pickle that tells that it was read."""
    (folder / WEIGHTS).unlink()
    text = f"open({str(folder / CANARY)!r}, 'w').close()"
    (folder / "pytorch_model.bin").write_bytes(b"cbuiltins\nexec\n(V" + text.encode() + b"\ntR.")


def link(file: str, target: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return do


def linked_out(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.safetensors"
    (folder / WEIGHTS).rename(elsewhere)
    (folder / WEIGHTS).symlink_to(elsewhere)


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def renamed(before: str) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        for name in list(state):
            state[before + name] = state.pop(name)

    return change


def within(part: str, inner: str) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if part in name]:
            state[name.replace(part, part + inner)] = state.pop(name)

    return change


def lost(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        del state[name]

    return change


def added(state: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    state[name] = tensor


def set_all(state: dict[str, Tensor], names: Iterable[str], value: float) -> None:
    """Writes one number all over some tensors."""
    for name in names:
        state[name] = torch.full_like(state[name], value)


def set_number(state: dict[str, Tensor], value: float) -> None:
    state[Q_PROJ][3, 4] = value


def split_by(pattern: str) -> Callable[[dict[str, Any]], None]:
    """Lets the pre-tokenizer cut by a pattern."""
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda described: described.update(pre_tokenizer=step)


def no_vocabulary(described: dict[str, Any]) -> None:
    described["model"]["vocab"] = ["a"]


def far_id(described: dict[str, Any]) -> None:
    described["model"]["vocab"]["far away"] = 4_000_000_000


def merge_of_none(described: dict[str, Any]) -> None:
    described["model"]["merges"].insert(0, ["q", "z"])


def cut_normalizer(described: dict[str, Any]) -> None:
    """At this the library panics, which is no Exception and is printed past Python."""
    described["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


def three_more(described: dict[str, Any]) -> None:
    n = len(described["model"]["vocab"])
    described["added_tokens"] += [
        {
            "id": n + i, "content": f"<|{i}|>", "special": True, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }
        for i in range(3)
    ]  # fmt: skip


def one_index_out(folder: Path, places: dict[str, str]) -> None:
    places[Q_PROJ] = "../outside.safetensors"


def absolute_index(folder: Path, places: dict[str, str]) -> None:
    places[Q_PROJ] = "/etc/passwd"


def lost_shard(folder: Path, places: dict[str, str]) -> None:
    (folder / places[Q_PROJ]).unlink()


def index_of_numbers(folder: Path, places: dict[str, str]) -> None:
    places[Q_PROJ] = 7  # type: ignore[assignment]


def twice(folder: Path, places: dict[str, str]) -> None:
    other = sorted(set(places.values()) - {places[Q_PROJ]})[0]
    state = load_file(folder / other) | {Q_PROJ: torch.ones(48, 48)}
    save_file(state, folder / other, metadata={"format": "pt"})


def no_metadata(folder: Path) -> None:
    shards(lambda *_: None)(folder)
    edit(folder, INDEX, metadata=...)


def adapter(folder: Path) -> None:
    edit(folder, "adapter_config.json", base_model_name_or_path="somebody/else", peft_type="LORA")


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
CODE, DAMAGED, IDS = "code_in_base", "base_damaged", "ids_beyond_embedding"
QUANTIZED, REFUSED = "quantized_base", "tokenizer_refused"
# Kind of fault: name of the case: what is done to the folder, and the code that is to come of it.
CASES: dict[str, dict[str, tuple[Callable[[Path], None], str]]] = {
    "code": {
        "auto_map of config.json, with its module": (code, CODE),
        "auto_map alone": (config(auto_map={"AutoModelForCausalLM": "a--b.C"}), CODE),
        "auto_map of the tokenizer": (words(auto_map={"AutoTokenizer": ["t.T", None]}), CODE),
        "auto_map in an inner part": (
            config(text_config={"auto_map": {"AutoConfig": "x.Y"}}), CODE,
        ),
        "auto_map of a processor": (
            put("processor_config.json", '{"auto_map": {"A": "b.C"}}'), CODE,
        ),
        "custom_pipelines": (config(custom_pipelines={"p": {"impl": "p.P"}}), CODE),
        "custom_generate": (generation(custom_generate="somebody/else"), CODE),
        "attention kernel of the hub": (config(attn_implementation="somebody/kernel"), CODE),
        "private attention field": (config(_attn_implementation="a/b@v1:f"), CODE),
        "innermost attention field": (config(_attn_implementation_internal="a/b"), CODE),
        "kernels by part": (config(attn_implementation={"": "eager", "x": "a/b:c"}), CODE),
        "experts of the hub": (config(_experts_implementation_internal="a/b"), CODE),
        "kernel_config": (config(kernel_config={"RMSNorm": "a/b:RMSNorm"}), CODE),
        "other weights": (config(transformers_weights="../x.safetensors"), CODE),
        "a module": (put("modeling_llama.py", "import os\n"), CODE),
        "an adapter of another base": (adapter, "adapter_in_base"),
        "pickled weights": (pickled, "pickled_weights"),
    },
    "config.json": {
        "nested 100,000 deep": (put("config.json", DEEP), DAMAGED),
        "nested 200 deep": (config(x=json.loads('{"a":' * 200 + "1" + "}" * 200)), DAMAGED),
        "no JSON": (put("config.json", "llama"), DAMAGED),
        "empty": (put("config.json", ""), DAMAGED),
        "a list": (put("config.json", "[]"), DAMAGED),
        "a byte order mark": (put("config.json", b"\xef\xbb\xbf{}"), DAMAGED),
        "UTF-16": (put("config.json", "{}".encode("utf-16")), DAMAGED),
        "a key twice": (
            put("config.json", '{"model_type": "llama", "model_type": "gpt2"}'), DAMAGED,
        ),
        "NaN": (config(rms_norm_eps=float("nan")), DAMAGED),
        "a number beyond floats": (put("config.json", '{"a": 1e999}'), DAMAGED),
        "a number of 5,000 digits": (put("config.json", '{"a": ' + "9" * 5000 + "}"), DAMAGED),
        "no model_type": (config(model_type=...), DAMAGED),
        "model_type a list": (config(model_type=["llama"]), DAMAGED),
        "another kind of model": (config(model_type="t5"), "not_causal_lm"),
        "a model of images": (config(model_type="vit"), "not_causal_lm"),
        "an unknown kind": (config(model_type="somebody/else"), "unsupported_architecture"),
        "a pipe": (pipe, DAMAGED),
        "20 MB of brackets": (put("config.json", '{"a": [' + "[]," * 6_800_000 + "1]}"), DAMAGED),
    },
    "sizes": {
        "positions a text": (config(max_position_embeddings="many"), DAMAGED),
        "positions 0": (config(max_position_embeddings=0), DAMAGED),
        "positions below 0": (config(max_position_embeddings=-5), DAMAGED),
        "positions huge": (config(max_position_embeddings=10**15), DAMAGED),
        "positions true": (config(max_position_embeddings=True), DAMAGED),
        "a vocabulary of 10 TB": (config(vocab_size=10**13), DAMAGED),
        "layers without end": (config(num_hidden_layers=10**9), DAMAGED),
        "layers without end, of which a list is made": (
            config(model_type="qwen2", num_hidden_layers=10**9), DAMAGED,
        ),
        "labels without end": (config(num_labels=10**9), DAMAGED),
        "a precision that is a function": (config(dtype="load"), DAMAGED),
        "kinds of layers unknown": (config(model_type="qwen3", layer_types=["x", "y"]), DAMAGED),
        "no layers": (config(num_hidden_layers=0), DAMAGED),
        "no heads": (config(num_attention_heads=0), DAMAGED),
        "a width of no tensor": (config(hidden_size=47), DAMAGED),
        "an unknown activation": (config(hidden_act="os.system"), DAMAGED),
        "an angle of 0": (
            config(rope_parameters={"rope_type": "default", "rope_theta": 0}), DAMAGED,
        ),
        "a rope of another kind": (config(rope_parameters={"rope_type": "weird"}), DAMAGED),
        "a rope of text": (config(rope_parameters="long"), DAMAGED),
        "a negative epsilon": (config(rms_norm_eps=-1.0), DAMAGED),
        "one layer more": (config(num_hidden_layers=3), DAMAGED),
        "one layer less": (config(num_hidden_layers=1), DAMAGED),
    },
    "quantized": {
        "bitsandbytes": (config(quantization_config={"load_in_4bit": True}), QUANTIZED),
        "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), QUANTIZED),
        "a method unknown": (config(quantization_config={"quant_method": "a/b"}), QUANTIZED),
        "compressed tensors": (config(compression_config={"format": "x"}), QUANTIZED),
        "MLX": (config(quantization={"bits": 4, "group_size": 64}), QUANTIZED),
        "an empty entry": (config(quantization_config={}), QUANTIZED),
        "weights of 8 bits": (
            tensors(lambda s: added(s, Q_PROJ, torch.ones(48, 48, dtype=torch.int8))), QUANTIZED,
        ),
        "weights of fp8": (
            tensors(lambda s: added(s, Q_PROJ, torch.ones(48, 48).to(torch.float8_e4m3fn))),
            QUANTIZED,
        ),
    },
    "tensors": {
        "one is missing": (tensors(lost(Q_PROJ)), DAMAGED),
        "an untied head is missing": (tensors(lost("lm_head.weight")), DAMAGED),
        "another shape": (tensors(lambda s: added(s, Q_PROJ, torch.ones(48, 40))), DAMAGED),
        "one too many": (
            tensors(lambda s: added(s, "model.vision.weight", torch.ones(3))), DAMAGED,
        ),
        "NaN": (tensors(lambda s: set_number(s, float("nan"))), DAMAGED),
        "infinity": (tensors(lambda s: set_number(s, float("-inf"))), DAMAGED),
        "zeros": (tensors(lambda s: set_all(s, list(s), 0.0)), DAMAGED),
        "an embedding of ones": (tensors(lambda s: set_all(s, [EMBEDDING], 1.0)), DAMAGED),
        "a head of zeros": (tensors(lambda s: set_all(s, ["lm_head.weight"], 0.0)), DAMAGED),
        "another head than the embedding it is tied to": (
            config(tie_word_embeddings=True), DAMAGED,
        ),
        "none": (tensors(lambda s: s.clear()), DAMAGED),
    },
    "prefixes": {
        "of an adapter": (tensors(renamed("base_model.model.")), "foreign_prefix"),
        "of torch.compile": (tensors(renamed("_orig_mod.")), "foreign_prefix"),
        "of DDP": (tensors(renamed("module.")), "foreign_prefix"),
        "of a wrapper": (tensors(renamed("_orig_module.")), "foreign_prefix"),
        "of FSDP": (tensors(renamed("_fsdp_wrapped_module.")), "foreign_prefix"),
        "of nobody": (tensors(renamed("inner.")), "foreign_prefix"),
        "of two": (tensors(renamed("a.b.")), "foreign_prefix"),
        "of checkpointing, within": (
            tensors(within("layers.0.", "_checkpoint_wrapped_module.")), "foreign_prefix",
        ),
        "of an adapter, within": (tensors(within("q_proj.", "base_layer.")), "foreign_prefix"),
    },
    "header": {
        "truncated": (header(lambda h, d: packed(h, d)[:-7]), DAMAGED),
        "empty": (put(WEIGHTS, b""), DAMAGED),
        "five bytes": (put(WEIGHTS, b"12345"), DAMAGED),
        "length huge": (header(lambda h, d: packed(h, d, 2**63)), DAMAGED),
        "length all ones": (header(lambda h, d: packed(h, d, 2**64 - 1)), DAMAGED),
        "no JSON": (put(WEIGHTS, struct.pack("<Q", 4) + b"junk"), DAMAGED),
        "offsets beyond": (header(lambda h, d: _set(h, d, data_offsets=[0, 10**12])), DAMAGED),
        "offsets negative": (header(lambda h, d: _set(h, d, data_offsets=[-9, 9])), DAMAGED),
        "offsets overlap": (header(lambda h, d: _set(h, d, data_offsets=[0, 9216])), DAMAGED),
        "shape negative": (header(lambda h, d: _set(h, d, shape=[-48, -48])), DAMAGED),
        "shape overflows": (header(lambda h, d: _set(h, d, shape=[2**62, 2**62])), DAMAGED),
        "dtype unknown": (header(lambda h, d: _set(h, d, dtype="F99")), DAMAGED),
    },
    "index": {
        "a path out": (shards(one_index_out), DAMAGED),
        "a path from the root": (shards(absolute_index), DAMAGED),
        "a shard is missing": (shards(lost_shard), DAMAGED),
        "a tensor in two shards": (shards(twice), DAMAGED),
        "numbers for files": (shards(index_of_numbers), DAMAGED),
        "no metadata": (no_metadata, DAMAGED),
        "no weight_map": (shards(lambda _, places: places.clear()), DAMAGED),
        "no weights": (lambda folder: (folder / WEIGHTS).unlink(), DAMAGED),
        "parts of a training checkpoint": (
            put("shard-00001-model-00001-of-00001.safetensors", b""), DAMAGED,
        ),
    },
    "links": {
        "weights out of the folder": (linked_out, DAMAGED),
        "config.json to a system file": (link("config.json", "/etc/passwd"), DAMAGED),
        "config.json to a device": (link("config.json", "/dev/zero"), DAMAGED),
        "a tokenizer that is not there": (link("tokenizer.json", "gone.json"), DAMAGED),
        "a circle": (link("tokenizer_config.json", "tokenizer_config.json"), DAMAGED),
    },
    "tokenizer": {
        "config a list": (put("tokenizer_config.json", "[]"), DAMAGED),
        "config deep": (put("tokenizer_config.json", DEEP), DAMAGED),
        "no tokenizer.json": (lambda folder: (folder / "tokenizer.json").unlink(), REFUSED),
        "cut in half": (
            lambda f: put("tokenizer.json", (f / "tokenizer.json").read_bytes()[:900])(f), DAMAGED,
        ),
        "an object without a model": (put("tokenizer.json", "{}"), DAMAGED),
        "a vocabulary of another form": (tokenizer(no_vocabulary), DAMAGED),
        "a merge that gives no token": (tokenizer(merge_of_none), DAMAGED),
        "a normalizer cut off": (tokenizer(cut_normalizer), DAMAGED),
        "a pattern that tries all ways": (tokenizer(split_by(r"(\w+\w+)+$x")), DAMAGED),
        "a pattern that is none": (tokenizer(split_by("((((")), DAMAGED),
        "a special token that it has not": (words(eos_token="<|nowhere|>"), REFUSED),
        "a special token of another type": (words(extra_special_tokens=[7]), DAMAGED),
    },
    "ids": {
        "three more tokens than the embedding": (tokenizer(three_more), IDS),
        "one token far away": (tokenizer(far_id), IDS),
        "end of text beyond": (config(eos_token_id=5000), IDS),
        "end of text negative": (config(eos_token_id=-3), IDS),
        "one stop token beyond": (generation(eos_token_id=[1, 70_000]), IDS),
        "a stop token of text": (generation(eos_token_id="</s>"), IDS),
        "begin of text beyond": (generation(bos_token_id=10**9), IDS),
    },
    "template": {
        "a number": (words(chat_template=7), DAMAGED),
        "a list of texts": (words(chat_template=["a"]), DAMAGED),
        "a text of 2 MB": (words(chat_template="x" * 2_000_000), DAMAGED),
        "a file of 2 MB": (put("chat_template.jinja", "x" * 2_000_000), DAMAGED),
        "a file of no text": (put("chat_template.jinja", b"\xff\xfe\x00"), DAMAGED),
    },
    "generation": {
        "a list": (put("generation_config.json", "[]"), DAMAGED),
        "cut off": (put("generation_config.json", '{"eos_'), DAMAGED),
        "deep": (put("generation_config.json", DEEP), DAMAGED),
        "a number for watermarks": (generation(watermarking_config=3), DAMAGED),
        "no tokens at all": (generation(max_new_tokens=-4), DAMAGED),
    },
}  # fmt: skip
