"""For all tests: several at once share the processors without waiting for one another."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: each worker's threads would spin while another worker's compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
