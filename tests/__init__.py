"""Tests run offline and keep their caches to themselves; this is read before anything is imported."""

import atexit
import os
import shutil
import socket
import tempfile


_HF_HOME = tempfile.mkdtemp(prefix="transrec-tests-")
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ["HF_HOME"] = _HF_HOME
os.environ.setdefault("HF_HUB_OFFLINE", "1")
with socket.socket() as free:  # the address of the tests' own Hub, see hub_server.py; most tests have none
    free.bind(("127.0.0.1", 0))
    HUB_PORT = free.getsockname()[1]
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ.pop("HF_TOKEN", None)
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are as many processes as cores
