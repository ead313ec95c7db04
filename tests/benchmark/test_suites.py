"""Suites: what a YAML file says, and the tasks that it stands for."""

import pytest

from modeling_transrec.benchmark.suites import SUITES, Suite, read_suite
from modeling_transrec.benchmark.worker import check_tasks


MODELS = {"IDRec": {"modality": "id"}}
SOURCE = {"on source": {"dataset_config_name": ["Sample_Source"], "modality": "text"}}


def suite(**changes) -> Suite:
    return Suite(**{"title": "A suite", "datasets": ["Sample_Target"], "models": MODELS, "seeds": [1, 2], **changes})


@pytest.mark.parametrize("name", sorted(path.stem for path in SUITES.glob("*.yaml")))
def test_suites_that_ship_have_options_that_there_are(name):
    found = read_suite(name)
    assert found.name == name and found.title and found.about
    check_tasks(found.tasks())
    check_tasks(found.tasks(num_trials=2))


def test_tasks_are_data_sets_times_models_times_seeds():
    models = {"one": {"modality": "id"}, "other": {"modality": "text"}, "some": {"modality": "id", "datasets": ["B"]}}
    tasks = suite(datasets=["A", "B"], models=models).tasks()
    rows = [(task.spec["dataset"], task.spec["model"], task.spec["seed"]) for task in tasks if task.kind == "model"]
    expected = {(data, name, seed) for data in "AB" for name in models for seed in (1, 2)}
    assert set(rows) == expected - {("A", "some", 1), ("A", "some", 2)} and len(rows) == len(set(rows))
    assert [task.spec["dataset"] for task in tasks if task.kind == "baselines"] == ["A", "B"]
    assert len({task.id for task in tasks}) == len(tasks)


