"""Renders the cards of the named checkpoints and their index from the run files: python model_cards/render.py"""

import json
from pathlib import Path

from modeling_transrec.hub.card import build_model_card, planned_facts


FOLDER = Path(__file__).parent
ORGANIZATION = "ninerec"
INDEX = """# Model cards

One folder for each named checkpoint of the suite, with its card and the run file that makes it. **None of them has
been trained yet**: the cards say so and show no number. A checkpoint that is trained gets its card from the training
itself, from the same template, [model_card_template.md](../modeling_transrec/hub/model_card_template.md).

| checkpoint | user encoder | backbone | run file | state |
|---|---|---|---|---|
{rows}

To make and publish one (`--hub_with_code true` if it is to load without this package):

```bash
accelerate launch examples/pretrain.py --preset model_cards/sasrec-bert-bili2m/run.json --data_dir DATA \\
    --output_dir outputs/sasrec-bert-bili2m --push_to_hub true --hub_model_id {organization}/sasrec-bert-bili2m
```

The cards are rendered by `python model_cards/render.py`.
"""


def render() -> dict[Path, str]:
    """Every file that follows from the run files, and its content."""
    files, rows = {}, []
    for run_file in sorted(FOLDER.glob("*/run.json")):
        name = run_file.parent.name
        options = json.loads(run_file.read_text(encoding="utf-8"))["options"]
        facts = planned_facts(f"{ORGANIZATION}/{name}", options)
        files[run_file.parent / "README.md"] = f"{build_model_card(facts)}\n"
        rows.append(
            f"| [{name}]({name}/README.md) | `{facts.user_encoder_type}` | `{facts.backbones[0]}` "
            f"| [run.json]({name}/run.json) | not trained |"
        )
    files[FOLDER / "README.md"] = INDEX.format(rows="\n".join(rows), organization=ORGANIZATION)
    return files


if __name__ == "__main__":
    for path, content in render().items():
        path.write_text(content, encoding="utf-8")
