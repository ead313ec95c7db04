"""The scripts, run as their users run them, on the embedded sample."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_transrec import TransRecModel, TransRecProcessor, TransRecTrainer


EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--use_cpu", "true", "--disable_tqdm", "true", "--hidden_size", "32", "--max_seq_len", "8"]
SPLITS = ("validation", "test")
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_help(name, script, capsys):
    with pytest.raises(SystemExit) as stopped:
        script(name).main(["--help"])
    assert stopped.value.code == 0
    assert "--dataset_config_name" in capsys.readouterr().out


def test_finetune_evaluate_recommend(script, capsys, tmp_path):
    output = str(tmp_path / "model")
    script("finetune").main(["--output_dir", output, "--num_train_epochs", "1", "--do_predict", "true", *SMALL])
    table = capsys.readouterr().out
    for row in ("random", "popularity", "last-item-transitions", "transitions", "**this model**"):
        assert all(re.search(rf"\| {re.escape(row)} +\| ninerec/Sample_Target, {split} ", table) for split in SPLITS)
    assert "Without content-knn and content-and-transitions" in table
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert (tmp_path / "model" / "train_results.json").exists()

    file = tmp_path / "new" / "results.json"
    script("evaluate_model").main(["--model_name_or_path", output, "--output_file", str(file), "--use_cpu", "true"])
    results = json.loads(file.read_text())
    assert {"hr@10", "ndcg@10"} <= results["metrics"].keys()
    assert results["protocol"]["split"] == "test" and results["protocol"]["num_users"] == 800
    assert results["protocol"]["dataset"] == "ninerec/Sample_Target"
    rough = script("evaluate_model").main(["--model_name_or_path", output, "--use_cpu", "true", "--bf16", "true"])
    assert rough["protocol"]["bf16"] and rough["metrics"] != results["metrics"]
    assert rough["metrics"]["hr@10"] == pytest.approx(results["metrics"]["hr@10"], abs=0.03)

    capsys.readouterr()
    script("recommend").main(["--model_name_or_path", output, "--num_users", "2", "--k", "4", "--use_cpu", "true"])
    shown = capsys.readouterr().out
    assert shown.count("recommended (best first)") == 2 and shown.count("saw (oldest first)") == 2

    lines = tmp_path / "recommendations.jsonl"
    script("recommend").main(
        ["--model_name_or_path", output, "--k", "3", "--use_cpu", "true", "--output_file", str(lines)]
    )
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(written) == 800 and all(len(user["recommended"]) == 3 for user in written)


def test_data_and_lengths_are_never_guessed(script, tmp_path):
    for option in ("--model_name_or_path", "--text_model_name_or_path"):
        with pytest.raises(FileNotFoundError, match="../nothing/there is neither a folder nor a valid Hub id"):
            script("finetune").main([option, "../nothing/there", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match=f"which data set of {tmp_path}"):
        script("finetune").main(["--data_dir", str(tmp_path), "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="a model has its own"):
        script("evaluate_model").main(["--model_name_or_path", str(tmp_path), "--max_seq_len", "10"])


def test_baselines_need_no_model(script):
    evaluate = script("evaluate_model")
    random = evaluate.main(["--model_name_or_path", "random", "--use_cpu", "true"])["metrics"]["hr@10"]
    popularity = evaluate.main(["--model_name_or_path", "popularity", "--use_cpu", "true"])["metrics"]["hr@10"]
    assert 10 / 300 < random < 10 / 270  # histories of up to 22 items are no candidates
    assert popularity > 2 * random


@pytest.mark.slow
def test_transfer_compares_all_rows(script, capsys, tmp_path):
    epochs = ["--pretrain_epochs", "0.1", "--num_train_epochs", "0.1"]
    script("transfer").main(["--output_dir", str(tmp_path), *epochs, *SMALL])
    shown = capsys.readouterr().out
    rows = ["random", "content-knn", "TransRec zero-shot"]  # nothing of the target; then its counts; then training
    rows += ["popularity", "recent-popularity", "item-knn", "session-knn", "ease", "slim"]
    rows += ["last-item-transitions", "transitions", "content-and-transitions"]
    rows += ["TransRec zero-shot + transitions"]
    models = ("IDRec", "TransRec NoPT", "TransRec HasPT")
    rows += [row for model in models for row in (model, f"{model} + transitions")]
    assert all(f"| {row} " in shown for row in rows)
    assert shown.index("Nothing trained") < shown.index("pretrained: training")
    assert f"Written to {tmp_path}: results.md, results.json and a folder for each checkpoint" in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["rows"]) == rows
    assert {result["protocol"]["num_candidates"] for result in results["rows"].values()} == {300}
    assert "user tu" in shown


def test_the_target_is_no_source(script, tmp_path):
    options = ["--source", "Sample_Source", "Sample_Target", "--validation_dataset_config_name", "Sample_Source"]
    with pytest.raises(ValueError, match="--source names the target Sample_Target"):
        script("transfer").main([*options, "--output_dir", str(tmp_path)])


def test_wrong_options_say_what_to_do(script, tmp_path):
    finetune = script("finetune")
    for options, message in [
        (["--modality", "sound"], "choose text, image, audio, id"),
        (["--modality", "id", "--text_config", "{}"], "has no use for --text_config"),
        (["--text_config", "{"], "neither a file nor JSON"),
        (["--text_config", "{}"], "model_type"),
        (["--model_name_or_path", "x", "--modality", "id"], "leave out --modality"),
        (["--model_name_or_path", "x", "--image_size", "32"], "leave out --image_size"),
        (["--modality", "id", "--fusion", "gated"], "--fusion gated has no effect"),
        (["--modality", "id", "--max_text_length", "9"], "--max_text_length 9 has no effect"),
        (["--modality", "id", "--num_negatives", "5"], "--num_negatives 5 has no effect .* loss_type='in_batch'"),
        (["--modality", "id", "--mask_probability", "0.4"], "has no effect .* objective='next_item'"),
        (["--dataset_config_name", "Sample_Tarket"], "Sample_Tarket"),
        (["--learning_rat", "3"], "--learning_rat"),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            finetune.main(["--output_dir", str(tmp_path), "--use_cpu", "true", *options])


def test_an_option_that_contradicts_the_checkpoint_is_an_error(script, tmp_path):
    output = str(tmp_path / "model")
    script("pretrain").main(
        ["--output_dir", output, "--max_steps", "1", "--eval_strategy", "no", *SMALL[:-2]]
        + ["--max_seq_len", "8", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    )
    with pytest.raises(ValueError, match="--hidden_size 64 does not fit the checkpoint"):
        script("finetune").main(["--model_name_or_path", output, "--hidden_size", "64", "--use_cpu", "true"])


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    """SIGKILL in the middle; the sample's own files, `accelerate launch`, dropout on."""
    options = [*SMALL, "--num_train_epochs", "3", "--eval_strategy", "no", "--save_strategy", "steps"]
    options += ["--save_steps", "4", "--load_best_model_at_end", "false", "--loss_type", "bce", "--seed", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(name, *more):
        return [*LAUNCH, str(EXAMPLES / "finetune.py"), "--output_dir", str(tmp_path / name), *options, *more]

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    uninterrupted = subprocess.Popen(command("whole"), env=environment, **silent)
    process = subprocess.Popen(command("killed"), env=environment, start_new_session=True, **silent)
    deadline = time.time() + 200
    while not (tmp_path / "killed" / "checkpoint-8" / "trainer_state.json").exists():
        assert process.poll() is None and time.time() < deadline, "the run ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    resume = command("killed", "--resume_from_checkpoint", "True")
    subprocess.run(resume, env=environment, check=True, capture_output=True, timeout=300)
    assert uninterrupted.wait(timeout=300) == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_ids_stay_behind_when_content_moves_on(script, tmp_path, caplog):
    options = ["--use_cpu", "true", "--disable_tqdm", "true", "--num_train_epochs", "1", "--hidden_size", "16"]
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    script("pretrain").main([*options, "--modality", "text+id", "--output_dir", source])
    assert TransRecProcessor.from_pretrained(source).modality == "text+id"
    results = tmp_path / "zero_shot.json"
    script("evaluate_model").main(["--model_name_or_path", source, "--use_cpu", "true", "--output_file", str(results)])
    assert "id part is dropped: its 600 items are others than the catalogue's 300" in caplog.text
    assert json.loads(results.read_text())["metrics"]["hr@10"] > 0
    script("recommend").main(["--model_name_or_path", source, "--use_cpu", "true"])
    script("finetune").main([*options, "--model_name_or_path", source, "--output_dir", target])
    assert TransRecModel.from_pretrained(target).config.modality == "text"
    assert TransRecProcessor.from_pretrained(target).modality == "text"
    pretrained, finetuned = (TransRecModel.from_pretrained(path) for path in (source, target))
    assert pretrained.item_encoder.id_embedding is not None and finetuned.item_encoder.id_embedding is None


@pytest.mark.slow
def test_an_interrupted_training_is_never_mixed_with_another(script, tmp_path, caplog, capsys, monkeypatch):
    main, output = script("finetune").main, tmp_path / "model"
    options = ["--modality", "id", "--num_train_epochs", "1", "--output_dir", str(output), *SMALL]
    main([*options, "--resume_from_checkpoint", "true"])  # nothing is there yet
    assert "training starts from the beginning" in caplog.text
    assert re.search(r"Saved in .*model: validation hr@10 0\.\d{4} after epoch 1", capsys.readouterr().out)
    steps, step = [], TransRecTrainer.training_step
    monkeypatch.setattr(TransRecTrainer, "training_step", lambda *args: steps.append(1) or step(*args))
    trained = load_file(output / "model.safetensors")
    main(options)  # the same command: it is finished
    main([*options, "--resume_from_checkpoint", "true", "--logging_steps", "3"])
    assert not steps and "nothing was trained: validation hr@10 0." in capsys.readouterr().out
    assert all(torch.equal(tensor, trained[name]) for name, tensor in load_file(output / "model.safetensors").items())
    assert json.loads((output / "results.json").read_text())[-1]["model"] == "this model"
    with pytest.raises(FileExistsError, match=r"finished training of other options .*learning_rate 0.0005, now 0.1"):
        main([*options, "--learning_rate", "0.1"])
    with pytest.raises(ValueError, match=r"trained with something else: learning_rate 0.0005, now 0.1"):
        main([*options, "--learning_rate", "0.1", "--resume_from_checkpoint", "true"])
    (output / "checkpoint-999").mkdir()
    main([*options, "--learning_rate", "0.1", "--resume_from_checkpoint", "false"])
    assert len(steps) == 13 and "has a finished training, which is replaced" in caplog.text
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-13"]
    options += ["--learning_rate", "0.1"]
    (output / "trainer_state.json").unlink()  # as if it had been killed
    with pytest.raises(FileExistsError, match="go on with --resume_from_checkpoint true"):
        main(options)
    main([*options, "--resume_from_checkpoint", "true"])
    assert len(steps) == 13
    (output / "trainer_state.json").unlink()
    (output / "checkpoint-13" / "trainer_state.json").write_text("{")
    with pytest.raises(FileExistsError, match="no whole checkpoint"):
        main([*options, "--resume_from_checkpoint", "true"])
    (output / "checkpoint-13" / "trainer_state.json").unlink()  # killed before the first one was written to its end
    main([*options, "--resume_from_checkpoint", "true"])
    assert len(steps) == 26 and (output / "checkpoint-13" / "trainer_state.json").exists()


def test_a_model_of_user_ids_recommends(script, capsys, tmp_path):
    output = str(tmp_path / "model")
    options = ["--modality", "id", "--user_encoder_type", "dssm", "--num_train_epochs", "1", *SMALL]
    script("finetune").main([*options, "--output_dir", output])
    capsys.readouterr()
    script("recommend").main(["--model_name_or_path", output, "--use_cpu", "true", "--num_users", "1"])
    shown = capsys.readouterr().out
    user, item = (re.search(pattern, shown).group(1) for pattern in (r"user (\S+)", r"saw \(oldest first\)\s+(\S+)"))
    history = ["--history", item, "--user_id", user]
    script("recommend").main(["--model_name_or_path", output, "--use_cpu", "true", *history])
    assert capsys.readouterr().out.count("recommended (best first)") == 1


def test_finetune_with_pictures_and_adapters(script, tmp_path):
    options = ["--use_cpu", "true", "--disable_tqdm", "true", "--num_train_epochs", "1", "--hidden_size", "16"]
    vision = '{"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, '
    vision += '"intermediate_size": 16, "patch_size": 8}'
    options += ["--modality", "text+image", "--vision_config", vision, "--image_size", "16", "--fusion", "gated"]
    options += ["--peft", "lora", "--peft_config", '{"r": 2, "target_modules": ["query", "q_proj"]}']
    script("finetune").main([*options, "--output_dir", str(tmp_path)])
    model = TransRecModel.from_pretrained(tmp_path)
    assert model.config.modality == "text+image" and model.config.peft_config["r"] == 2
    assert model.config.vision_config.image_size == 16
    script("recommend").main(["--model_name_or_path", str(tmp_path), "--use_cpu", "true"])
