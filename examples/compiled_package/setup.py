"""Two extension modules, in Cython and in plain C. Nothing of fastnn is linked: headers are all they need."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastnn


def extension(name, source):
    return Extension(f"fastnn_example.{name}", [source], include_dirs=[fastnn.get_include()])


# Cython finds fastnn/c_api.pxd where Python finds fastnn.
modules = cythonize([extension("perceptron", "fastnn_example/perceptron.pyx")], language_level=3)
setup(ext_modules=[*modules, extension("plain", "fastnn_example/plain.c")])
