"""Holds all that travels with a checkpoint: flat, importing only from its own folder."""

import transformers  # noqa: F401  (registers our classes, before a module of this folder is half imported)
