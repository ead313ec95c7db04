"""The suite of NineRec's result tables: each row means something, and each number of the paper has its row."""

from collections import Counter

import pytest

from modeling_transrec import TransRecConfig
from modeling_transrec.benchmark.published import find_published, load_published
from modeling_transrec.benchmark.report import write_report
from modeling_transrec.benchmark.suites import read_suite
from modeling_transrec.benchmark.worker import check_tasks, parse_options
from modeling_transrec.data.arguments import DataArguments, SourceArguments


SUITE = read_suite("ninerec")
TARGETS = ("Bili_Food", "Bili_Dance", "Bili_Movie", "Bili_Cartoon", "Bili_Music", "KU", "QB", "TN", "DY")
PAPER = [one for one in load_published() if "NineRec" in (one.citation or "")]
TINY = {
    "text_model_name_or_path": {"text_config": {"model_type": "bert"}},
    "vision_model_name_or_path": {"vision_config": {"model_type": "swin"}},
    "multimodal_model_name_or_path": {"multimodal_config": {"model_type": "clip"}},
}


@pytest.fixture(scope="module")
def options():
    """Of each trained model, by data set and name, its options; of a pretraining by name."""
    return {
        task.title.removesuffix(", seed 42"): task.spec["options"]
        for task in SUITE.only(seeds=[42]).tasks()
        if task.kind != "baselines"
    }


def test_every_number_of_the_papers_result_tables_stands_beside_a_row():
    claimed = [("random", one) for dataset in SUITE.datasets for one in find_published(dataset, {"setting": "random"})]
    for name, row in SUITE.models.items():
        for dataset in row.get("datasets", SUITE.datasets):
            claimed += [(name, one) for one in find_published(dataset, row["published"])]
    assert Counter(str(one) for _, one in claimed) == Counter(map(str, PAPER))  # each by one row
    for name, one in claimed:
        first, _, mode = one.model.partition(", ")
        assert name.startswith(first) and mode in name and (one.item_encoder or "") in name, (name, one)
        assert ("sequence to one" in name) == bool(mode), (name, one)
        assert one.setting in name and ("TS" in name) == (one.training == "TS"), (name, one)
        assert ("Bili_2M" in name) == (one.pretrained_on == ("Bili_2M",)), (name, one)


@pytest.mark.parametrize(
    ("table", "rows", "datasets"),
    [
        ("Table 2 (HR@10) and Table 8 (NDCG@10)", 20, TARGETS),
        ("Table 3", 2, TARGETS),
        ("Table 3", 4, ("Bili_500K",)),
        ("Table 5", 4, TARGETS),
        ("Table 6", 2, TARGETS),
        ("Table 7", 5, TARGETS),
        ("Table 9", 2, TARGETS),
        ("Tables 4 and 10", 3, TARGETS),
        ("Table 10", 2, TARGETS),
        ("Table 13", 5, TARGETS),
        ("Table 14", 12, ("Bili_500K",)),
        ("Table 15", 3, ("Bili_2M", "Bili_warm20", "Bili_warm50")),
        ("Table 16", 3, ("Bili_500K",)),
    ],
)
def test_the_report_has_each_result_table(report, table, rows, datasets):
    for dataset in datasets:
        of_dataset = report.partition(f"### {dataset}: beside")[2].partition("\n## ")[0]
        lines = [line for line in of_dataset.splitlines() if f"| [{table}](https://arxiv.org/abs/2309.07705)" in line]
        assert len(lines) == rows, (dataset, table, lines)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report before anything has been run."""
    return write_report(SUITE, [], tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


def test_a_row_that_is_not_run_yet_stands_beside_the_papers_number(report):
    of_dy = report.partition("### DY: beside")[2].partition("\n## ")[0]
    (line,) = (line for line in of_dy.splitlines() if line.startswith("| SASRec × Swin-B, HasPT  "))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:5] == ["SASRec × Swin-B, HasPT", "", "", "0.1468", "0.0850"]
    assert "users and targets have not been compared" in cells[6]
    assert "published on other cuts" not in report  # all of NineRec's numbers are those of rows


def test_every_row_makes_its_arguments_and_a_configuration():
    tasks = [task for task in SUITE.only(seeds=[42]).tasks() if task.kind != "baselines"]
    check_tasks(tasks)
    made = set()
    for task in tasks:
        if "pretrain" in task.spec or str(task.spec["options"]) in made:
            continue  # a checkpoint brings the model
        made.add(str(task.spec["options"]))
        data_type = SourceArguments if task.kind == "pretrain" else DataArguments
        model, _, _ = parse_options({**task.spec["options"], "output_dir": "x", "use_cpu": True}, data_type)
        backbones = {name: value for option in model.backbone_names() for name, value in TINY[option].items()}
        sizes = {"num_items": 7} | ({"num_users": 7} if model.user_encoder_type == "dssm" else {})
        config = TransRecConfig(**model.config_fields(), **backbones, **sizes)
        assert (config.objective == "last_item") == ("sequence to one" in task.title), task.title
    assert len(made) > 100


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("QB, BERT4Rec × BERT, HasPT", {"learning_rate": 1e-5, "backbone_learning_rate": 5e-5}),
        ("KU, GRU4Rec, IDRec", {"hidden_size": 1024, "user_encoder_type": "gru4rec", "num_attention_heads": None}),
        ("DY, SASRec × Swin-B, NoPT", {"vision_model_name_or_path": "microsoft/swin-base-patch4-window7-224"}),
        ("Bili_500K, SASRec × BERT, TS, NoPT", {"freeze_backbone": True, "user_encoder_type": "sasrec"}),
        ("TN, SASRec × OPT-125M, HasPT", {"language": "en", "text_model_name_or_path": None}),  # the checkpoint's
        ("Bili_warm50, SASRec, IDRec", {"learning_rate": 5e-5, "hidden_size": 1024}),  # Bili_500K's
        ("SASRec × BERT, Bili_2M", {"dataset_config_name": ["Bili_2M"], "learning_rate": 5e-6}),
        ("NextItNet × Swin-B", {"dataset_config_name": ["Bili_500K"], "num_train_epochs": 120}),
    ],
)
def test_options_are_those_of_table_12(options, title, expected):
    assert {name: options[title].get(name) for name in expected} == expected


def test_warm_sets_are_the_cores_of_the_source():
    tasks = SUITE.only(datasets=["Bili_warm20"], models=["SASRec, IDRec"], seeds=[42]).tasks()
    expected = {"dataset_config_name": "Bili_500K", "min_actions": 10, "min_item_actions": 20}
    assert [task.spec["data"] for task in tasks] == [expected, expected]