def test_models_share_a_pretraining_that_comes_before_them():
    models = {"zero-shot": {"pretrained": "on source", "train": False}, "HasPT": {"pretrained": "on source"}}
    tasks = suite(models=models, pretraining=SOURCE, baselines=[]).tasks()
    assert [task.kind for task in tasks] == ["pretrain"] * 2 + ["model"] * 4
    seeds = {task.id: task.spec["seed"] for task in tasks[:2]}
    for task in tasks[2:]:
        assert task.after == (task.spec["pretrain"],) and seeds[task.spec["pretrain"]] == task.spec["seed"]
    assert [task.spec["trains"] for task in tasks[2:]] == [False, True] * 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"baselines": ["language-model"]}, "there is no language_model"),
        ({"sampled": {"max_eval_users": 5}}, r"sampled needs num_candidates"),
        ({"sampled": {"num_candidates": 4}}, "must be a list of numbers"),
        ({"sampled": {"num_candidates": [1]}}, "must be a list of numbers of at least 2"),
        ({"sampled": {"num_candidate": [4]}}, "did you mean num_candidates"),
    ],
)
def test_tables_of_candidates_that_cannot_be_made(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        suite(**changes)


def test_all_seeds_take_what_tuning_found_with_the_first():
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    tasks = suite(tune=space, baselines=[]).tasks(num_trials=7)
    assert [task.kind for task in tasks] == ["tune", "model", "model"]
    assert {task.spec["tune"] for task in tasks[1:]} == {tasks[0].id}
    assert tasks[0].spec["num_trials"] == 7 and tasks[0].spec["seed"] == 1
    with pytest.raises(ValueError, match="no space of hyper-parameters"):
        suite().tasks(num_trials=7)


def test_a_learning_curve_draws_other_users_with_each_seed():
    tasks = suite(known_users=[20, "all"]).tasks()
    drawn = [(task.spec["known_users"], task.spec["seed"]) for task in tasks if task.kind == "baselines"]
    assert drawn == [(20, 1), (20, 2), (None, None)]


def test_an_id_says_all_that_a_result_depends_on():
    before = {task.id for task in suite().tasks()}
    assert before == {task.id for task in suite(title="Another", about="text", tune={"a": [1]}).tasks()}
    for change in ({"max_seq_len": 10}, {"metrics": ["hr"]}, {"data": {"min_actions": 7}}, {"models": {"x": {}}}):
        assert not before & {task.id for task in suite(**change).tasks() if task.kind == "model"}


def test_presets_are_those_of_the_data_set():
    tasks = suite(datasets=["KU", "QB"], models={"IDRec": {"preset": "{dataset}-id"}}, max_seq_len=20).tasks()
    rates = {task.spec["dataset"]: task.spec["options"]["learning_rate"] for task in tasks if task.kind == "model"}
    assert rates == {"KU": 1e-4, "QB": 5e-5}


def test_a_row_takes_an_option_of_its_preset_away():
    models = {"GRU4Rec": {"preset": "ku-id", "user_encoder_type": "gru4rec", "num_attention_heads": None}}
    tasks = suite(models=models, max_seq_len=20).tasks()
    options = [task.spec["options"] for task in tasks if task.kind == "model"]
    assert all("num_attention_heads" not in one and one["num_hidden_layers"] == 2 for one in options)
    check_tasks(tasks)


def test_what_is_published_changes_no_task():
    named = {"IDRec": {"modality": "id", "published": {"model": "SASRec", "setting": "IDRec"}}}
    ids = [{task.id for task in suite(datasets=["KU"], models=models).tasks()} for models in (MODELS, named)]
    assert ids[0] == ids[1]


def test_one_data_set_stands_in_a_suite_with_two_splits():
    by_time = {"dataset_config_name": "KU", "split_strategy": "temporal"}
    platforms = {"KU": None, "KU by time": by_time}
    models = {"IDRec": {"preset": "{dataset}-id"}, "HasPT": {"pretrained": "on source", "datasets": ["KU by time"]}}
    tasks = suite(datasets=platforms, data={"min_actions": 7}, models=models, pretraining=SOURCE).tasks()
    found = {task.spec["dataset"]: task.spec["data"] for task in tasks if task.kind == "baselines"}
    assert found == {"KU": {"min_actions": 7}, "KU by time": {"min_actions": 7, **by_time}}
    assert all(task.spec["data"] == {"min_actions": 7} for task in tasks if task.kind == "pretrain")
    check_tasks(tasks)
    assert [*suite(datasets=platforms).only(datasets=["KU by time"]).datasets] == ["KU by time"]
    with pytest.raises(ValueError, match="datasets: KU by time: splitstrategy is unknown; did you mean split_"):
        suite(datasets={"KU by time": {"splitstrategy": "temporal"}})


def test_a_part_of_a_suite():
    models = {"one": {"modality": "id", "datasets": ["A"]}, "other": {"modality": "id"}}
    found = suite(datasets=["A", "B"], models=models).only(datasets=["B"], seeds=[9])
    assert [*found.models] == ["other"] and found.seeds == [9]
    check_tasks(found.tasks())
    with pytest.raises(ValueError, match="did you mean other"):
        found.only(models=["othre"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"datasets": "Sample_Target"}, r"datasets must be a list, such as datasets: \[Amazon_Beauty\]"),
        ({"seeds": [1, 1]}, "seeds names one of its values twice"),
        ({"seeds": ["a"]}, "seeds must be whole numbers"),
        ({"eval_ks": [5]}, "eval_ks must have 10"),
        ({"metrics": ["ndgc"]}, "metrics: ndgc is unknown; did you mean ndcg"),
        ({"baselines": ["popular"]}, "did you mean popularity"),
        ({"baselines": ["content-knn"]}, "there are no backbones"),
        ({"known_users": ["some"]}, "no number of users"),
        ({"models": {"x": {"reads": "text"}}}, "name its backbone under backbones: text_model_name_or_path"),
        ({"models": {"x": {"pretrained": "y"}}}, "x: pretrained: y is unknown"),
        ({"models": {"x": {"train": False}}}, "x is neither trained nor pretrained"),
        ({"models": {"x": {"preset": "recomended-id"}}}, "did you mean recommended-id"),
        (
            {"models": {"x": {"pretrained": "on source", "train": False, "seed": 3}}, "pretraining": SOURCE},
            "x is not trained: seed would have no effect",
        ),
        ({"models": {"x": {"published": {"modle": "SASRec"}}}}, "x: published: modle is unknown; did you mean model"),
        (
            {"models": {"x": {"published": {"model": "SASRec", "setting": "NoPT"}}}, "datasets": ["Amazon_Beauty"]},
            "x: published: nobody has published such numbers on Amazon_Beauty",
        ),
        ({"tune": {"learning_rate": 3}}, "must be a list of choices"),
        ({"tune": {"learning_rate": {"low": 1, "high": 1}}}, "low must be below high"),
        ({"tune": {"learning_rate": {"low": 0, "high": 1, "log": True}}}, "above 0 with log"),
    ],
)
def test_what_a_suite_cannot_mean(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        suite(**changes)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("hidden_sise", 3, "IDRec, seed 1: there is no option --hidden_sise"),
        ("learning_rate", "fast", "IDRec, seed 1: .*invalid float value"),
        ("modality", "smell", "IDRec, seed 1: --modality smell is unknown"),
    ],
)
def test_options_are_checked_before_anything_runs(option, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_tasks(suite(models={"IDRec": {"modality": "id", option: value}}).tasks())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a", "a suite is a table"),
        ("title: x", "datasets and models must be there"),
        ("title: x\ndatasets: [A]\nmodels: {x: {}}\nseed: [1]", "seed is unknown; did you mean seeds"),
        ("title: [", "is no YAML"),
        ("title: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("title: x\ndatasets: [A]\nmodels: [x]", "models must be a table"),
    ],
)
def test_a_file_that_is_no_suite_is_named(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"mine.yaml.*{sentence}"):
        read_suite(str(path))


def test_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("title: x\ndatasets: [A]\nmodels: {x: {learning_rate: 1e-3}}\ntune: {a: {low: 1e-5, high: 1e-2}}")
    found = read_suite(str(path))
    assert found.models["x"]["learning_rate"] == 0.001 and found.tune["a"] == {"low": 1e-5, "high": 0.01}
    assert found.name == "mine"


def test_there_is_no_such_suite():
    with pytest.raises(ValueError, match="did you mean sample"):
        read_suite("sampel")


def test_a_search_is_of_what_needs_no_training_too():
    """Without one its task is what it was; a suite without models to train needs no space of theirs."""
    tuned = {"tune": {"learning_rate": [1e-3, 1e-2]}}
    of = {trials: [task for task in suite(**tuned).tasks(trials) if task.kind == "baselines"] for trials in (0, 3, 4)}
    assert [task.spec.get("num_trials") for (task,) in of.values()] == [None, 3, 4]
    assert len({task.id for (task,) in of.values()}) == 3 and "num_trials" not in of[0][0].spec
    (task,) = suite(models={}).tasks(5)
    assert task.spec["num_trials"] == 5
    with pytest.raises(ValueError, match="--tune 3: the suite says no space"):
        suite().tasks(3)
