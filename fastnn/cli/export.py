"""`fastnn export`: a model file for use without fastnn."""

from __future__ import annotations

import argparse
import os

import fastnn as fn

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Write the files and print their names."""
    model = fn.load(arguments.model)
    if isinstance(model, fn.Ensemble):
        raise ValueError(f"{arguments.model} is an ensemble; export each of its models")
    output = arguments.output
    if output is None:
        output = f"{os.path.splitext(arguments.model)[0]}.{arguments.to}"
    if arguments.to == "onnx":
        from .. import onnx

        onnx.export(model, output)
        print(output)
        return 0
    for path in fn.to_c(model, output, arguments.name, target=arguments.target):
        print(path)
    return 0
