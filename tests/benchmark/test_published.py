"""Published numbers: those of the sources, complete, as fractions."""

import json
from collections import Counter

import pytest

from modeling_transrec.benchmark.published import (
    PROTOCOL_FACTS,
    PUBLISHED_FILE,
    best_published,
    find_published,
    load_published,
    published_results,
)


NINEREC_TARGETS = ("Bili_Food", "Bili_Dance", "Bili_Movie", "Bili_Cartoon", "Bili_Music", "KU", "QB", "TN", "DY")


def found(dataset: str, **facts):
    """The one result on a data set that has these facts."""
    matches = find_published(dataset, facts)
    assert len(matches) == 1, (dataset, facts, [one.name for one in matches])
    return matches[0].metrics


BERT, SWIN = {"item_encoder": "BERT"}, {"item_encoder": "Swin-B"}


@pytest.mark.parametrize(
    ("dataset", "facts", "metrics"),
    [
        # copied by hand from the tables
        ("KU", {"model": "SASRec", "setting": "IDRec"}, {"hr@10": 0.2836, "ndcg@10": 0.2479}),
        ("DY", {"model": "GRU4Rec", "setting": "HasPT", **BERT}, {"hr@10": 0.1634, "ndcg@10": 0.0901}),
        ("TN", {"model": "BERT4Rec", "setting": "HasPT", **SWIN}, {"hr@10": 0.1298, "ndcg@10": 0.0685}),
        ("Bili_Food", {"model": "BERT4Rec", "setting": "NoPT", **SWIN}, {"hr@10": 0.0215, "ndcg@10": 0.0119}),
        ("Bili_Dance", {"model": "SASRec", "setting": "HasPT", "training": "TS", **SWIN}, {"hr@10": 0.1757}),
        ("QB", {"setting": "HasPT", "item_encoder": "OPT-125M"}, {"hr@10": 0.3328, "ndcg@10": 0.2649}),
        ("DY", {"setting": "HasPT", "item_encoder": "BERT + Swin-T"}, {"hr@10": 0.1290, "ndcg@10": 0.0692}),
        (
            "Bili_Cartoon",
            {"model": "SASRec, sequence to one", "setting": "NoPT", **SWIN},
            {"ndcg@10": 0.0513},  # the hit rate that is printed does not fit the gain beside it
        ),
        (
            "Bili_Music",
            {"model": "SASRec", "setting": "HasPT", "pretrained_on": ("Bili_2M",), **BERT},
            {"hr@10": 0.2174, "ndcg@10": 0.1237},
        ),
        ("Bili_Music", {"setting": "zero-shot", "training": "E2E", **BERT}, {"hr@10": 0.1132}),
        ("TN", {"setting": "random"}, {"hr@10": 0.0026}),
        ("KU", {"model": "DSSM-variant", "setting": "HasPT"}, {"hr@10": 0.2670, "ndcg@10": 0.2330}),
        (
            "Bili_500K",
            {"model": "BERT4Rec", "setting": "NoPT", "modality": "image"},
            {"hr@10": 0.0219, "ndcg@10": 0.0111},
        ),
        ("Bili_warm50", {"setting": "NoPT", "modality": "text"}, {"hr@10": 0.0535, "ndcg@10": 0.0281}),
        ("Bili_500K", {"item_encoder": "ViLT"}, {"hr@10": 0.0296, "ndcg@10": 0.0153}),
        ("Amazon_Toys", {"model": "eSASRec"}, {"hr@10": 0.0939, "ndcg@10": 0.0538}),
        ("Amazon_Sports", {"model": "OneRec-Foundation"}, {"hr@10": 0.0547}),
        (
            "Amazon2018_Pantry",
            {"model": "MISSRec", "setting": "HasPT", "modality": "text+image+id"},
            {"hr@10": 0.0779, "ndcg@10": 0.0365},
        ),
        ("Pixel8M", {"model": "HSTU", "remarks": "5,632 negatives"}, {"hr@10": 0.0483, "ndcg@10": 0.0275}),
        ("Amazon_Beauty", {"model": "FEARec"}, {"hr@10": 0.0986, "ndcg@10": 0.0597}),
        ("Amazon_Beauty", {"model": "LRURec"}, {"hr@10": 0.0956, "ndcg@10": 0.0572}),
        ("Amazon_Beauty", {"model": "Mamba4Rec"}, {"hr@10": 0.0914, "ndcg@10": 0.0551}),
        ("Amazon_Beauty", {"model": "LC-Rec", "citation": None}, {"hr@10": 0.0791, "ndcg@10": 0.0438}),
        ("Amazon_Beauty", {"model": "UniSRec"}, {"hr@10": 0.0694, "ndcg@10": 0.0335}),
        ("Amazon_Sports", {"model": "UniSRec"}, {"ndcg@10": 0.0181}),
        ("Amazon_Beauty", {"model": "RecFormer"}, {"hr@10": 0.0627, "ndcg@10": 0.0288}),
        ("Amazon_Sports", {"model": "RPG"}, {"ndcg@10": 0.0263}),
        ("Amazon_Sports", {"model": "LIGER", "remarks": "All items are ranked again"}, {"ndcg@10": 0.0296}),
        (
            "Amazon_Beauty",
            {"model": "P5-small"},
            {"hr@5": 0.0503, "hr@10": 0.0659, "ndcg@5": 0.037, "ndcg@10": 0.0421},
        ),
        (
            "Amazon2018_Arts",
            {"model": "VQ-Rec", "remarks": "Checkpoint of the paper"},
            {"hr@10": 0.1189, "ndcg@10": 0.0703, "hr@50": 0.2249, "ndcg@50": 0.0935},
        ),
        ("OnlineRetail", {"model": "TedRec"}, {"hr@10": 0.2234, "ndcg@10": 0.1316}),
        ("Amazon2018_Office", {"model": "UniSRec"}, {"hr@10": 0.1233, "ndcg@10": 0.0723}),
        ("Amazon2023_Games", {"model": None}, {"hr@10": 0.0958, "ndcg@10": 0.0515}),
        ("Amazon2023_Scientific", {"model": "SASRec"}, {"hr@10": 0.0412, "ndcg@10": 0.0199}),
        ("MIND", {"item_encoder": "RoBERTa-base"}, {"hr@10": 0.23, "ndcg@10": 0.1282}),
        ("HM", {"modality": "id"}, {"hr@10": 0.1194, "ndcg@10": 0.0775}),
        ("MicroLens-100K", {"model": "GRU4Rec"}, {"hr@10": 0.0954, "ndcg@10": 0.0517}),
        ("Pixel200K", {"model": None}, {"hr@10": 0.0359, "ndcg@10": 0.0197}),
        ("RecGPT_Steam", {"setting": "zero-shot"}, {"hr@5": 0.1253, "ndcg@5": 0.1245}),
    ],
)
def test_numbers_are_those_of_the_sources(dataset, facts, metrics):
    assert found(dataset, **facts) == metrics


