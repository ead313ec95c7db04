import multiprocessing
import os

from modeling_transrec.evaluation.ranks import check_same_on_all, of_main_process

from ..tiny import make_sequences


def on_rank(rank, port, results, items):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    from accelerate import PartialState

    from modeling_transrec import FullRankingEvaluator

    PartialState._reset_state()  # of the process that this one was forked from
    state, found = PartialState(cpu=True), []

    def refuse():
        raise FileExistsError("there is one")

    users = make_sequences(items, 9, "validation")
    actions = [
        lambda: of_main_process(lambda: state.process_index),
        lambda: of_main_process(refuse),
        lambda: check_same_on_all({"seed": 1, "items": "a"}, "training"),
        lambda: check_same_on_all({"seed": rank, "items": "a"}, "training"),
        lambda: FullRankingEvaluator(items, users.select(range(8 + rank))).evaluate(lambda *given: None),
        lambda: FullRankingEvaluator(items, users.select([1, 0] if rank else [0, 1])).evaluate(lambda *given: None),
    ]
    for action in actions:
        try:
            found.append(action())
        except (OSError, ValueError) as error:
            found.append(str(error))
    results.put((rank, found))
    state.destroy_process_group()


def test_two_processes_agree_or_both_say_what_differs(free_port, items):
    context = multiprocessing.get_context("fork")
    results, port = context.Queue(), free_port()
    plain = items.select_columns(["item_id", "text_en"])
    processes = [context.Process(target=on_rank, args=(rank, port, results, plain)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found[0] == found[1]
    main, refused, same, other, fewer, order = found[0]
    assert (main, refused, same) == (0, "there is one", None)
    assert other.startswith("the processes of this training were given different things, and it is not begun")
    assert "on process 1: seed." in other
    assert "on process 1: users, histories." in fewer and "on process 1: users." in order
