"""The model card: facts about a checkpoint as text."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers.utils.import_utils import is_matplotlib_available

from .facts import CardFacts, DataFacts
from .results import eval_results, markdown_table, results_sections


_TEMPLATE = Path(__file__).with_name("model_card_template.md")
# Python for the content of three items.
_EXAMPLES = {
    "text": ('"noodles at night"', '"hotpot challenge"', '"a new keyboard"'),
    "image": tuple(f'Image.new("RGB", (224, 224), "{color}")' for color in ("red", "orange", "gray")),
    "audio": tuple(f'{{"array": [0.1, {sample}] * 8000, "sampling_rate": 16000}}' for sample in (-0.1, 0.0, 0.1)),
}
_NINEREC_CITATION = """```bibtex
@article{zhang2024ninerec,
  title   = {NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation},
  author  = {Zhang, Jiaqi and Cheng, Yu and Ni, Yongxin and Pan, Yunzhu and Yuan, Zheng and Fu, Junchen and
             Li, Youhua and Wang, Jie and Yuan, Fajie},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year    = {2024},
  note    = {arXiv:2309.07705}
}
```"""


def build_model_card(facts: CardFacts) -> ModelCard:
    """Returns the card; `huggingface_hub` checks its metadata."""
    changed, unchanged = facts.hyperparameters
    return ModelCard.from_template(
        _card_data(facts),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        name=facts.name,
        description=_describe(facts),
        snippet=usage_snippet(facts),
        with_code=facts.with_code,
        data=_describe_data(facts.data),
        data_condition=facts.data.condition if facts.data is not None else None,
        results=results_sections(facts.results),
        procedure="\n".join(f"- {line}" for line in facts.training) or "How it was trained was not recorded.",
        curve=facts.curve,
        no_curve="matplotlib was not installed" if not is_matplotlib_available() else "there is nothing to draw",
        changed=markdown_table(("option", "value"), changed.items()) if changed else "",
        unchanged=markdown_table(("option", "value"), unchanged.items()),
        parameters=markdown_table(
            ("part", "parameters"), ((part, f"{count:,}") for part, count in facts.parameters.items())
        ),
        limits="\n".join(f"- {line}" for line in _limits(facts)),
        citation=_NINEREC_CITATION,
    )


def _card_data(facts: CardFacts) -> ModelCardData:
    tags = ["recommendation", "sequential-recommendation", "transrec", facts.user_encoder_type]
    tags += [*facts.modality.split("+"), *(name.split("/")[-1] for name in facts.backbones), *facts.tags]
    is_hub_data = facts.data is not None and "/" in facts.data.name
    if facts.data is not None and not is_hub_data:
        tags.append(facts.data.name)
    results = eval_results(facts.results)
    return ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="modeling_transrec",
        tags=tags,
        base_model=facts.base_models or None,
        datasets=[facts.data.name] if facts.data is not None and is_hub_data else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _describe(facts: CardFacts) -> str:
    kind = "an item-id table" if facts.modality == "id" else facts.modality.replace("+", " and ")
    backbones = f" ({', '.join(facts.backbones)})" if facts.backbones else ""
    sentence = (
        f"A sequential recommender (TransRec, [NineRec](https://arxiv.org/abs/2309.07705)). Items are encoded from "
        f"{kind}{backbones}, a user's history of item embeddings by `{facts.user_encoder_type}`."
    )
    if facts.modality != "id":
        sentence += " It recommends items that it has never seen, from their content."
    if facts.base_models and facts.base_models != facts.backbones:
        sentence += f" Fine-tuned from {', '.join(facts.base_models)}."
    return sentence


def usage_snippet(facts: CardFacts) -> str:
    """Returns Python lines that recommend something when they are pasted."""
    ids, items = facts.example_ids or ["a", "b", "c"], []
    for item_id, example in zip(ids, zip(*_EXAMPLES.values(), strict=True), strict=False):
        values = dict(zip(_EXAMPLES, example, strict=True))
        columns = [f'"item_id": {json.dumps(item_id, ensure_ascii=False)}']
        for part in facts.modality.split("+"):
            if part in values:
                column = f"text_{facts.language or 'en'}" if part == "text" else part
                columns.append(f'"{column}": {values[part]}')
        items.append(f"        {{{', '.join(columns)}}},")
    imports = ["from PIL import Image", ""] if "image" in facts.modality.split("+") else []
    user = "" if facts.example_user is None else f", user_id={json.dumps(facts.example_user, ensure_ascii=False)}"
    return "\n".join(
        [
            *imports,
            "from modeling_transrec import Recommender",
            "",
            f'recommender = Recommender.from_pretrained("{facts.name}")',
            "recommender.index(",
            "    [",
            *items,
            "    ]",
            ")",
            f"print(recommender.recommend([{json.dumps(ids[0], ensure_ascii=False)}], k=2{user}))",
        ]
    )


def _describe_data(data: DataFacts | None) -> str:
    if data is None:
        return "What it was trained on was not recorded."
    sizes = [(data.num_users, "training users"), (data.num_items, "items")]
    known = ", ".join(f"{count:,} {what}" for count, what in sizes if count is not None)
    return f"Trained on `{data.title}`{f': {known}' if known else ''}."


def _limits(facts: CardFacts) -> list[str]:
    limits = [
        "Popularity: it learns from what people clicked, so items that were shown often are recommended more often.",
        "Clickbait: titles and images that draw clicks are recommended whether or not the content keeps the promise.",
        "It reflects the people, the period and the platform of its training data; what is good for users or society "
        "was not measured, nor was fairness between groups of users or makers.",
    ]
    if facts.language is not None:
        name = {"zh": "Chinese", "en": "English"}[facts.language]
        limits.append(f"Language: it was trained to read {name} texts; other languages were not measured.")
    if facts.modality == "id":
        limits.append("It knows items by id: items that were not in its training data cannot be recommended.")
    else:
        limits.append("On a platform that it was not trained on, measure before you use it; see `center_scores`.")
    return limits


def draw_training_curve(log_history: Sequence[dict], metric: str, file: str | os.PathLike) -> bool:
    """Draws training loss and a validation metric by epoch; returns whether there was anything to draw."""
    loss = [(entry["epoch"], entry["loss"]) for entry in log_history if "loss" in entry]
    found = [(entry["epoch"], entry[f"eval_{metric}"]) for entry in log_history if f"eval_{metric}" in entry]
    if not loss or not is_matplotlib_available():
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*loss, strict=True), color="tab:blue", marker=".")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="tab:blue")
    if found:
        right = axes.twinx()
        right.plot(*zip(*found, strict=True), color="tab:orange", marker=".")
        right.set_ylabel(f"validation {metric}", color="tab:orange")
    figure.savefig(file, dpi=120)
    return True
