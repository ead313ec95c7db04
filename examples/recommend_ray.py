"""Recommend items to every user on a Ray cluster, with Ray Data: encode the catalogue, then score the users.

    pip install "modeling_transrec[ray]"
    python examples/recommend_ray.py --model_name_or_path outputs/has_pt --output_dir recommendations
    ray job submit -- python examples/recommend_ray.py …  # on a cluster that runs

Checkpoint, data and --output_dir must be where every machine of the cluster finds them. The files have the columns and
numbers of `transrec recommend --output_dir`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
import torch

from modeling_transrec import DataArguments, Recommender
from modeling_transrec.cli import OptionError
from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.evaluation.encoding import encode_catalogue
from modeling_transrec.hub.facts import checkpoint_hash
from modeling_transrec.serving.batch import recommended_table


@dataclass
class RayArguments:
    """Says which checkpoint recommends, to whom, and with how many workers."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint: a folder or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder of Parquet files to write."})
    k: int = field(default=10, metadata={"help": "Items that are recommended to each user."})
    include_seen: bool = field(default=False, metadata={"help": "Recommend items of the history, too."})
    num_workers: int = field(default=2, metadata={"help": "Processes of the cluster, each with a copy of the model."})
    gpus_per_worker: float = field(default=0, metadata={"help": "GPUs of each process, or a part of one."})
    batch_size: int = field(default=256, metadata={"help": "Items or users at a time."})
    _argument_group_name = "recommendation"


def load(name: str) -> Recommender:
    """Loads the model, onto the GPU where the worker has one."""
    recommender = Recommender.from_pretrained(name, load_catalogue=False)
    recommender.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return recommender


class ItemEncoder:
    """Adds to a part of the catalogue the columns of an encoded one: `vector` and `checkpoint`."""

    def __init__(self, name: str, features: datasets.Features):
        self.recommender, self.features = load(name), features

    def __call__(self, batch: pa.Table) -> pa.Table:
        model, processor = self.recommender.model, self.recommender.processor
        items = datasets.Dataset(batch.cast(self.features.arrow_schema))
        prepared = prepare_items(items, processor)
        vectors = encode_catalogue(model, prepared, processor, len(items), fits_statistics=False).cpu().numpy()
        kept = batch.select(["index", "item_id"])
        kept = kept.append_column("vector", pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]))
        return kept.append_column("checkpoint", pa.array([checkpoint_hash(model, processor)] * len(items)))


class UserScorer:
    """Recommends to a part of the users; the catalogue is in the cluster's memory once for each machine."""

    def __init__(self, name: str, catalogue, k: int, exclude_seen: bool):
        import ray

        self.recommender = load(name).use_catalogue(datasets.Dataset(ray.get(catalogue)))
        self.k, self.exclude_seen = k, exclude_seen

    def __call__(self, batch: pa.Table) -> pa.Table:
        return recommended_table(self.recommender, datasets.Dataset(batch), self.k, self.exclude_seen)


def main(args: Sequence[str] | None = None) -> None:
    options, data = parse_arguments((RayArguments, DataArguments), args, __doc__)
    if any(Path(options.output_dir).glob("*.parquet")):  # Ray would add its files to them
        raise OptionError(f"{options.output_dir} has files of another run: give another --output_dir, or remove them")
    try:
        import ray
    except ImportError as error:
        raise OptionError('this needs Ray Data: pip install "modeling_transrec[ray]"') from error
    recommender = Recommender.from_pretrained(options.model_name_or_path, load_catalogue=False)
    max_seq_len, known = recommender.model.config.max_seq_len, recommender.processor.item_ids
    items, users = data.load_items(max_seq_len), data.load_sequences("test", max_seq_len)
    if recommender.model.item_encoder.whitened or not set(items["item_id"]) <= set(known or items["item_id"]):
        raise OptionError(
            f"{options.model_name_or_path} has to see the whole catalogue, by whose statistics it whitens items or "
            "without whose ids it goes on: transrec recommend --output_dir encodes it"
        )
    items = items.add_column("index", list(range(len(items))))
    workers = {"concurrency": options.num_workers, "num_gpus": options.gpus_per_worker, "batch_format": "pyarrow"}
    workers["batch_size"] = options.batch_size

    encoded = ray.data.from_arrow(items.with_format("arrow")[:]).repartition(options.num_workers)
    arguments = {"name": options.model_name_or_path, "features": items.features}
    encoded = encoded.map_batches(ItemEncoder, fn_constructor_kwargs=arguments, **workers)
    parts = [ray.get(part) for part in encoded.to_arrow_refs()]
    catalogue = ray.put(pa.concat_tables(parts).sort_by("index").drop_columns("index"))

    arguments = {"name": options.model_name_or_path, "catalogue": catalogue}
    arguments |= {"k": options.k, "exclude_seen": not options.include_seen}
    found = ray.data.from_arrow(users.with_format("arrow")[:]).repartition(4 * options.num_workers)
    found.map_batches(UserScorer, fn_constructor_kwargs=arguments, **workers).write_parquet(options.output_dir)
    print(f"{len(users)} users written to {options.output_dir}")


if __name__ == "__main__":
    main()
