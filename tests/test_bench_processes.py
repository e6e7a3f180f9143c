"""Processes of peers in `fastnn bench`: they answer, sleep and end; one that hangs is ended."""

import select
import signal
import subprocess
import sys

import pytest
from bench_stand_ins import TINY, TINY_VALUES, FakeWorker

from fastnn import cli
from fastnn.bench import goals, machine, report, run, turns
from fastnn.bench.processes import TIMEOUT, PeerError, Worker


def test_a_process_answers_sleeps_and_ends():
    process = Worker("own", 1)
    try:
        assert "fastnn" in process.ask("about")["versions"]
        assert process.ask("ways", cell=TINY.to_json()) == ["run"]
        assert process.wait_asleep()
        with pytest.raises(PeerError, match="FileNotFoundError"):
            process.ask("make", cell=TINY.to_json(), way="run", reference="no.npy", name="a")
        process._process.kill()
        with pytest.raises(PeerError, match="its process ended with status -9"):
            process.ask("about")
        process.revive()
        assert "fastnn" in process.ask("about")["versions"]
    finally:
        process.close()


def test_a_peer_without_a_file_is_an_error_of_that_peer():
    process = Worker("nobody", 1)
    try:
        with pytest.raises(PeerError, match="KeyError: 'nobody'"):
            process.ask("about")
    finally:
        process.close()


# ---------------------------------------------------------------- peers that hang


class StandIn(Worker):
    """A process that answers as a peer does, and sleeps at one word and one cell."""

    CODE = """
import json, sys, time
answers = {"ways": ["quick", "slow"], "make": {"error": 0.0}, "calls": {"calls": 1},
           "sample": {"wall": 1.0, "cpu": 1.0, "calls": 1}, "drop": {"finite": True}}
for line in sys.stdin:
    command = json.loads(line)
    words = {command["do"], command.get("way"), *command.get("name", "").split()}
    if set(sys.argv[1:]) <= words:
        time.sleep(60)
    print(json.dumps({"done": answers[command["do"]]}), flush=True)
"""

    def __init__(self, *words: str, timeout: float = 1.0) -> None:
        self.words = words
        super().__init__("numba", 1, timeout=timeout)

    def _command(self) -> list[str]:
        return [sys.executable, "-S", "-c", self.CODE, *self.words]


def test_a_peer_that_hangs_is_ended_and_the_others_go_on():
    process = StandIn("make", "slow", "4-6-3", timeout=0.4)
    try:
        first = process._process
        result, _ = turns.measure(TINY, [FakeWorker("own"), process], turns.QUICK)
        assert first.poll() is not None
        assert set(result.timings) == {"own"}
        assert result.refused == {
            "numba, slow, 1 thread": "timed out after 0.4 s",
            "numba, quick, 1 thread": "timed out in another of its ways",
        }
        row = goals.row_of(result, None)
        other, _ = turns.measure(TINY_VALUES, [FakeWorker("own"), process], turns.QUICK)
        assert set(other.timings) == {"own", "numba"}  # it hangs in that cell alone
        assert other.refused == {}
    finally:
        process.close()
    rows = [goals.row_of(other, None), row]
    plan, where = vars(turns.QUICK), machine.machine()
    facts = {"command": "", "machine": where, "peers": {}, "left_out": {}, "plan": plan}
    table = report.markdown(report.content("train", rows, facts))
    assert "| timed out |" in table
    assert "4-6-3 b5, numba, slow, 1 thread: timed out after 0.4 s" in table


def test_a_peer_that_hangs_in_a_round_is_ended():
    process = StandIn("sample", timeout=0.3)
    try:
        refused: dict[str, str] = {}
        contenders = {
            "own": turns.Contender(FakeWorker("own"), "way", "a"),
            "numba": turns.Contender(process, "quick", "a"),
        }
        assert list(turns.rounds(contenders, 3, refused)) == ["own"]
        assert refused == {"numba, quick, 1 thread": "timed out after 0.3 s"}
        assert process._process.poll() is not None
    finally:
        process.close()


def test_what_a_peer_said_before_it_was_ended_answers_nothing_else():
    process = StandIn("sample", timeout=0.3)
    try:
        process.send("drop")
        assert select.select([process._process.stdout], [], [], 60)[0]
        process._hung = True  # as if the answer had come too late
        process._process.kill()
        process._process.wait()
        with pytest.raises(PeerError, match="timed out in another of its ways"):
            process.ask("drop")
    finally:
        process.close()


def test_a_peer_may_be_given_all_the_time_there_is():
    process = StandIn("sample", timeout=1e300)
    try:
        assert process.ask("drop") == {"finite": True}
    finally:
        process.close()


def test_ctrl_c_while_hung_peers_are_waited_for_leaves_no_process(monkeypatch):
    monkeypatch.setattr(run, "Worker", lambda key, n, timeout: StandIn("make", timeout=timeout))
    monkeypatch.setattr("fastnn.bench.processes.END_LIMIT", 0.2)

    processes = []

    def interrupted(*given, **more):
        monkeypatch.undo()
        raise KeyboardInterrupt

    def use():
        with run._workers(["numba"], [1, 2], TIMEOUT) as workers:
            for worker in workers:
                processes.append(worker._process)
                worker.send("make")
            monkeypatch.setattr(subprocess.Popen, "wait", interrupted)

    with pytest.raises(KeyboardInterrupt):
        use()
    assert [process.poll() for process in processes] == [-signal.SIGKILL] * 2


def test_the_limit_of_peers_is_an_option(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "main", lambda choice, as_json: seen.append(choice.peer_timeout) or 0)
    assert cli.main(["bench", "--quick"]) == cli.main(["bench", "--peer-timeout", "2.5"]) == 0
    assert seen == [TIMEOUT, 2.5]
    with pytest.raises(SystemExit):
        cli.main(["bench", "--peer-timeout", "0"])
