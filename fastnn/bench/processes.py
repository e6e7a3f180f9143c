"""The parent's side: a process for each peer and number of threads, woken by turns through pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..demo import BLAS_CAPS

__all__ = ["TIMED_OUT", "TIMEOUT", "PeerError", "Worker", "environment"]

# Seconds that one answer may take: a compiler's work on a large network is among them. A round takes tenths.
TIMEOUT = 300.0
# Seconds from the end of a run to that of its peers' processes; those that hang are ended.
END_LIMIT = 10.0
# What the message of a peer begins with that took longer.
TIMED_OUT = "timed out"

# What the libraries read their number of threads from when they are loaded.
THREADS_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "FASTNN_NUM_THREADS",
)
# Threads of a pool look for work for some time after a call (OpenBLAS 20 ms, others up to 200): the next turn
# begins when the last process has used no more than this share of a core over so many seconds.
ASLEEP_SHARE, ASLEEP_SECONDS, ASLEEP_LIMIT = 0.02, 0.004, 2.0
# Where the system does not tell the CPU time of another process.
BLIND_PAUSE = 0.25


class PeerError(RuntimeError):
    """A peer that could not do what it was asked for; the text says what it said."""


def environment(threads: int) -> dict[str, str]:
    """Of a peer's process: its threads, and no caps that would slow NumPy."""
    kept = {name: value for name, value in os.environ.items() if name not in BLAS_CAPS}
    return {**kept, **dict.fromkeys(THREADS_VARIABLES, str(threads)), "JAX_PLATFORMS": "cpu"}


class Worker:
    """One process of a peer.

    Parameters
    ----------
    key : str
        Of the peer.
    threads : int
    root : Path, optional
        Folder of the package `fastnn` that it imports: another checkout's. Default: the one that asks.
    timeout : float
        Seconds from a command to its answer; the process of a peer that takes longer is ended.
    """

    def __init__(self, key: str, threads: int, root: Path | None = None, timeout: float = TIMEOUT) -> None:
        self.key, self.threads, self._root, self._timeout = key, threads, root, timeout
        self._start()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  closed with the worker
        self._read, self._deadline, self._hung = b"", time.monotonic() + self._timeout, False
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self._environment(),
            cwd=self._root,  # stands before PYTHONPATH in what a module is looked for in
            preexec_fn=self._bind if self.threads == 1 else None,
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "fastnn.bench.worker", self.key, str(self.threads)]

    def revive(self) -> None:
        """Start the process again where it ended: what one cell broke is no reason to lack in the next."""
        if self._process.poll() is not None:
            self.close()
            self._start()

    def _environment(self) -> dict[str, str]:
        found = environment(self.threads)
        # The package may be used where it lies: the child must import this one and no other.
        root = str(self._root or Path(__file__).parents[2])
        found["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [found.get("PYTHONPATH")])])
        return found

    def _bind(self) -> None:
        """One core for one thread: JAX takes its number of threads from the affinity alone."""
        if self.key == "jax" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    def send(self, do: str, **command: Any) -> None:
        """Give a command; `answer` waits for what comes back."""
        assert self._process.stdin is not None
        self._deadline = time.monotonic() + self._timeout
        try:
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words()) from None

    def answer(self) -> Any:
        """What came back.

        Raises
        ------
        PeerError
            The peer raised, its process ended, or it took longer than the timeout, and was ended.
        """
        line = self._line()
        if not line:
            raise PeerError(self._last_words())
        found = json.loads(line)
        if "failed" in found:
            raise PeerError(found["failed"])
        return found["done"]

    def _line(self) -> bytes:
        """The next line that it writes; nothing where it has ended."""
        assert self._process.stdout is not None
        if self._hung:  # what it may have said just before it was ended answers another question
            return b""
        answers = self._process.stdout.fileno()
        while b"\n" not in self._read:
            left = min(max(0.0, self._deadline - time.monotonic()), 1e8)  # the system has an end of time
            if not select.select([answers], [], [], left)[0]:
                self._hung = True
                self._process.kill()
                self._process.wait()
                raise PeerError(f"{TIMED_OUT} after {self._timeout:g} s")
            some = os.read(answers, 65536)
            if not some:
                return b""
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        return line

    def ask(self, do: str, **command: Any) -> Any:
        """Give a command and wait."""
        self.send(do, **command)
        return self.answer()

    def _last_words(self) -> str:
        if self._hung:
            return f"{TIMED_OUT} in another of its ways"
        status = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")

    def wait_asleep(self) -> bool:
        """Wait until no thread of the process runs any more; False where one keeps on."""
        end = time.perf_counter() + ASLEEP_LIMIT
        before = self.scheduled()
        if before is None:
            time.sleep(BLIND_PAUSE)
            return True
        while time.perf_counter() < end:
            time.sleep(ASLEEP_SECONDS)
            now = self.scheduled()
            if now is None or now[0] - before[0] <= ASLEEP_SHARE * ASLEEP_SECONDS:
                return True
            before = now
        return False

    def scheduled(self) -> tuple[float, float] | None:
        """Seconds that the process's threads ran, and waited for a processor; None where nobody tells."""
        ran = waited = 0
        try:
            for task in Path(f"/proc/{self._process.pid}/task").iterdir():
                words = (task / "schedstat").read_text().split()
                ran, waited = ran + int(words[0]), waited + int(words[1])
        except (OSError, ValueError, IndexError):
            return None
        return ran / 1e9, waited / 1e9

    def let_go(self) -> None:
        """Have it end by itself; `close` waits for that."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # a command that it died before
                self._process.stdin.close()
        self._deadline = time.monotonic() + END_LIMIT

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is None or not self._process.stdin.closed:
            self.let_go()
        try:
            self._process.wait(timeout=max(0.0, self._deadline - time.monotonic()))
        except BaseException as error:  # it hangs, or Ctrl-C by someone who will not wait for it
            self._process.kill()
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._log.close()
