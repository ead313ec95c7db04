"""Serve recommendations over HTTP.

    transrec serve outputs/shop

The checkpoint brings its catalogue (`Recommender.save_pretrained`); or it is made of a data set, with the transitions
of its training interactions:

    transrec serve outputs/has_pt --dataset_config_name Sample_Target

    curl -X POST localhost:8000/recommend -H 'Content-Type: application/json' -d '{"history": ["t0001"], "k": 3}'

`/docs` shows all that it answers: /recommend, /similar-items, /score, /items (PUT, DELETE), /interactions, /reload,
/metrics, /health, /ready. With --log_file, changes of the catalogue and interactions are on the disk before they are
answered, and made again at the next start and by /reload. The token, where one is wanted, is read from the environment
variable TRANSREC_TOKEN. Needs pip install "modeling_transrec[serve]".
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from ..data.arguments import DataArguments
from ..serving.indexes import INDEXES
from ..serving.recommender import Recommender
from . import OptionError
from .options import RunArguments, load_recommender, parse_checkpoint_and_data


TOKEN = "TRANSREC_TOKEN"


@dataclass
class ServeArguments(RunArguments):
    """Says what is served, and how."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 for all."})
    port: int = field(default=8000, metadata={"help": "Port to listen on."})
    log_file: str | None = field(
        default=None, metadata={"help": "File in which changes and interactions are kept; without it they are lost."}
    )
    max_k: int = field(default=1000, metadata={"help": "Most items of an answer."})
    max_history: int = field(default=10_000, metadata={"help": "Most items of a history."})
    max_items: int = field(default=1000, metadata={"help": "Most items or interactions of one change."})
    max_body: int = field(default=2_000_000, metadata={"help": "Most bytes of a request."})
    rate_limit: str | None = field(
        default=None, metadata={"help": "Most requests of a client, such as 100/second (default: any number)."}
    )
    max_batch: int = field(default=256, metadata={"help": "Most requests that are computed together."})
    index: str = field(
        default="exact", metadata={"help": "Index that searches the catalogue.", "choices": tuple(INDEXES)}
    )
    index_options: str | None = field(
        default=None, metadata={"help": 'Options of the index as JSON, such as \'{"conninfo": "dbname=shop"}\'.'}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU even if there is an accelerator."})
    _argument_group_name = "service"


def loader(args: ServeArguments, data: DataArguments | None) -> Callable[[], Recommender]:
    """Returns a function that loads the recommender, and encodes a data set where one is named."""

    def load() -> Recommender:
        recommender, _ = load_recommender(args, data, PartialState(cpu=args.use_cpu).device)
        return recommender

    return load


def parsed_options(given: str | None) -> dict[str, Any]:
    """Returns the options of the index.

    Raises:
        OptionError: if `--index_options` is no JSON object.
    """
    try:
        options = json.loads(given or "{}")
    except ValueError as error:
        raise OptionError(f"--index_options is no JSON ({error})") from error
    if not isinstance(options, dict):
        raise OptionError('--index_options must be a JSON object, such as {"conninfo": "dbname=shop"}')
    return options


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec serve` until it is stopped; requests that are being answered are answered first."""
    arguments, data = parse_checkpoint_and_data(ServeArguments, args, __doc__)
    index_options = parsed_options(arguments.index_options)
    try:
        import uvicorn

        from ..serving.app import JsonFormatter, Limits, create_app
        from ..serving.event_log import LogInUseError
        from ..serving.service import Service
    except ImportError as error:
        raise OptionError(f'serving needs pip install "modeling_transrec[serve]" ({error})') from error
    try:
        limits = Limits(
            max_k=arguments.max_k,
            max_history=arguments.max_history,
            max_items=arguments.max_items,
            max_body=arguments.max_body,
            rate=arguments.rate_limit,
            max_batch=arguments.max_batch,
        )
    except ValueError as error:
        raise OptionError(str(error)) from error
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    datasets.disable_progress_bars()  # which would stand between the lines of JSON
    disable_progress_bar()
    try:
        service = Service(loader(arguments, data), arguments.log_file, arguments.index, index_options)
    except LogInUseError as error:
        raise OptionError(str(error)) from error
    app = create_app(service, os.environ.get(TOKEN) or None, limits)
    options: dict[str, Any] = {"access_log": False, "log_level": "warning", "log_config": None}  # by the handler above
    uvicorn.run(app, host=arguments.host, port=arguments.port, **options)


if __name__ == "__main__":
    main()
