"""What every test runs under: one thread, no network, hypothesis without deadlines."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("rlagents", deadline=None, max_examples=50, print_blob=True)
settings.load_profile("rlagents")
