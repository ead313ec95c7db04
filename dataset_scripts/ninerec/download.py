"""The command `python -m modeling_transrec.ninerec.download`; see [`modeling_transrec.ninerec.tools.download`]."""

import sys

from .tools.download import main


if __name__ == "__main__":
    sys.exit(main(prog="python -m modeling_transrec.ninerec.download"))
