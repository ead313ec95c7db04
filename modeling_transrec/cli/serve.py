"""Serve recommendations over HTTP.

    transrec serve outputs/shop

The checkpoint brings its catalogue (`Recommender.save_pretrained`); or it is made of a data set, with the transitions
of its training interactions:

    transrec serve outputs/has_pt --dataset_config_name Sample_Target

    curl -X POST localhost:8000/recommend -H 'Content-Type: application/json' -d '{"history": ["t0001"], "k": 3}'

`/docs` shows all that it answers: /recommend, /similar-items, /score, /items (PUT, DELETE), /interactions, /reload,
/metrics, /health, /ready. With --log_file, changes of the catalogue and interactions are on the disk before they are
answered, and made again at the next start. The token, where one is wanted, is read from the environment variable
TRANSREC_TOKEN. Needs pip install "modeling_transrec[serve]".
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from accelerate import PartialState

from ..data.arguments import DataArguments
from ..serving.recommender import Recommender
from . import OptionError
from .options import parse_arguments


TOKEN = "TRANSREC_TOKEN"
_DATA_OPTIONS = {f"--{one.name}" for one in fields(DataArguments)}


@dataclass
class ServeArguments:
    """Says what is served, and how."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint: a folder or a Hub id."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path, where it is a Hub id."}
    )
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
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU even if there is an accelerator."})
    _argument_group_name = "service"


def loader(args: ServeArguments, data: DataArguments | None) -> Callable[[], Recommender]:
    """Returns a function that loads the recommender, and encodes a data set where one is named."""

    def load() -> Recommender:
        where = {"revision": args.model_revision}
        recommender = Recommender.from_pretrained(args.model_name_or_path, load_catalogue=False, **where)
        recommender.model.to(PartialState(cpu=args.use_cpu).device)
        if data is None:
            recommender.load_catalogue(args.model_name_or_path, **where)
            return recommender
        items = data.load_items(recommender.model.config.max_seq_len)
        return recommender.index(items, histories=data.load_training_histories())

    return load


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec serve` until it is stopped; requests that are being answered are answered first."""
    given = [*(sys.argv[1:] if args is None else args)]
    if given and not given[0].startswith("-"):
        given = ["--model_name_or_path", *given]
    of_data = [one for one in (arg.split("=")[0] for arg in given) if one in _DATA_OPTIONS]
    if of_data and "--dataset_config_name" not in of_data:
        raise OptionError(f"{of_data[0]} is an option of a data set; name it by --dataset_config_name")
    arguments, data = parse_arguments((ServeArguments, DataArguments), given, __doc__)
    try:
        import uvicorn

        from ..serving.app import JsonFormatter, Limits, create_app
        from ..serving.service import Service
    except ImportError as error:
        raise OptionError(f'serving needs pip install "modeling_transrec[serve]" ({error})') from error
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    limits = Limits(
        max_k=arguments.max_k,
        max_history=arguments.max_history,
        max_items=arguments.max_items,
        max_body=arguments.max_body,
        rate=arguments.rate_limit,
        max_batch=arguments.max_batch,
    )
    service = Service(loader(arguments, data if of_data else None), arguments.log_file)
    app = create_app(service, os.environ.get(TOKEN) or None, limits)
    uvicorn.run(app, host=arguments.host, port=arguments.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
