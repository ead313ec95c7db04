"""Recommend items: show users' histories and what a checkpoint recommends to them, as text.

    transrec recommend --model_name_or_path outputs/has_pt

For one history, or for all users of the data set into a file (one JSON object per line):

    transrec recommend --model_name_or_path outputs/has_pt --history "t0001 t0002"
    transrec recommend --model_name_or_path outputs/has_pt --output_file recommendations.jsonl

For millions of users, Parquet files by several processes; the same command again goes on where it was stopped:

    accelerate launch examples/recommend.py --model_name_or_path outputs/has_pt --output_dir recommendations

It works zero-shot: the checkpoint need not have seen the data set.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from ..data.arguments import DataArguments
from ..models.checkpoint_files import load_config
from ..serving.batch import index_in_shares, known_of_users, whole_histories, write_recommendations
from ..serving.recommender import Recommender
from .options import RunArguments, check_is_trained, parse_arguments


@dataclass
class RecommendationArguments(RunArguments):
    """Says which checkpoint recommends, to whom and how many items."""

    history: str | None = field(default=None, metadata={"help": "Item ids separated by spaces, oldest first."})
    timestamps: str | None = field(
        default=None,
        metadata={"help": "Times of the interactions of --history, in seconds, for models that read them (HSTU)."},
    )
    user_id: str | None = field(
        default=None, metadata={"help": "User whose history it is, for models that read user ids (DSSM)."}
    )
    num_users: int = field(
        default=2, metadata={"help": "Users of the data set that are shown, where no history is given."}
    )
    k: int = field(default=10, metadata={"help": "Items that are recommended to each user."})
    include_seen: bool = field(default=False, metadata={"help": "Recommend items of the history, too."})
    language: str | None = field(
        default=None, metadata={"help": "Language of the texts that are read, en or zh (default: the model's)."}
    )
    output_file: str | None = field(
        default=None, metadata={"help": "File of JSON lines to write: recommendations for every user."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of Parquet files to write: recommendations for every user, by all processes."},
    )
    users_per_file: int = field(default=50_000, metadata={"help": "Users of each file in --output_dir."})
    batch_size: int = field(default=256, metadata={"help": "Users at a time."})
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU even if there is an accelerator."})
    _argument_group_name = "recommendation"

    def __post_init__(self):
        given = [name for name in ("history", "output_file", "output_dir") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"--{given[0]} and --{given[1]} exclude each other; give one of them")


def show(history: list[str], recommended: list, texts: dict[str, str], held_out: str | None = None) -> None:
    """Prints one user; marks the item that the user really took next, where it is known."""
    print("  saw (oldest first)")
    for item_id in history:
        print(f"      {item_id:>12}  {texts[item_id]}")
    print("  recommended (best first)")
    for rank, item in enumerate(recommended, start=1):
        mark = "   <- taken next" if item["item_id"] == held_out else ""
        print(f"  {rank:>3} {item['item_id']:>12}  {texts[item['item_id']]}{mark}")
    if held_out is not None and held_out not in {item["item_id"] for item in recommended}:
        print(f"  taken next   {held_out}  {texts[held_out]}")


def recommend(
    recommender: Recommender,
    histories: list,
    user_ids: list[str],
    times: list[list[int]] | None,
    args: RecommendationArguments,
) -> list:
    """Returns the best items for each history; only models that read user ids or times are given them."""
    known = known_of_users(recommender, user_ids, times)
    return recommender.recommend(histories, k=args.k, exclude_seen=not args.include_seen, **known)


def write_all(
    recommender: Recommender, sequences: datasets.Dataset, path: Path, args: RecommendationArguments
) -> None:
    """Writes recommendations that follow the whole known history of every user, the held-out target included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        for start in tqdm(range(0, len(sequences), args.batch_size), desc="Recommending"):
            users = sequences[start : start + args.batch_size]
            histories, times = whole_histories(users)
            found = recommend(recommender, histories, users["user_id"], times, args)
            for user_id, recommended in zip(users["user_id"], found, strict=True):
                line = {"user_id": user_id, "recommended": recommended}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    unfinished.replace(path)
    print(f"{len(sequences)} users written to {path}")


def write_files(
    recommender: Recommender,
    items: datasets.Dataset,
    data_args: DataArguments,
    folder: Path,
    args: RecommendationArguments,
) -> None:
    """Writes recommendations for every user into a folder, each process its share of the files."""
    state = PartialState()
    index_in_shares(recommender, items)
    with state.local_main_process_first():
        sequences = data_args.load_sequences("test", recommender.model.config.max_seq_len)
    num_kept = write_recommendations(
        recommender,
        sequences,
        folder,
        k=args.k,
        exclude_seen=not args.include_seen,
        batch_size=args.batch_size,
        users_per_file=args.users_per_file,
        process_index=state.process_index,
        num_processes=state.num_processes,
    )
    num_kept = sum(gather_object([num_kept]))  # all are ready, too
    if state.is_main_process:
        before = f", {num_kept} of its files by an earlier run" if num_kept else ""
        print(f"{len(sequences)} users written to {folder}{before}")


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec recommend`."""
    options, data_args = parse_arguments((RecommendationArguments, DataArguments), args, __doc__)
    state = PartialState(cpu=options.use_cpu)
    if options.output_dir is None and not state.is_main_process:
        return
    name = options.model_name_or_path
    check_is_trained(name)
    max_seq_len = load_config(name, revision=options.model_revision).max_seq_len
    with state.local_main_process_first() if options.output_dir is not None else contextlib.nullcontext():
        items = data_args.load_items(max_seq_len)
    recommender = Recommender.from_pretrained(name, load_catalogue=False, **options.loading_kwargs())
    recommender.model.to(state.device)
    recommender.processor.language = options.language or recommender.processor.language
    if options.output_dir is not None:
        write_files(recommender, items, data_args, Path(options.output_dir), options)
        return
    recommender.index(items)
    column = f"text_{recommender.processor.language}"
    shown = items[column] if column in items.column_names else [""] * len(items)
    texts = dict(zip(items["item_id"], shown, strict=True))

    if options.history is not None:
        history, exclude_seen = options.history.split(), not options.include_seen
        times = None if options.timestamps is None else [int(time) for time in options.timestamps.split()]
        known = {"user_id": options.user_id, "timestamps": times}
        show(history, recommender.recommend(history, options.k, exclude_seen, **known), texts)
        return
    sequences = data_args.load_sequences("test", max_seq_len)
    if options.output_file is not None:
        write_all(recommender, sequences, Path(options.output_file), options)
        return
    for user in sequences.select(range(min(options.num_users, len(sequences)))):
        times = user.get("timestamps")
        of_one = None if times is None else [times]
        recommended = recommend(recommender, [user["item_ids"]], [user["user_id"]], of_one, options)[0]
        print(f"\nuser {user['user_id']}")
        show(user["item_ids"], recommended, texts, held_out=user["target"])


if __name__ == "__main__":
    main()
