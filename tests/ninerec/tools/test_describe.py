"""`modeling_transrec.ninerec.describe` on a small folder whose figures are counted by hand."""

import json
import zipfile

import pytest
from PIL import Image

from modeling_transrec.ninerec.tools import describe
from modeling_transrec.ninerec.tools.describe import PAPER, main, statistics


@pytest.fixture
def folder(tmp_path):
    """3 users with 1, 3 and 6 interactions on 5 items, one of them on an item that is not in the table."""
    write(
        tmp_path / "KU_item.csv",
        'a,红 蓝绳,red rope\nb,鞋,"shoe,  lamp x"\nc,,\nd,,x\ne,灯,lamp\nunused,长长长长长,one two three four\n',
    )
    interactions = ["ua", "va", "va", "vb", "wa", "wb", "wc", "wd", "we", "wa", "w?"]
    write(tmp_path / "KU_pair.csv", "".join(f"{u},{i},{100 + t}\n" for t, (u, i) in enumerate(interactions)))
    (tmp_path / "KU_cover").mkdir()
    for name, size in {"a": (36, 64), "b": (36, 64), "c": (20, 10), "unused": (9, 9)}.items():
        Image.new("RGB", size).save(tmp_path / "KU_cover" / f"{name}.jpg")
    write(tmp_path / "KU_cover" / "d.jpg", "no picture")
    return tmp_path


def write(path, content):
    path.write_text(content, encoding="utf-8")


def test_statistics(folder):
    found = statistics("KU", folder)
    assert found.pop("paper") == PAPER["KU"]
    assert found == {
        "name": "KU",
        "users": 3,
        "items": 5,
        "interactions": 10,
        "sparsity": pytest.approx(100 / 3),
        "text_zh_length": pytest.approx((3 + 1 + 1) / 3),
        "text_en_length": pytest.approx((2 + 3 + 1 + 1) / 4),
        "covers": 3,
        "unreadable_covers": 1,
        "resolution": "36x64",
        "resolution_share": pytest.approx(2 / 3),
        "median_resolution": "36x64",
        "items_in_table": 6,
        "interactions_per_user": {"min": 1, "median": 3.0, "mean": pytest.approx(10 / 3), "max": 6},
        "timestamps": {"first": 100, "last": 109},
        "share_of_top": {"1%": 0.5, "20%": 0.5},  # item a
        "differs": ["users", "items", "interactions", "sparsity", "resolution", "text_zh_length", "text_en_length"],
    }


def test_covers_in_several_archives(folder):
    expected = statistics("KU", folder)
    for number, path in enumerate(sorted((folder / "KU_cover").iterdir())):
        with zipfile.ZipFile(folder / f"part-{number % 2}.zip", "a") as archive:
            archive.write(path, f"KU_cover/{path.name}")
        path.unlink()
    (folder / "KU_cover").rmdir()
    assert statistics("KU", folder) == expected


def test_what_agrees_with_the_paper_is_not_marked(folder, monkeypatch, capsys):
    paper = {"users": 3, "items": 5, "interactions": 11, "sparsity": 33.33, "resolution": "36x64"}
    paper |= {"text_zh_length": 1.67, "text_en_length": 1.75}
    monkeypatch.setitem(PAPER, "KU", paper)
    assert statistics("KU", folder)["differs"] == ["interactions"]
    assert main(["--data_dir", str(folder)]) == 0
    header, ours, theirs, _, *notes = capsys.readouterr().out.splitlines()
    assert ours.split()[:6] == ["KU", "3", "5", "10", "≠", "33.33"] and ours.count("≠") == 1
    assert theirs.split()[:4] == ["paper", "3", "5", "11"]
    assert header.index("resolution") + len("resolution") == ours.index("36x64") + len("36x64")
    assert notes == [
        "KU: items of the table without an interaction: 1",
        "KU: items without a readable cover: 2",
        "KU: 67 % of the covers are of 36x64; median width x height 36x64",
        "KU: interactions is 10, -9.09 % from the paper's 11",
    ]


def test_derived_data_sets_are_filtered(folder, monkeypatch):
    """As `load_dataset` makes them; their figures in the paper are rounded."""
    monkeypatch.setitem(describe.DERIVED, "Bili_warm20", ("KU", {"min_actions": 2, "min_item_actions": 2}))
    found = statistics("Bili_warm20", folder)
    assert (found["users"], found["items"], found["interactions"]) == (2, 2, 6)
    monkeypatch.setitem(PAPER, "Bili_warm20", {"users": 50, "items": 60, "interactions": 40_000})
    assert statistics("Bili_warm20", folder)["differs"] == ["items"]


def test_json_and_errors(folder, capsys):
    assert main(["KU", "--data_dir", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["interactions"] == 10
    assert main(["TN", "--data_dir", str(folder)]) == 1
    assert "No TN_item.csv under" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--data_dir", str(folder / "KU_cover")])
    assert "no data set under" in capsys.readouterr().err


def test_the_embedded_sample_needs_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.delenv("NINEREC_DATA_DIR", raising=False)
    assert main(["Sample_Target", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["users"] == 800
    assert main(["KU"]) == 1
    assert "Where is the data of 'KU'?" in capsys.readouterr().err


def test_without_timestamps_texts_and_covers(tmp_path):
    write(tmp_path / "X_item.csv", "a,,\nb,,\n")
    write(tmp_path / "X_behaviour.tsv", "u\ta b a\n")
    found = statistics("X", tmp_path)
    assert (found["paper"], found["differs"], found["timestamps"], found["covers"]) == (None, [], None, 0)
    assert found["text_en_length"] is found["resolution"] is None
    assert found["interactions"] == 3
    assert describe.as_table([found]).splitlines()[1].split()[:4] == ["X", "1", "2", "3"]


def test_leakage_is_said_where_there_are_times(folder, tmp_path, capsys):
    rows = [
        f"{user},{item},{100 * number + place}"
        for number, user in enumerate("vw")
        for place, item in enumerate("abcde")
    ]
    write(folder / "KU_pair.csv", "\n".join([*rows, "u,a,1"]) + "\n")  # of too few interactions
    found = statistics("KU", folder, with_leakage=True)["leakage"]
    assert found["leave_one_out"]["targets"] == 2 and found["leave_one_out"]["later_training"] == 0.5
    assert main(["KU", "--data_dir", str(folder), "--leakage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "KU, leave-one-out: 50.0 % of 2 targets are earlier than training interactions of other users" in lines[-2]
    assert lines[-1].startswith("KU, random: ") and "80.0 % are earlier than the last item of their own" in lines[-1]
    write(folder / "KU_pair.csv", "\n".join([*rows[:5], "w,a,1"]) + "\n")
    assert main(["KU", "--data_dir", str(folder), "--leakage"]) == 1
    assert "there are 1 users; lower min_actions" in capsys.readouterr().err
    write(tmp_path / "X_item.csv", "a,,\n")
    write(tmp_path / "X_behaviour.tsv", "u\ta a a a a\n")
    assert main(["X", "--data_dir", str(tmp_path), "--leakage"]) == 0
    assert "X: leakage is not known, as the interactions have no timestamps" in capsys.readouterr().out
