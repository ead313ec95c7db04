import logging
import multiprocessing
import os
import signal
import time

import torch.distributed as dist

from modeling_transrec.training.heartbeat import watched


def on_rank(rank, port, stops, log):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    from accelerate import PartialState

    logging.basicConfig(filename=log, force=True)
    PartialState._reset_state()  # of the process that this one was forked from
    PartialState(cpu=True)
    with watched(1.0), watched(1.0):
        dist.barrier()
        if rank == 1 and stops:
            os.kill(os.getpid(), signal.SIGSTOP)
        if stops:
            dist.barrier()
        elif rank == 0:
            time.sleep(2)  # the other one is done, and need not answer
    dist.barrier()
    os._exit(0)


def exit_codes(port, stops, log):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=on_rank, args=(rank, port, stops, log)) for rank in range(2)]
    for process in processes:
        process.start()
    processes[0].join(timeout=60)
    if stops:
        processes[1].kill()
    processes[1].join()
    return [process.exitcode for process in processes]


def test_a_stopped_process_ends_the_other(free_port, tmp_path):
    assert exit_codes(free_port(), True, tmp_path / "log") == [1, -signal.SIGKILL]
    assert "process 1 has not answered for 1 seconds (--ddp_timeout)" in (tmp_path / "log").read_text()


def test_a_process_that_is_done_ends_nobody(free_port, tmp_path):
    assert exit_codes(free_port(), False, tmp_path / "log") == [0, 0]
