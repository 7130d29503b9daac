"""A real llama.cpp in a process of its own, for it ends its process where a file does not suit it.

`python llama_server.py FILE CONTEXT THREADS EXACT [ADAPTER [ROWS]]` prints its address and serves,
so many rows at once, until its standard input closes. It imports nothing of the package, so that it
starts at once.
"""

import sys

import xllamacpp


def serve(
    file: str, context: str, threads: str, exactness: str, adapter: str = "", rows: str = "1"
) -> None:
    """Serves the file until standard input closes."""
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_parallel = int(context) * int(rows), int(rows)
    for processor in (settings.cpuparams, settings.cpuparams_batch):
        processor.n_threads = int(threads)
    settings.use_jinja, settings.warmup, settings.n_gpu_layers = True, False, 0
    if exactness == "exact":
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = adapter, 1.0
        settings.lora_adapters = [lora]
    server = xllamacpp.Server(settings)
    sys.stdout.write(f"\n@{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(*sys.argv[1:])
