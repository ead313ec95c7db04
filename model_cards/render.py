"""Write the card of a checkpoint into this folder, and the list of all cards.

    python model_cards/render.py outputs/sample/has_pt --name sasrec-bert-sample
    python model_cards/render.py me/my-recommender

Without a checkpoint, the cards that are here are written anew from their facts, as after a change of the template.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from huggingface_hub import snapshot_download

from modeling_transrec.hub.names import CURVE_NAME, FACTS_NAME, RESULTS_NAME
from modeling_transrec.hub.publish import read_facts, write_model_card
from modeling_transrec.hub.results import eval_results


FOLDER = Path(__file__).parent
INDEX = """# Model cards

Cards of checkpoints that exist. A training writes the card of its checkpoint, from the template
[model_card_template.md](../modeling_transrec/hub/model_card_template.md); `python model_cards/render.py CHECKPOINT`
puts a copy of it here.

| checkpoint | items are read from | user encoder | trained on | its best HR@10 there |
|---|---|---|---|---|
{rows}

The runs of NineRec's named checkpoints are presets, such as `transrec pretrain --preset sasrec-bert-bili2m --data_dir
DATA --push_to_hub true --hub_model_id ninerec/sasrec-bert-bili2m`. None of them has been run yet, so none has a card.
"""


def add_card(checkpoint: str, name: str | None, cards: Path = FOLDER) -> Path:
    """Writes the card of a checkpoint, a folder or a Hub id, into a folder of its own; returns this folder."""
    source = Path(checkpoint)
    if not source.is_dir():
        source = Path(snapshot_download(checkpoint, allow_patterns=[FACTS_NAME, RESULTS_NAME, CURVE_NAME]))
    facts = read_facts(source)
    facts = replace(facts, name=name or facts.name)
    folder = cards / facts.name.split("/")[-1]
    folder.mkdir(exist_ok=True)
    write_model_card(folder, facts)
    if facts.curve is not None and source != folder:
        shutil.copy(source / facts.curve, folder)
    return folder


def write_index(cards: Path = FOLDER) -> None:
    """Writes the list of all cards."""
    rows = []
    for file in sorted(cards.glob(f"*/{FACTS_NAME}")):
        facts = read_facts(file.parent)
        hits = [result.metric_value for result in eval_results(facts.results) if result.metric_type == "hr@10"]
        cells = [f"[{facts.name}]({file.parent.name}/README.md)", facts.modality.replace("+", ", ")]
        cells += [f"`{facts.user_encoder_type}`", "not recorded" if facts.data is None else f"`{facts.data.title}`"]
        cells.append(f"{max(hits):.4f}" if hits else "not measured")
        rows.append(f"| {' | '.join(cells)} |")
    (cards / "README.md").write_text(INDEX.format(rows="\n".join(rows)), encoding="utf-8")


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a folder or a Hub id; by default all cards of this folder")
    parser.add_argument("--name", help="name of the checkpoint in the card (default: the one it was trained with)")
    options = parser.parse_args(args)
    stored = [str(file.parent) for file in sorted(FOLDER.glob(f"*/{FACTS_NAME}"))]
    for checkpoint in stored if options.checkpoint is None else [options.checkpoint]:
        print(f"Written to {add_card(checkpoint, options.name)}")
    write_index()


if __name__ == "__main__":
    main()
