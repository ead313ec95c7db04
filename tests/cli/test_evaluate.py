"""`transrec evaluate`: what it prints, and what stands beside it."""

import json

import pytest

from modeling_transrec import SAMPLE_BACKBONE
from modeling_transrec.cli.evaluate import main


@pytest.fixture
def checkpoint(make_model, processor_of, tmp_path):
    make_model("text", max_seq_len=6).save_pretrained(tmp_path)
    processor_of["text"].save_pretrained(tmp_path)
    return ["--model_name_or_path", str(tmp_path), "--use_cpu", "true", "--max_eval_users", "50"]


@pytest.mark.parametrize("centered", ["false", "true"])
def test_what_needs_no_training_stands_beside_a_checkpoint(checkpoint, capsys, centered):
    """The standard output stays JSON; a backbone that is named reads the content."""
    named = ["--text_model_name_or_path", SAMPLE_BACKBONE, "--center_scores", centered]
    result = main([*checkpoint, *named])
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads(json.dumps(result))
    rows = {line.split("|")[1].strip(" *") for line in shown.err.splitlines() if line.startswith("|")}
    assert rows > {"random", "popularity", "transitions", "content-knn (sample_backbone)"}
    of_ours = next(line for line in shown.err.splitlines() if "this model" in line)
    assert f"{result['metrics']['hr@10']:.4f}" in of_ours
    alone = main([*checkpoint, "--center_scores", centered, "--with_baselines", "false"])
    assert "| random" not in capsys.readouterr().err and alone["metrics"] == result["metrics"]


def test_a_baseline_has_no_others_beside_it(capsys):
    main(["--model_name_or_path", "popularity", "--use_cpu", "true"])
    assert "| random" not in capsys.readouterr().err
