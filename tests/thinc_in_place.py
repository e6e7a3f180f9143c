"""A plugin of pytest: Thinc with our operations wherever it says NumpyOps; counts the calls of kernels.

``python -m pytest -p thinc_in_place --pyargs thinc.tests``; FASTNN_COUNTS names the file for the counts.
"""

import collections
import json
import os

import thinc.backends
from thinc import registry

import fastnn.thinc
from fastnn import kernels

counts = collections.Counter()


class NumpyOps(fastnn.thinc.FastnnOps):
    name = "numpy"


def count(name):
    function = getattr(kernels, name)

    def counted(*arguments):
        counts[name] += 1
        return function(*arguments)

    setattr(kernels, name, counted)


for one in (
    "matmul",
    "activation",
    "activation_and_slope",
    "activation_backward",
    "update",
    "dropout",
    "dot",
    "average",
):
    count(one)

# Before anything else of Thinc is imported: what reads the name later, optimizers included, reads ours.
thinc.backends.NumpyOps = NumpyOps
registry.ops.register("NumpyOps", func=NumpyOps)


def pytest_sessionfinish():
    with open(os.environ["FASTNN_COUNTS"], "w", encoding="utf-8") as file:
        json.dump(counts, file)
