"""Makes `load_dataset("ninerec", ...)` known to `datasets`.

`datasets` has no plug-in point for builders; its table of packaged modules is the only one. The builder module itself
is imported when a data set is loaded, not here.
"""

import functools
import hashlib
from pathlib import Path


NAME = "ninerec"
FOLDER = Path(__file__).parent
MODULE = "modeling_transrec.ninerec.builder"
SOURCES = sorted((*FOLDER.glob("*.py"), *FOLDER.glob("tables/*.py")))  # of the code that makes the data


def code_hash() -> str:
    """Returns the hash of the code that makes the data; part of the cache path, so that new code means new data."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in SOURCES)).hexdigest()


def register() -> None:
    """Adds the builder to `datasets`' packaged modules; a second call changes nothing."""
    import datasets.load
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if NAME in _PACKAGED_DATASETS_MODULES:
        return
    _PACKAGED_DATASETS_MODULES[NAME] = (MODULE, code_hash())

    factory = datasets.load.PackagedDatasetModuleFactory
    get_module = factory.get_module

    @functools.wraps(get_module)
    def get_module_without_listing(self):
        # Packaged builders list every file of data_dir, covers included; ours finds its few files by itself.
        if self.name != NAME or self.data_files is not None:
            return get_module(self)
        kwargs = {"data_files": datasets.data_files.DataFilesDict(), "dataset_name": NAME}
        return datasets.load.DatasetModule(*_PACKAGED_DATASETS_MODULES[NAME], kwargs)

    factory.get_module = get_module_without_listing
