"""Tests run offline and keep their caches to themselves; this is read before anything is imported."""

import atexit
import os
import shutil
import tempfile


_HF_HOME = tempfile.mkdtemp(prefix="transrec-tests-")
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ["HF_HOME"] = _HF_HOME
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