def test_no_row_of_a_source_is_missing_or_stands_there_twice():
    results = load_published()
    found = Counter(one.citation and one.citation.partition(" et al.")[0].partition(",")[0] for one in results)
    assert found == {
        # NineRec: tables 2 and 8, 3, 5, 6, 7, 9, random, 10, 13, 14, 15, 16
        "Zhang": 180 + 22 + 38 + 18 + 48 + 18 + 9 + 36 + 49 + 12 + 9 + 3,
        "Shin": 1,
        "Qin": 6,
        "Tikhonovich": 31,
        "Zhou": 40,
        "Wang": 20,
        "Chen": 9,
        "seqKD": 5,
        "Geng": 1,
        "Hou": 14,  # RPG, VQ-Rec
        "Yang": 4,
        "Xu": 3,
        "Yuan": 12,
        "Ni": 2,
        "Jiang": 5,
        None: 12,
    }
    assert len({(one.dataset, str(one)) for one in results}) == len(results) == sum(found.values())
    assert len({one.dataset for one in results}) == 44


def test_every_result_says_where_it_is_from_and_what_differs():
    for one in load_published():
        assert one.metrics and all(0 < value < 0.5 for value in one.metrics.values()), one
        assert one.differences and one.protocol.keys() == PROTOCOL_FACTS.keys(), one
        assert (one.citation is None) == (one.url is None) and (one.url or "https://").startswith("https://"), one
        assert (one.setting == "IDRec") == (one.modality == "id"), one
        assert one.setting != "HasPT" or one.pretrained_on, one
        assert (one.same_targets is True) == (one.num_users is not None and one.num_items is not None), one
        for k in (5, 10, 20, 50):  # a longer list has no fewer hits
            longer = [one.metrics[f"hr@{n}"] for n in (5, 10, 20, 50) if n >= k and f"hr@{n}" in one.metrics]
            assert longer == sorted(longer), one
            assert one.metrics.get(f"ndcg@{k}", 0) <= one.metrics.get(f"hr@{k}", 1), one


