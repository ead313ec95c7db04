"""Convert a data set to Parquet files with a card; options and examples: `python examples/prepare_data.py --help`."""

import sys

import modeling_transrec  # noqa: F401 (makes "ninerec" known to datasets)
from modeling_transrec.ninerec.tools.export import main


if __name__ == "__main__":
    sys.exit(main())
