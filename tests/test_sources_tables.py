"""CSV and Parquet as sources: matrix and recipe of a table in memory, one conversion, errors with a place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn.data import Recipe, Source, source_tables

pa = pytest.importorskip("pyarrow")
N = 400


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a test's tables have several."""
    monkeypatch.setattr(source_tables, "_READ_BYTES", 5000)
    monkeypatch.setattr(source_tables, "_READ_ROWS", 70)
    monkeypatch.setattr(source_tables, "_WRITE_ROWS", 90)


def columns() -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    size = rng.standard_normal(N) * 10
    return {
        "id": [f"a{i}" for i in range(N)],
        "size": [None if i % 17 == 3 else round(float(v), 6) for i, v in enumerate(size)],
        "empty_at_first": [None if i < 120 else float(i % 7) for i in range(N)],
        "town": [("Ulm", "Bonn", "Köln, am Rhein", None)[i % 4] for i in range(N)],
        "open": [("yes", "no", "Yes")[i % 3] for i in range(N)],
        "day": [f"2024-0{1 + i % 9}-1{i % 10}" for i in range(N)],
        "constant": [5] * N,
        "price": [None if i % 50 == 7 else round(float(3 * v + i % 3), 4) for i, v in enumerate(size)],
        "sold": [("no", "maybe", "yes")[int(v > -3) + int(v > 3)] for v in size],
    }


def text(table: dict[str, list[Any]], delimiter: str = ",", comma: str = ".") -> str:
    lines = [delimiter.join(table)]
    for row in zip(*table.values(), strict=True):
        fields = []
        for value in row:
            field = (
                "" if value is None else str(value).replace(".", comma if isinstance(value, float) else ".")
            )
            fields.append(f'"{field}"' if delimiter in field else field)
        lines.append(delimiter.join(fields))
    return "\n".join(lines) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(text(columns()), encoding="utf-8")
    return tmp_path / "t.csv"


def arrays(source: Source) -> tuple[Any, Any]:
    return np.load(source._reader.x[0].name), np.load(source._reader.y[0].name)


@pytest.mark.parametrize("target", ["price", "sold"])
def test_the_rows_and_the_recipe_are_those_of_the_table_in_memory(path: Path, target: str) -> None:
    recipe = Recipe.fit(path, target, drop=["constant"])
    x, y = recipe.arrays(path)
    source = Source.csv(path, target, drop=["constant"])
    assert source.recipe == recipe
    found_x, found_y = arrays(source)
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, y.astype(found_y.dtype))
    assert source.n_rows == len(x) == (N if target == "sold" else N - 8)


def test_parquet_compressed_and_decimal_commas_give_the_same(path: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    x, y = arrays(Source.csv(path, "sold"))
    whole = pa.table({k: pa.array([None if v is None else v for v in c]) for k, c in columns().items()})
    pq.write_table(whole, tmp_path / "t.parquet", row_group_size=110)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "semicolons.csv").write_text(text(columns(), ";", ","), encoding="utf-8")
    halves = []
    for i, rows in enumerate((slice(0, 150), slice(150, N))):
        halves.append(tmp_path / f"half{i}.csv")
        halves[i].write_text(text({k: c[rows] for k, c in columns().items()}), encoding="utf-8")
    for source in (
        Source.parquet(tmp_path / "t.parquet", "sold"),
        Source.csv(tmp_path / "t.csv.gz", "sold"),
        Source.csv(tmp_path / "semicolons.csv", "sold"),
        Source.csv(halves, "sold", cache=tmp_path / "both"),
    ):
        np.testing.assert_array_equal(arrays(source)[0], x)
        np.testing.assert_array_equal(arrays(source)[1], y)


def test_a_gzip_file_that_was_cut_off_is_named(path: Path, tmp_path: Path) -> None:
    whole = gzip.compress(path.read_bytes())
    for n in (20, len(whole) // 2, len(whole) - 4):
        (tmp_path / "cut.csv.gz").write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"cut\.csv\.gz must be a gzip file, got a broken one"):
            Source.csv(tmp_path / "cut.csv.gz", "sold")
    (tmp_path / "cut.csv.gz").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"cut\.csv\.gz must be a gzip file, got a broken one"):
        Source.csv(tmp_path / "cut.csv.gz", "sold")


def test_a_training_from_a_file_is_that_from_its_arrays(path: Path) -> None:
    recipe = Recipe.fit(path, "sold")
    x, y = recipe.arrays(path)

    def fitted(*data: Any) -> Any:
        trainer = fn.Trainer(fn.Sequential(fn.Dense(8, "relu"), fn.Dense(3)), "cross_entropy", "adam", seed=0)
        trainer.fit(*data, epochs=2)
        return trainer.model.parameters

    np.testing.assert_array_equal(fitted(Source.csv(path, "sold")), fitted(x, y))


def test_it_is_converted_once_and_again_where_something_has_changed(path: Path, capsys: Any) -> None:
    def is_made(**more: Any) -> bool:
        Source.csv(path, "sold", progress=True, **more)
        return "the cache is written" in capsys.readouterr().err

    assert is_made()
    assert not is_made()
    assert is_made(drop=["id"])
    assert is_made()
    path.write_text(text({k: c[:300] for k, c in columns().items()}), encoding="utf-8")
    assert is_made()
    assert Source.shards(f"{path}.fastnn").n_rows == 300
    assert sorted(os.listdir(path.parent)) == ["t.csv", "t.csv.fastnn"]
    assert sorted(os.listdir(f"{path}.fastnn")) == ["source.json", "x.npy", "y.npy"]


