"""The command `python -m modeling_transrec.ninerec.describe`; see [`modeling_transrec.ninerec.tools.describe`]."""

import sys

from .tools.describe import main


if __name__ == "__main__":
    sys.exit(main(prog="python -m modeling_transrec.ninerec.describe"))
