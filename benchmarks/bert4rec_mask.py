"""BERT4Rec on pictures: does a learned mask vector prevent the collapse that NineRec reports with Swin?

    python benchmarks/bert4rec_mask.py --data_dir DATA

The public code makes the mask a pseudo-item: a white picture, the same as padding, that goes through Swin. Both ways
are trained on ML100K's posters; beside the metrics, the mean cosine between items' vectors tells a collapse (1: all
items have the same vector). Results: `benchmarks/results/bert4rec_mask.json` and `.md`.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import datasets
import scipy.stats
import torch
from transformers import TrainerCallback, ViTImageProcessorPil, set_seed
from transformers.utils import logging

from modeling_transrec import (
    FullRankingEvaluator,
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
    load_items,
    load_sequences,
)
from modeling_transrec.evaluation.baselines import BASELINES
from modeling_transrec.evaluation.encoding import encode_catalogue


RESULTS = Path(__file__).parent / "results" / "bert4rec_mask"
IMAGE_SIZE = 32
SWIN = {
    "model_type": "swin",
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "embed_dim": 32,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}


class WhitePictureModel(TransRecModel):
    """The mask of the public code: a white picture, encoded like any item."""

    def get_user_hidden(self, item_embeddings, mask, user_ids=None, is_masked=None, recorded=None, timestamps=None):
        if is_masked is not None:
            white = torch.ones(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=item_embeddings.device)  # after normalisation
            mask_embedding = self.get_item_features(pixel_values=white)[0]
            item_embeddings = torch.where(is_masked[:, :, None], mask_embedding, item_embeddings)
        return super().get_user_hidden(item_embeddings, mask, user_ids, recorded=recorded)


class RecordCosine(TrainerCallback):
    """Mean cosine between the vectors of items that have a picture, after every epoch."""

    def __init__(self, trainer):
        self.trainer, self.found = trainer, []

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        items, processor = self.trainer.prepared_items, self.trainer.processing_class
        was_training = model.training
        vectors = encode_catalogue(model.eval(), items, processor)
        model.train(was_training)
        has_picture = [row for row, pixels in enumerate(items["pixels"]) if pixels is not None]
        unit = torch.nn.functional.normalize(vectors[has_picture], dim=1)
        self.found.append(round(float(unit.mean(0).square().sum()), 4))


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % confidence interval of the mean (Student's t)."""
    half = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
    return f"{statistics.mean(values):.4f} ± {half:.4f}"


def run(mask: str, loss_type: str, seed: int, args: argparse.Namespace) -> dict:
    """One training; metrics on the test split and the cosine after every epoch."""
    set_seed(seed)
    options = {"data_dir": args.data_dir, "max_seq_len": 20}
    items = load_items("ninerec", "ML100K", **options)
    splits = {
        split: load_sequences("ninerec", "ML100K", split, **options) for split in ("train", "validation", "test")
    }
    config = TransRecConfig(
        vision_config=dict(SWIN),
        user_encoder_type="bert4rec",
        hidden_size=64,
        loss_type=loss_type,
        mask_probability=0.3,
    )
    model = TransRecForSequentialRecommendation(config)
    if mask == "white picture":
        model.model.__class__ = WhitePictureModel
        model.model.user_encoder.mask_embedding.requires_grad_(False)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = TransRecProcessor(image_processor=ViTImageProcessorPil(size=size))
    with tempfile.TemporaryDirectory() as folder:
        training = TransRecTrainingArguments(
            output_dir=folder,
            num_train_epochs=args.num_train_epochs,
            learning_rate=args.learning_rate,
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = TransRecTrainer(
            model, training, items, splits["train"], splits["validation"], processing_class=processor
        )
        cosine = RecordCosine(trainer)
        trainer.add_callback(cosine)
        trainer.train()
        evaluator = FullRankingEvaluator(items, splits["test"], prepared_items=trainer.prepared_items, split="test")
        metrics = evaluator(trainer.model, processor)
        popularity = evaluator.rank(BASELINES["popularity"](trainer.platform)[0])
    validation = [entry["eval_hr@10"] for entry in trainer.state.log_history if "eval_hr@10" in entry]
    return {"test": metrics, "validation_hr@10": validation, "cosine": cosine.found, "popularity": popularity}


def render(record: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# BERT4Rec with Swin on posters: learned mask or white picture",
        "",
        "ML100K, 943 users, 1,682 items of which 1,435 have a poster (32 x 32); a small Swin from scratch, BERT4Rec "
        "of width 64. Test split, best epoch by validation HR@10. Cosine: mean over pairs of items.",
        "",
        "| mask | loss | seed | HR@10 | NDCG@10 | cosine, first epoch | highest | last epoch |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in record["results"]:
        cells = [entry["mask"], entry["loss_type"], str(entry["seed"])]
        cells += [f"{entry['test'][name]:.4f}" for name in ("hr@10", "ndcg@10")]
        cells += [f"{cosine:.3f}" for cosine in (entry["cosine"][0], max(entry["cosine"]), entry["cosine"][-1])]
        lines.append(f"| {' | '.join(cells)} |")
    if record["results"]:
        popularity = record["results"][0]["popularity"]
        lines.append(f"| (popularity) | | | {popularity['hr@10']:.4f} | {popularity['ndcg@10']:.4f} | | | |")
    for loss_type in sorted({entry["loss_type"] for entry in record["results"]}):
        hits = {
            mask: [e["test"]["hr@10"] for e in record["results"] if (e["mask"], e["loss_type"]) == (mask, loss_type)]
            for mask in ("learned vector", "white picture")
        }
        pairs = list(zip(*hits.values(), strict=False))
        lines += [
            "",
            f"{loss_type}: a learned vector adds {interval([a - b for a, b in pairs])} to HR@10, paired by seed.",
        ]
    lines += ["", "```bash", f"python benchmarks/bert4rec_mask.py --data_dir DATA {record['options']}", "```"]
    if "conclusion" in record:
        lines += ["", record["conclusion"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="Folder of the raw files.")
    parser.add_argument("--num_train_epochs", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", default=["bce"])
    parser.add_argument("--render", action="store_true", help="Only write the table of what is there.")
    args = parser.parse_args()
    if args.render:
        record = json.loads(RESULTS.with_suffix(".json").read_text(encoding="utf-8"))
        RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")
        return
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    options = f"--num_train_epochs {args.num_train_epochs} --learning_rate {args.learning_rate:g}"
    record = {"options": f"{options} --seeds {' '.join(map(str, args.seeds))}", "results": []}
    for seed in args.seeds:
        for loss_type in args.losses:
            for mask in ("learned vector", "white picture"):
                result = run(mask, loss_type, seed, args)
                record["results"].append({"mask": mask, "loss_type": loss_type, "seed": seed, **result})
                print(mask, loss_type, seed, f"HR@10 {result['test']['hr@10']:.4f}", result["cosine"], flush=True)
                RESULTS.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
