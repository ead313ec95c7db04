"""Recommendations for all users into Parquet files, beside the bare matrix products of the same users and items.

    OMP_NUM_THREADS=1 python benchmarks/batch.py --users 1000000 --items 100000 --parts 20 \\
        --output benchmarks/results/batch.md

Users and items are made: item embeddings of width 64, histories of ten items. `write_recommendations` makes the files
of a part of the users after the other. Beside the first and the last part, in turn: the same user encoder, products
and `topk` of blocks of users, in plain torch; and the products only. Seconds are those of the CPU, of one process;
memory is the most that it has beside what it had before.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import datasets
import torch
from serving_load import make_histories, make_recommender, peak_of
from timing import command_line

from modeling_transrec import Recommender
from modeling_transrec.serving.batch import write_recommendations


BLOCK, K = 256, 10


def plain(recommender: Recommender, histories: torch.Tensor, k: int | None, encodes: bool = True) -> None:
    """Encodes blocks of users, multiplies them with all items, and keeps nothing."""
    items = recommender.item_embeddings
    with torch.no_grad():
        for block in histories.split(BLOCK):
            users = recommender.scorer.encode_users(block) if encodes else items[block[:, 0]]
            scores = users @ items.T
            if k is not None:
                scores.topk(k)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=4, help="of the users, one after the other")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    recommender = make_recommender(args.items)
    histories = make_histories(args.users, args.items)
    users_of_part = args.users // args.parts
    found: dict[str, list[dict]] = {}
    for part in range(args.parts):
        several = histories[part * users_of_part : (part + 1) * users_of_part]
        sequences = datasets.Dataset.from_dict(
            {"user_id": [f"u{n}" for n in range(len(several))], "item_ids": several}
        )
        indices = recommender.snapshot.histories_as_indices(several)
        with tempfile.TemporaryDirectory() as folder:
            ways = {
                "write_recommendations": functools.partial(write_recommendations, recommender, sequences, folder, K),
                "user encoder, products, topk": functools.partial(plain, recommender, indices, K),
                "products": functools.partial(plain, recommender, indices, None, encodes=False),
            }
            for name, way in ways.items():
                if name == "write_recommendations" or part in (0, args.parts - 1):
                    found.setdefault(name, []).append(peak_of(way))
                    print(f"part {part + 1} of {args.parts}: {name}: {found[name][-1]}", flush=True)
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
    ours = found["write_recommendations"]
    lines = [
        f"# {args.users:,} users × {args.items:,} items × 64 into Parquet files",
        "",
        f"The ten best unseen items after ten items, one process, torch {torch.__version__.split('+')[0]}, "
        f"{torch.get_num_threads()} thread. Seconds",
        f"of the CPU for {users_of_part:,} users, the first and the last of {args.parts} parts, each way in turn; the",
        "ratio is of their sums; MiB beside what lies there already.",
        "",
        "| | s, first part | last part | ours ÷ | MiB, first part | last part |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, parts in found.items():
        ends = parts[0], parts[-1]
        ratio = (ours[0]["s"] + ours[-1]["s"]) / sum(one["s"] for one in ends)
        cells = [f"{one['s']:.1f}" for one in ends] + [f"{ratio:.2f}"] + [f"{one['MiB']:.0f}" for one in ends]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"All {args.users:,} users: {sum(one['s'] for one in ours):,.0f} s of the CPU."]
    lines += ["", f"The files take {size / users_of_part:.0f} bytes a user.", "", "```bash", command_line({}), "```"]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output is not None:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
