"""Tiny cells, and a peer without a process, for the tests of `fastnn bench`."""

from fastnn.bench import cells

TINY = cells.Cell("train", (4, 6, 3), 5)
TINY_VALUES = cells.Cell("train", (7, 20, 1), 4)
TINY_PREDICT = cells.Cell("predict", (4, 20, 3), 5)


class FakeWorker:
    """A peer in this process: its errors and seconds are given, what it is asked is noted."""

    def __init__(self, key, threads=1, error=0.0, seconds=1.0, log=None):
        self.key, self.threads, self.error, self.seconds = key, threads, error, seconds
        self.log = [] if log is None else log

    def ask(self, do, **command):
        self.send(do, **command)
        return self.answer()

    def send(self, do, **command):
        self.log.append((self.key, do))
        answers = {
            "ways": ["way"],
            "make": {"error": self.error},
            "calls": {"calls": 1},
            "sample": {"wall": self.seconds, "cpu": self.seconds, "calls": 1},
            "peak": 1e9,
            "drop": {"finite": True},
        }
        self._answer = answers[do]

    def answer(self):
        return self._answer

    def revive(self):
        pass

    def wait_asleep(self):
        return True

    def scheduled(self):
        return None
