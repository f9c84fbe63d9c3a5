import threading
import time

import pytest

from infra.processes.stopping import WorkStopped, at_work, stop_here


def test_the_threads_of_a_stopped_run_are_interrupted_and_others_go_on() -> None:
    seen: dict[str, str] = {}
    over = threading.Event()

    def work(run_id: str) -> None:
        try:
            with at_work(run_id):
                while not over.wait(0.01):
                    pass
            seen[run_id] = "done"
        except WorkStopped:
            seen[run_id] = "stopped"

    threads = [threading.Thread(target=work, args=(run_id,)) for run_id in ("one", "two")]
    for thread in threads:
        thread.start()
    while stop_here("one") == 0:
        time.sleep(0.01)
    threads[0].join(5)
    assert seen == {"one": "stopped"}
    with pytest.raises(WorkStopped), at_work("one"):
        pass
    over.set()
    threads[1].join(5)
    assert seen["two"] == "done"


def test_work_inside_work_is_known_until_the_outer_one_ends() -> None:
    with at_work("outer"), at_work("inner"):
        pass
    assert stop_here("outer") == stop_here("inner") == 0