def test_other_files_are_converted_by_the_same_recipe(path: Path, tmp_path: Path) -> None:
    source = Source.csv(path, "price", scale_target=True)
    table = {k: c[5:40] for k, c in columns().items()}
    (tmp_path / "held.csv").write_text(text(table), encoding="utf-8")
    held = Source.csv(tmp_path / "held.csv", "price", recipe=source.recipe, scale_target=True)
    x, y = source.recipe.arrays(tmp_path / "held.csv")
    np.testing.assert_array_equal(arrays(held)[0], x)
    target = source.recipe.target
    np.testing.assert_array_equal(arrays(held)[1], ((y - target.mean) / target.scale).astype(np.float32))
    trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), "mse", "adam", seed=0)
    assert len(trainer.fit(source, validation_data=held)["val_loss"]) == 1
    with pytest.raises(ValueError, match="target must be the recipe's, 'price', got 'sold'"):
        Source.csv(path, "sold", recipe=source.recipe)


def test_a_column_of_weights(path: Path) -> None:
    table = {**columns(), "w": [i % 5 for i in range(N)]}
    path.write_text(text(table), encoding="utf-8")
    source = Source.csv(path, "sold", sample_weight="w")
    np.testing.assert_array_equal(np.load(source._reader.weight[0].name), np.arange(N) % 5)
    assert "w" not in source.recipe.columns
    table["w"][333] = -1
    path.write_text(text(table), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"sample_weight 'w' must be finite.*-1.0 in row 334 below the header of"
    ):
        Source.csv(path, "sold", sample_weight="w")


# ---------------------------------------------------------------- what goes wrong


def nothing_is_left(path: Path) -> bool:
    return sorted(os.listdir(path.parent)) == ["t.csv"]


def test_a_line_with_too_few_fields_is_named(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[321] = "a,b,c"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line of .*t\.csv must have 9 fields.*got 3 in line 322: 'a,b,c'"):
        Source.csv(path, "sold")
    assert nothing_is_left(path)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("size", "12cm", "numbers"), ("day", "tomorrow", "dates"), ("open", "perhaps", "yes or no")],
)
def test_a_value_of_another_kind_is_named_by_file_row_and_column(
    path: Path, name: str, value: str, wanted: str
) -> None:
    table = columns()
    table[name][390] = value
    path.write_text(text(table), encoding="utf-8")
    with pytest.raises(
        ValueError,
        match=rf"column '{name}' must hold {wanted}, got '{value}' in row 391 below the header of .*t\.csv; "
        rf"the first rows decided on .*kinds=\{{'{name}': 'category'\}} takes all values as texts",
    ):
        Source.csv(path, "sold")
    assert nothing_is_left(path)
    source = Source.csv(path, "sold", kinds={name: "category"})
    want = Recipe.fit(path, "sold", kinds={name: "category"})
    assert source.recipe == want
    np.testing.assert_array_equal(arrays(source)[0], want.matrix(path))


def test_files_with_other_columns_are_refused(path: Path, tmp_path: Path) -> None:
    table = columns()
    table["length"] = table.pop("size")
    other = tmp_path / "other.csv"
    other.write_text(text(table), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"other\.csv must have the columns of .*t\.csv: it lacks \['size'\]"
    ):
        Source.csv([path, other], "sold")
    with pytest.raises(ValueError, match=r"the table must have the columns 'solt'; .*did you mean 'sold'"):
        Source.csv(path, "solt")
    (tmp_path / "other.csv").unlink()
    assert nothing_is_left(path)


def test_a_folder_with_other_files_is_not_overwritten(path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"cache must be a folder of its own, got .*mine"):
        Source.csv(path, "sold", cache=tmp_path / "mine")
    for wrong in (b"", b"\xff\xfe\x00"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"t\.csv must "):
            Source.csv(path, "sold")


FULL = """
import resource, sys
from fastnn.data import Source
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    Source.csv(sys.argv[1], "sold")
except OSError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing_behind(path: Path) -> None:
    many = {k: c * 20 for k, c in columns().items()}
    path.write_text(text(many), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert f"the cache cannot be written: File too large: '{path}.fastnn'" in done.stdout, done.stderr
    assert nothing_is_left(path)


def test_what_a_killed_conversion_left_is_removed(path: Path) -> None:
    left = path.parent / f".t.csv.fastnn.{'0' * 16}.tmp"
    left.mkdir()
    (left / "column-0").write_bytes(b"x")
    Source.csv(path, "sold")
    assert not left.exists()


def test_a_broken_list_is_told(path: Path) -> None:
    folder = Path(f"{path}.fastnn")
    Source.csv(path, "sold")
    found = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps({**found, "rows": 7}))
    with pytest.raises(fn.FormatError, match=r"must have 7 rows as source.json says, got 400"):
        Source.shards(folder)
    (folder / "source.json").write_text("{")
    with pytest.raises(fn.FormatError, match="must be JSON"):
        Source.shards(folder)


def test_what_is_no_path_is_named(path: Path) -> None:
    for table, name in (({"a": [1]}, "dict"), (pa.table({"a": [1]}), "Table"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"paths must be a path or a list of paths, got {name}"):
            Source.csv(table, "a")
    given = list(arrays(Source.csv([path, path], "sold")))
    for paths in ((one for one in (path, path)), np.array([str(path)] * 2)):
        for one, want in zip(arrays(Source.csv(paths, "sold")), given, strict=True):
            np.testing.assert_array_equal(one, want)
    with pytest.raises(TypeError, match=r"paths\[0\] must be a path, got 1"):
        Source.csv([1], "a")
