"""Set before numpy or torch is imported: one thread a test process, and no spinning threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("GITHUB_ACTIONS", None)  # our own output is guarded there; tests that need it set it
