"""The options of the commands: made from the configuration, explained, and refused where they are misspelt."""

import dataclasses
import re
import subprocess
import sys
import time

import pytest

from modeling_transrec import (
    DataArguments,
    ModelArguments,
    TransRecConfig,
    TransRecProcessor,
    TransRecTrainingArguments,
)
from modeling_transrec.cli import main as console
from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.models.configuration_transrec import described_fields
from modeling_transrec.models.modalities import BACKBONES
from modeling_transrec.training.model_arguments import CHANGEABLE_FIELDS, config_options


TYPES = (ModelArguments, DataArguments, TransRecTrainingArguments)


def help_of(command: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        console.main([command, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_every_field_of_the_configuration_is_an_option(tmp_path):
    values = {"str": "x", "int": "3", "float": "0.5", "bool": "true"}
    for name, field in config_options().items():
        kind = re.search(r"(str|int|float|bool)", str(field.type)).group(1)
        args = [f"--{name}", values[kind], "--output_dir", str(tmp_path), "--use_cpu", "true"]
        model, *_ = parse_arguments(TYPES, args, None)
        expected = {"x": "x", "3": 3, "0.5": 0.5, "true": True}[values[kind]]
        assert model.config_fields() == {name: [expected] if "list" in str(field.type) else expected}
    left_out = set(TransRecConfig.own_fields()) - set(config_options())
    from_elsewhere = {"num_items", "num_users", "peft_config", "backbone_references", "image_mean", "image_std"}
    from_elsewhere |= {"platforms"}
    assert left_out == {*TransRecConfig.sub_configs_defaults, *from_elsewhere}
    assert set(CHANGEABLE_FIELDS) < set(config_options())


def test_backbones_of_a_benchmark_are_those_that_other_commands_name(capsys):
    shown = " ".join(help_of("benchmark", capsys).split())
    texts = {one.name: one.metadata["help"].removesuffix(".") for one in dataclasses.fields(ModelArguments)}
    for backbone in BACKBONES.values():
        assert f"--{backbone.option} TEXT {texts[backbone.option]}; in place of the suite's." in shown


def test_help_has_the_defaults_of_the_processor():
    texts = {one.name: one.metadata.get("help", "") for one in dataclasses.fields(ModelArguments)}
    processor = TransRecProcessor(item_ids=["a"])
    assert texts["language"].endswith(f"(default: {processor.language}).")
    assert texts["max_text_length"].endswith(f"(default: {processor.max_text_length}).")
    assert texts["max_audio_seconds"].endswith(f"(default: {processor.max_audio_seconds:g}).")


def test_an_option_that_is_not_given_says_nothing(tmp_path):
    model, *_ = parse_arguments(TYPES, ["--output_dir", str(tmp_path), "--use_cpu", "true"], None)
    assert model.config_fields() == {} and model.backbone_names() == {} and model.modality == "text"


def test_help_is_readable(capsys):
    shown = help_of("finetune", capsys)
    described = described_fields(TransRecConfig)
    flat = " ".join(shown.split())
    for name in config_options():
        assert f"--{name} " in shown and " ".join(described[name].split()[:2]).rstrip(",") in flat, name
    assert "(default: None)" not in shown and "--hidden-size" not in shown
    assert f"default: {TransRecConfig().hidden_size}" in flat
    ours, _, theirs = shown.partition("options of transformers.TrainingArguments")
    assert "--freeze_backbone" in ours and "--adam_beta1" in theirs
    assert "accelerate launch --multi_gpu -m modeling_transrec.cli.finetune" in shown
    assert shown.startswith("usage: transrec finetune")
    assert "transformers.TrainingArguments" not in help_of("evaluate", capsys)


@pytest.mark.parametrize("wrong, right", [("--learning_rat", "--learning_rate"), ("--hiden-size", "--hidden_size")])
def test_a_misspelt_option_names_the_nearest(wrong, right, tmp_path):
    with pytest.raises(ValueError, match=f"there is no option {wrong}; did you mean {right}"):
        parse_arguments(TYPES, ["--output_dir", str(tmp_path), wrong, "3"], None)


def test_the_console_command(capsys):
    assert console.main([]) is None
    shown = capsys.readouterr().out
    for name in "pretrain finetune evaluate recommend transfer prepare-data validate describe download".split():
        assert re.search(rf"^  {name} +[A-Z]", shown, flags=re.MULTILINE)
    assert console.main(["fine-tune"]) == 2
    assert "did you mean finetune?" in capsys.readouterr().err
    assert console.main(["evaluate", "--model_name_or_path", "random", "--slit", "test"]) == 2
    assert capsys.readouterr().err == "transrec evaluate: there is no option --slit; did you mean --split?\n"


def test_what_a_command_finds_wrong_is_a_sentence_and_what_is_a_fault_is_not(capsys, monkeypatch, tmp_path):
    for options, message in (
        (["--model_name_or_path", "popularty"], "there is no popularty; did you mean popularity?"),
        (["--model_name_or_path", "random", "--dataset_config_name", "Sample_Targt"], "Sample_Targt"),
        (["--model_name_or_path", "nobody/nothing"], "there is no folder nobody/nothing here, and no Hub repository"),
        (
            ["--model_name_or_path", "content-knn", "--text_model_name_or_path", "nobody/text"],
            "there is no folder nobody/text here",
        ),
    ):
        assert console.main(["evaluate", *options]) in (1, 2)
        shown = capsys.readouterr().err
        assert message in shown and shown.startswith("transrec evaluate: ") and "Traceback" not in shown
    for command, option in (("finetune", "--text_model_name_or_path"), ("serve", "--model_name_or_path")):
        given = ["--output_dir", str(tmp_path / "model")] if command == "finetune" else []
        assert console.main([command, option, "nobody/nothing", *given, "--use_cpu", "true"]) == 1
        assert re.search("there is no folder (nobody/nothing|of this name) here", capsys.readouterr().err)
    for command in ("recommend", "serve"):
        assert console.main([command, "--model_name_or_path", "transitions", "--use_cpu", "true"]) == 2
        assert "transitions is not trained, and has no checkpoint" in capsys.readouterr().err

    def fail(options):
        return {}["a fault"] if options else int("of the library")

    monkeypatch.setattr("modeling_transrec.cli.recommend.main", fail)
    with pytest.raises(KeyError):
        console.main(["recommend", "--k", "0"])


@pytest.mark.parametrize("command", ["validate", "describe", "download", "prepare-data"])
def test_commands_of_the_data_side_have_their_name(command, capsys):
    assert help_of(command, capsys).startswith(f"usage: transrec {command}")


@pytest.mark.parametrize("command", [["--help"], ["validate", "--help"]])
def test_help_answers_at_once(command):
    """In less than 1.5 times the time of importing what the data tools need."""

    def seconds(code: str) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
            times.append(time.perf_counter() - start)
        return min(times)

    run = f"from modeling_transrec.cli.main import main; main({command})"
    assert seconds(run) < 1.5 * seconds("import polars, datasets")


def test_a_token_on_the_command_line_is_warned_of_and_not_repeated(tmp_path, caplog):
    options = ["--output_dir", str(tmp_path), "--use_cpu", "true"]
    parse_arguments(TYPES, options, None)
    assert "hf auth login" not in caplog.text
    parse_arguments(TYPES, [*options, "--hub_token", "hf_ABCDEF"], None)
    assert "log in with `hf auth login`" in caplog.text and "hf_ABCDEF" not in caplog.text
    with pytest.raises(ValueError) as error:
        parse_arguments(TYPES, [*options, "hf_ABCDEF"], None)
    assert "hf_ABCDEF" not in str(error.value) and "***" in str(error.value)


def test_a_process_leaves_its_group_before_python_ends():
    """Else a thread of gloo that frees a tensor as Python ends aborts the process, at times, after all is done."""
    program = """
import atexit, torch
atexit.register(lambda: print("still in a group:", torch.distributed.is_initialized()))  # the last to be called
import modeling_transrec.cli.options
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    last = done.stdout.splitlines()[-1:]  # gloo of torch 2.8 prints a line before
    assert (done.returncode, last) == (0, ["still in a group: False"]), done.stderr
