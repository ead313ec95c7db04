"""The command `python -m modeling_transrec.ninerec.validate`; see [`modeling_transrec.ninerec.tools.validate`]."""

import sys

from .tools.validate import main


if __name__ == "__main__":
    sys.exit(main(prog="python -m modeling_transrec.ninerec.validate"))
