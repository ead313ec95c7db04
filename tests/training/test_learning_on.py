"""A checkpoint that learns what is new, and does not forget: `transrec finetune --since`."""

import json
import math

import numpy as np
import pytest

from modeling_transrec import DataArguments, EvaluationArguments, evaluate
from modeling_transrec.cli import OptionError
from modeling_transrec.cli.finetune import main


NUM_USERS, NUM_ITEMS, NEW = 200, 60, 1000
SMALL = ["--hidden_size", "16", "--max_seq_len", "8", "--learning_rate", "1e-2", "--normalize_scores", "true"]
SMALL += ["--temperature", "0.1"]
USUAL = ["--dataset_config_name", "Shop", "--catalogue", "all", "--use_cpu", "true", "--disable_tqdm", "true"]


def write_shop(folder, first_user: int = 0, has_new: bool = False):
    """Users walk through the first half of the items, one after the other as a rule; later through the second half."""
    rng = np.random.default_rng(first_user)
    folder.mkdir()
    rows = ["user_id,item_id,timestamp"]
    for user in range(first_user, first_user + NUM_USERS):
        for first, start in ((0, 0), (NUM_ITEMS // 2, NEW)):
            item = int(rng.integers(NUM_ITEMS // 2))
            for step in range(7):
                item = (item + (1 if rng.random() < 0.8 else int(rng.integers(2, 9)))) % (NUM_ITEMS // 2)
                if has_new or start < NEW:
                    rows.append(f"u{user},i{first + item:02d},{start + 100 * step + user % 100}")
    (folder / "Shop_interactions.csv").write_text("\n".join(rows) + "\n")
    items = ["item_id,text_en", *(f"i{item:02d},thing {item}" for item in range(NUM_ITEMS))]
    (folder / "Shop_items.csv").write_text("\n".join(items) + "\n")
    return folder


def hit_rate(checkpoint, folder) -> float:
    """HR@10 of each user's last item."""
    data = DataArguments(dataset_config_name="Shop", data_dir=str(folder), catalogue="all")
    return evaluate(EvaluationArguments(str(checkpoint), use_cpu=True), data)["metrics"]["hr@10"]


@pytest.mark.slow
def test_it_learns_what_is_new_and_does_not_forget(tmp_path):
    old, new = write_shop(tmp_path / "old"), write_shop(tmp_path / "new", has_new=True)
    others = write_shop(tmp_path / "others", first_user=NUM_USERS)  # of before, and never trained on
    main([*USUAL, *SMALL, "--modality", "id", "--data_dir", str(old), "--output_dir", str(tmp_path / "before")])
    before = {name: hit_rate(tmp_path / "before", folder) for name, folder in (("old", others), ("new", new))}
    options = ["--model_name_or_path", str(tmp_path / "before"), "--data_dir", str(new), "--since", str(NEW)]
    options += ["--learning_rate", "1e-2", "--num_train_epochs", "10", "--logging_strategy", "steps"]
    options += ["--logging_steps", "1"]
    after = {}
    for share in ("0", "0.5"):
        output = tmp_path / f"share {share}"
        main([*USUAL, *options, "--replay_share", share, "--output_dir", str(output)])
        after[share] = {name: hit_rate(output, folder) for name, folder in (("old", others), ("new", new))}
    noise = 2 * math.sqrt(2 * before["old"] * (1 - before["old"]) / NUM_USERS)
    assert after["0.5"]["new"] > before["new"] + 0.3
    assert after["0.5"]["old"] > before["old"] - noise
    assert after["0"]["old"] < after["0.5"]["old"]  # the replayed histories are what keeps it
    state = json.loads((output / "trainer_state.json").read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates[0] < 0.2 * max(rates) and rates[-1] < 0.2 * max(rates)  # warmed up again, and down again


def test_it_needs_a_checkpoint_and_a_time(tmp_path):
    with pytest.raises(
        OptionError, match="--since trains a checkpoint on what is new; name it by --model_name_or_path"
    ):
        main(["--since", "2024-01-01", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(OptionError, match="'soon' is no time"):
        main(["--since", "soon", "--output_dir", str(tmp_path / "out")])
