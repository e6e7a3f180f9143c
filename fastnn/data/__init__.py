"""Data from outside: tables and the recipe that turns them into a matrix, IDX files, labels, splits.

Tables are CSV files, pandas and polars DataFrames, pyarrow Tables, dicts of arrays and structured arrays;
the same values give the same matrix whichever they come in. None of these libraries is imported: CSV is
read with the standard library, so results never depend on what is installed.

>>> from fastnn import data
>>> recipe = data.Recipe.fit({"size": [1.0, 2.0, 4.0], "sold": ["yes", "no", "no"]}, target="sold")
>>> x, y = recipe.arrays({"size": [3.0], "sold": ["no"]})
>>> y.tolist(), recipe.target.classes
([0], ('no', 'yes'))
"""

from .columns import Kind
from .encoders import ONE_HOT_CATEGORIES
from .idx import read_idx
from .recipe import Recipe
from .source import Source
from .splits import encode_labels, fold_rows, split, split_rows
from .tables import Table, is_table, read_table
from .target import CLASS_COUNT, Target

__all__ = [
    "CLASS_COUNT",
    "ONE_HOT_CATEGORIES",
    "Kind",
    "Recipe",
    "Source",
    "Table",
    "Target",
    "encode_labels",
    "fold_rows",
    "is_table",
    "read_idx",
    "read_table",
    "split",
    "split_rows",
]