def test_what_is_not_known_is_said():
    results = load_published()
    unknown = {(one.dataset, one.name) for one in results if one.citation is None}
    assert unknown == {
        ("Amazon_Beauty", "LC-Rec"),
        *((f"Amazon_{name}", "UniSRec") for name in ("Beauty", "Sports")),
        ("Amazon_Beauty", "RecFormer"),
        *((f"Amazon2023_{name}", "SASRec") for name in ("Instruments", "Scientific", "Games")),
        *((f"Amazon2023_{name}", "model not recorded") for name in ("Instruments", "Scientific", "Games")),
        ("Pixel200K", "model not recorded"),
        ("Pixel200K", "SASRec × BERT"),
    }
    for one in results:
        unsaid = [words for name, words in PROTOCOL_FACTS.items() if one.protocol[name] is None]
        said = [sentence for sentence in one.differences if sentence.startswith("Not known: ")]
        assert said == ([f"Not known: {', '.join(unsaid)}"] if unsaid else []), one
        if one.model is None:
            assert "was not written down" in one.remarks


def test_only_compared_cuts_count_as_the_same_data():
    """Of a protocol's data sets those whose sequences were compared; of these only the whole cut, ranked in full."""
    results = load_published()
    assert {one.dataset for one in results if one.same_targets} == {"Amazon_Beauty", "Amazon_Sports"}
    assert {one.name for one in published_results("Amazon_Beauty") if one.same_targets} >= {"BSARec", "FEARec"}
    protocol = {"ranking": "full: every item", "num_users": 35_598, "num_candidates": 18_357}
    on = [one for one in published_results("Amazon_Sports") if one.is_on(protocol)]
    assert {one.name for one in on} == {
        "ICSRec, SASRec",
        "ICSRec, GRU4Rec",
        "SASRec, sampled softmax",
        "eSASRec",
        "HSTU",
        "FuXi-α",
    }
    for change in ({"num_users": 35_597}, {"num_candidates": 100}, {"ranking": "100 candidates"}):
        assert not any(one.is_on({**protocol, **change}) for one in results)


@pytest.mark.parametrize("dataset", NINEREC_TARGETS)
def test_each_target_of_ninerec_has_the_whole_of_table_2(dataset):
    table = [one for one in published_results(dataset) if one.where.startswith("Table 2 ")]
    assert len(table) == 4 + 2 * 4 * 2
    assert all(one.metrics.keys() == {"hr@10", "ndcg@10"} for one in table)


def test_best_is_of_the_asked_kind():
    assert best_published("Amazon_Beauty").name == "BSARec"
    assert best_published("Amazon_Beauty", "ndcg@10").metrics["ndcg@10"] == 0.0611
    assert best_published("Amazon_Sports", same_targets=True).name == "SASRec, sampled softmax"
    assert best_published("Amazon_Toys", same_targets=True) is None  # whose sequences nobody has compared
    assert best_published("Bili_Food", modality="image").name == "BERT4Rec × Swin-B"
    assert best_published("Amazon_Beauty", "coverage") is None
    assert best_published("my_shop") is None


def _change(change) -> dict:
    content = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    content["tables"] = content["tables"][:1]
    change(content["tables"][0])
    return content


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table["rows"][0]["hr@10"].pop(), "hr@10 has 8 numbers for 9 data sets"),
        (lambda table: table["rows"][0].update({"hr@10": [218.09] * 9}), "not a fraction"),
        (lambda table: table["rows"][0].update({"hit": [1.0] * 9}), "neither a field nor a metric"),
        (lambda table: table["rows"][0].update(setting="NotPT"), "setting is one of"),
        (lambda table: table.update(run_by="me"), "run_by is one of"),
        (lambda table: table.update(unit="permille"), "unit is one of"),
        (lambda table: table["rows"].append(table["rows"][0]), "row 'SASRec' stands there twice for Bili_Food"),
        (lambda table: table["rows"].append({"model": "x", "setting": None}), "there is no metric"),
        (lambda table: table.update(source="nowhere"), "not a file of published numbers"),
    ],
)
def test_a_malformed_file_is_refused_with_its_place(tmp_path, change, problem):
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(_change(change)))
    with pytest.raises(ValueError, match=problem) as error:
        load_published(file)
    assert "numbers.json" in str(error.value)
