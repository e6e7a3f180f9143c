"""threadpoolctl and joblib rule the worker pool."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

import fastnn as fn
from fastnn import thread_control


@pytest.fixture(autouse=True)
def three_threads(threads):
    threads(3)


def ours():
    (found,) = (pool for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "fastnn")
    return found


def run(code, **variables):
    """What a fresh process prints, which no variable tells how many threads to use but those given."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_pool_is_listed():
    found = ours()
    assert found["user_api"] == "fastnn"
    assert found["num_threads"] == 3
    assert found["version"] == fn.__version__
    assert os.path.samefile(found["filepath"], fn.kernels.__file__)


def test_a_limit_holds_for_its_block_and_the_number_before_comes_back():
    with threadpoolctl.threadpool_limits(1):
        assert fn.get_num_threads() == ours()["num_threads"] == 1
        with threadpoolctl.threadpool_limits(2):
            assert fn.get_num_threads() == 2
        assert fn.get_num_threads() == 1
    assert fn.get_num_threads() == 3
    with pytest.raises(KeyError), threadpoolctl.threadpool_limits(limits=1):
        raise KeyError
    assert fn.get_num_threads() == 3


def test_limits_go_by_their_api():
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert fn.get_num_threads() == 3
    with threadpoolctl.threadpool_limits(1, user_api="fastnn"):
        assert fn.get_num_threads() == 1
    with threadpoolctl.threadpool_limits({"fastnn": 2, "blas": 1}):
        assert fn.get_num_threads() == 2
    with threadpoolctl.ThreadpoolController().select(internal_api="fastnn").limit(limits=1):
        assert fn.get_num_threads() == 1
    assert fn.get_num_threads() == 3


def test_a_limit_out_of_range_is_the_nearest_in_range():
    with threadpoolctl.threadpool_limits(10**6, user_api="fastnn"):
        assert fn.get_num_threads() == 256
    with threadpoolctl.threadpool_limits(0, user_api="fastnn"):
        assert fn.get_num_threads() == 1


def test_a_limit_rules_the_next_call():
    a = np.ones((400, 400), np.float32)
    fn.kernels.stop_threads()
    with threadpoolctl.threadpool_limits(1):
        fn.ops.matmul(a, a)
        assert fn.show_config("dict")["threads_started"] == 0
    fn.ops.matmul(a, a)
    assert fn.show_config("dict")["threads_started"] == 2


def test_it_is_registered_once():
    thread_control.watch()
    thread_control.register(threadpoolctl)
    assert threadpoolctl._ALL_INTERNAL_APIS.count("fastnn") == 1
    assert sum(isinstance(finder, thread_control._Finder) for finder in sys.meta_path) == 1


def test_another_module_of_that_name_is_not_taken_for_ours(tmp_path):
    import _ctypes  # any other shared library

    foreign = tmp_path / Path(fn.kernels.__file__).name
    shutil.copy(_ctypes.__file__, foreign)
    ctypes.CDLL(str(foreign))
    parent = threadpoolctl.ThreadpoolController()
    assert threadpoolctl._CDLL_CACHE.create_controller(str(foreign), parent) is None


def test_a_threadpoolctl_that_is_imported_later_knows_the_pool():
    code = """
import sys, fastnn
assert "threadpoolctl" not in sys.modules
import threadpoolctl, inspect
print(*(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "fastnn"))
assert "class ThreadpoolController" in inspect.getsource(threadpoolctl)
with threadpoolctl.threadpool_limits(1):
    print(fastnn.get_num_threads())
print(fastnn.get_num_threads())
"""
    assert run(code, FASTNN_NUM_THREADS="4") == ["4", "1", "4"]


def test_its_command_line_lists_the_pool():
    command = [sys.executable, "-m", "threadpoolctl", "-i", "fastnn"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert [pool["version"] for pool in found if pool["user_api"] == "fastnn"] == [fn.__version__]


def test_a_missing_threadpoolctl_stays_missing():
    code = """
import sys, fastnn
sys.path[:] = [sys.path[0]]
try:
    import threadpoolctl
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(code) == ["threadpoolctl"]


def test_workers_of_joblib_share_the_cores():
    code = """
import joblib
def threads():
    import fastnn
    return fastnn.get_num_threads()
for inner in (1, 3, None):
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=inner):
        print(*joblib.Parallel()(joblib.delayed(threads)() for _ in range(2)))
print(max(1, joblib.cpu_count() // 2))
"""
    *found, share = run(code)
    assert found == ["1", "1", "3", "3", share, share]
