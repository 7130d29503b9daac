"""Settings for all tests: one thread a process for tiny tensors, and reproducible laws."""

from __future__ import annotations

import os
import signal

# Tiny products gain nothing from threads, and threads that wait for one another cost a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")
# What is started in the background inherits that Ctrl-C is ignored; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
