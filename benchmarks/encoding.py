"""Encodes catalogues of titles in four ways, and compares what int8 recommends.

    OMP_NUM_THREADS=1 python benchmarks/encoding.py --datasets ML100K Industrial --only_timed Amazon_Beauty \
        --data_dir DATA --text_model MINILM --output benchmarks/results/encoding.md

`Recommender.index` (tokens, backbone, whitening), the same with towers of ONNX in float32 and in int8, and
`SentenceTransformer.encode` of the same backbone, which pools and does no more, encode the same titles in turn, cut at
the same length. Times are those of this process on the CPU; each round takes the ways in another order. The model is
an untrained one that starts at content, so that it recommends as content kNN does. The ten best items of every test
user are then compared with those of the checkpoint itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from timing import command_line
from transformers import AutoTokenizer

from modeling_transrec import Recommender, TransRecModel, TransRecProcessor, load_items, load_sequences


MAX_LENGTH = 64


def ten_best(recommender: Recommender, histories: list[list[str]]) -> list[list[str]]:
    return [[item["item_id"] for item in found] for found in recommender.recommend(histories, k=10)]


def ndcg_at_10(best: list[list[str]], targets: list[str]) -> float:
    pairs = zip(best, targets, strict=True)
    return float(np.mean([1 / np.log2(2 + found.index(target)) if target in found else 0 for found, target in pairs]))


def measure(dataset: str, args: argparse.Namespace) -> list[str]:
    """Returns the lines of the report about a catalogue, of which a sample of titles is timed."""
    items = load_items("ninerec", dataset, data_dir=args.data_dir).select_columns(["item_id", "text_en"])
    users = load_sequences("ninerec", dataset, "test", data_dir=args.data_dir)
    histories, targets = users["item_ids"][:], users["target"][:]
    fields = {"item_projection": "whitened", "hidden_size": None, "history_decay": 0.8, "user_hidden_size": 64}
    model = TransRecModel.from_encoder_pretrained(args.text_model, **fields).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.text_model)
    processor = TransRecProcessor(tokenizer, max_text_length=MAX_LENGTH, do_lower_case=False)
    titles = items.select(range(0, len(items), max(1, len(items) // args.num_titles))).to_list()[: args.num_titles]
    compares = dataset not in args.only_timed
    recommender = Recommender(model, processor).index(items if compares else titles)
    found = {"torch": ten_best(recommender, histories)} if compares else {}
    embeddings, sizes = {"torch": recommender.item_embeddings}, {}

    contenders: dict[str, Callable] = {}
    sentences = SentenceTransformer(args.text_model, device="cpu")
    sentences.max_seq_length = MAX_LENGTH
    contenders["`SentenceTransformer.encode`"] = lambda titles: sentences.encode(
        [one["text_en"] for one in titles], show_progress_bar=False
    )
    with tempfile.TemporaryDirectory() as aside:
        for name, quantize in (("ONNX", None), ("ONNX, int8", "int8")):
            recommender.export(Path(aside, str(quantize)), quantize=quantize)
            served = Recommender.from_pretrained(Path(aside, str(quantize)), backend="onnx", load_catalogue=False)
            sizes[name] = Path(aside, str(quantize), "onnx", "item_tower.onnx").stat().st_size / 1e6
            if compares:
                found[name] = ten_best(served.index(items), histories)
                embeddings[name] = served.item_embeddings
            contenders[f"`Recommender.index`, {name}"] = served.index
        contenders["`Recommender.index`"] = Recommender(model, processor).index
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for run in contenders.values():
            run(titles[:32])  # to warm up
        for number in range(args.rounds):
            names = list(contenders)
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                start = time.process_time()
                contenders[name](titles)
                seconds[name].append(time.process_time() - start)

    base = seconds["`SentenceTransformer.encode`"]
    lines = [
        "",
        f"## {dataset}",
        "",
        f"{len(titles):,} titles of {len(items):,}:",
        "",
        "| what | items per second of CPU time, median | times `SentenceTransformer.encode` | item tower, MB |",
        "|---|---:|---:|---:|",
    ]
    for name, times in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(base, times, strict=True))
        size = sizes.get(name.partition(", ")[2])
        shown = "" if size is None else f"{size:.0f}"
        lines.append(f"| {name} | {len(titles) / statistics.median(times):.0f} | {ratio:.2f} | {shown} |")
    if not compares:
        return lines
    lines += ["", f"Ten best items of {len(histories):,} test users:", ""]
    lines += ["| towers | the same items as torch's | NDCG@10 | 1 - mean cosine to torch's |", "|---|---:|---:|---:|"]
    for name, best in found.items():
        same = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(best, found["torch"], strict=True)])
        distance = 1 - torch.cosine_similarity(embeddings[name], embeddings["torch"]).mean()
        lines.append(f"| {name} | {same:.4f} | {ndcg_at_10(best, targets):.4f} | {max(float(distance), 0):.1e} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["ML100K"])
    parser.add_argument("--only_timed", nargs="*", default=[], help="Others, for which no items are compared.")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--text_model", required=True)
    parser.add_argument("--num_titles", type=int, default=400, help="Of each data set, which are timed.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    lines = [
        "# Encoding a catalogue",
        "",
        f"{torch.get_num_threads()} thread, CPU time of the process: ratios are medians over {args.rounds} rounds in "
        "turn.",
    ]
    for dataset in [*args.datasets, *args.only_timed]:
        lines += measure(dataset, args)
    command = command_line({args.data_dir: "DATA", args.text_model: "MINILM"})
    text = "\n".join([*lines, "", f"`{command}`", ""])
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
