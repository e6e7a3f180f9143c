"""Tables of any origin, splits, labels and IDX files."""

import csv
import gzip
import importlib
import struct
import time

import numpy as np
import pytest

from fastnn import data
from fastnn.errors import FormatError


def csv_file(tmp_path, text, name="table.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def values(column):
    """Plain values of a column, None where one is missing."""
    column = column.inferred()
    if column.kind == "category":
        return [column.texts[i] if i >= 0 else None for i in column.data]
    return [None if v != v else v for v in column.data.tolist()]


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    lines = [["size", "name"], ["1.5", "a b"], ["2", "c"]]
    path = csv_file(tmp_path, "\n".join(delimiter.join(line) for line in lines))
    table = data.read_table(path)
    assert values(table.columns["size"]) == [1.5, 2.0]
    assert values(table.columns["name"]) == ["a b", "c"]


def test_quotes_hold_delimiters_quotes_and_line_ends(tmp_path):
    path = csv_file(tmp_path, 'text;n\r\n"a;""b""\nc";1\r\nd, e;2\r\n')
    table = data.read_table(path)
    assert values(table.columns["text"]) == ['a;"b"\nc', "d, e"]
    assert table.where(1) == f"line 4 of {path}"


def test_byte_order_mark_blanks_and_empty_lines_are_passed_over(tmp_path):
    table = data.read_table(csv_file(tmp_path, "\ufeff size , name\n 1, x \n\n2, y\n"))
    assert list(table.columns) == ["size", "name"]
    assert values(table.columns["name"]) == ["x", "y"]


def test_gzip_is_unpacked(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert values(data.read_table(path).columns["b"]) == [2.0]


def test_decimal_commas_are_understood_beside_semicolons(tmp_path):
    table = data.read_table(csv_file(tmp_path, "a;b\n1,5;x,y\n2;z\n;z\n"))
    assert values(table.columns["a"]) == [1.5, 2.0, None]
    assert values(table.columns["b"]) == ["x,y", "z", "z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "must have 2 fields, as its header has; got 3 in line 3"),
        ("a,b,c\n1,2\n", "must have 3 fields.* got 2 in line 2"),
        ("a,b,a\n1,2,3\n", "name of its own for each column, got 'a' twice"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", "must begin with a header of column names, got the numbers 5.1"),
        ("", "must begin with a header of column names, but it is empty"),
        ('a,b\n1,"2\n', "must be a CSV file, got unexpected end of data"),
    ],
)
def test_broken_files_are_told_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        data.read_table(csv_file(tmp_path, text))


def test_other_encodings_and_broken_gzip_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        data.read_table(csv_file(tmp_path, "name\nMüller\n", encoding="latin-1"))
    path = tmp_path / "broken.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n" * 100)[:20])
    with pytest.raises(ValueError, match="broken"):
        data.read_table(path)


def test_a_table_is_read_in_about_the_time_of_pythons_own_reader(tmp_path, rng):
    """Of CPU time of this process; a look at each cell by itself would take ten times as much."""
    n = 12_000
    numbers = rng.normal(size=(n, 7)).round(2).astype(str)
    names = np.array(["Ideal", "Premium", "Good"])[rng.integers(0, 3, (n, 3))]
    header = ",".join("abcdefghij")
    body = "\n".join(map(",".join, np.hstack([numbers, names])))
    path = csv_file(tmp_path, f"{header}\n{body}\n")

    def by_hand():
        with open(path, newline="", encoding="utf-8") as file:
            _, *rows = csv.reader(file)
        return [np.array(column, float) for column in list(zip(*rows, strict=True))[:7]]

    def cpu_seconds(read):
        begun = time.process_time()
        read()
        return time.process_time() - begun

    assert data.read_table(path).n_rows == n
    taken = [(cpu_seconds(lambda: data.read_table(path)), cpu_seconds(by_hand)) for _ in range(3)]
    ours, theirs = np.min(taken, axis=0)
    assert ours < 6 * theirs


# ---------------------------------------------------------------- other tables


def frames(columns):
    """The same columns as every kind of table that can be made here, by name."""
    made = {
        "dict": {name: np.array(c) if None not in c else c for name, c in columns.items()},
        "lists": columns,
        "structured": np.rec.fromarrays([np.array(c, object) for c in columns.values()], names=list(columns)),
    }
    for library, build in (
        ("pandas", lambda m: m.DataFrame(columns)),
        ("polars", lambda m: m.DataFrame(columns, strict=False)),
        ("pyarrow", lambda m: m.table(columns)),
    ):
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        made[library] = build(module)
        if library == "pandas":
            made["pandas, its own types"] = module.DataFrame(columns).convert_dtypes()
            made["pandas, category"] = module.DataFrame(columns).astype({"text": "category"})
    return made


COLUMNS = {
    "number": [0.25, None, -3.0, 7.5],
    "whole": [3, 1, 2, 2],
    "gaps": [3, None, 2, 2],
    "text": ["a", "b", None, "NA"],
    "flag": [True, False, True, True],
    "flag_gaps": [True, None, False, True],
}


def test_every_kind_of_table_gives_the_same_columns(tmp_path):
    lines = [",".join(COLUMNS)]
    lines += [
        ",".join("" if v is None else str(v) for v in row) for row in zip(*COLUMNS.values(), strict=True)
    ]
    tables = {"csv": csv_file(tmp_path, "\n".join(lines)), **frames(COLUMNS)}
    for name, source in tables.items():
        table = data.read_table(source)
        assert table.n_rows == 4, name
        assert values(table.columns["number"]) == [0.25, None, -3.0, 7.5], name
        assert values(table.columns["whole"]) == [3.0, 1.0, 2.0, 2.0], name
        assert values(table.columns["gaps"]) == [3.0, None, 2.0, 2.0], name
        assert values(table.columns["text"]) == ["a", "b", None, None], name
        assert values(table.columns["flag"]) == [1.0, 0.0, 1.0, 1.0], name
        assert values(table.columns["flag_gaps"]) == [1.0, None, 0.0, 1.0], name
        kinds = [c.inferred().kind for c in table.columns.values()]
        assert kinds == ["number", "number", "number", "category", "boolean", "boolean"], name


def test_dates_of_every_origin_are_the_same_seconds(tmp_path):
    texts = ["2024-02-29", "1969-12-31 18:30", None]
    expected = [19782 * 86400.0, -5.5 * 3600, None]
    stamps = np.array(["2024-02-29", "1969-12-31T18:30", "NaT"], "datetime64[s]")
    sources = {
        "texts": texts,
        "slashes": ["2024/02/29", "1969/12/31 18:30", ""],
        "zones": ["2024-02-29T01:00+01:00", "1969-12-31T18:30Z", None],
        "numpy": stamps,
        "objects": [None if v is None else v for v in stamps.tolist()],
    }
    try:
        import pandas
    except ImportError:
        pass
    else:
        sources["pandas"] = pandas.Series(stamps)
        frame = pandas.DataFrame({"when": pandas.Series(stamps).dt.tz_localize("UTC")})
        zoned = frame.assign(when=frame["when"].dt.tz_convert("Asia/Tokyo"))
        assert values(data.read_table(zoned).columns["when"]) == expected
    for name, source in sources.items():
        assert values(data.read_table({"when": source}).columns["when"]) == expected, name


def test_long_whole_numbers_stay_apart(tmp_path):
    ids = [2**53, 2**53 + 1]
    for source in (csv_file(tmp_path, f"id\n{ids[0]}\n{ids[1]}\n"), {"id": ids}, {"id": np.array(ids)}):
        assert values(data.read_table(source).columns["id"]) == [str(i) for i in ids]


def test_scalars_make_one_row():
    table = data.read_table({"carat": 0.25, "cut": "Ideal"})
    assert table.n_rows == 1
    assert values(table.columns["cut"]) == ["Ideal"]


def test_masked_values_are_missing():
    masked = np.ma.MaskedArray([1.0, 2.0], mask=[False, True])
    assert values(data.read_table({"a": masked}).columns["a"]) == [1.0, None]


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({}, ValueError, "at least one column, got none"),
        ({"a": [1, 2], "b": [1]}, ValueError, "all columns must have one length, got {'a': 2, 'b': 1}"),
        ({"a": np.zeros((2, 2))}, ValueError, r"column 'a' must be 1-D, got shape \(2, 2\)"),
        ({"a": [[1], [2, 3]]}, ValueError, "column 'a' must be an array of one shape"),
        ({"a": np.zeros(2, complex)}, TypeError, "column 'a' must hold numbers, .* got dtype complex128"),
        ({"a": [b"\xff"]}, ValueError, "column 'a' must hold texts in UTF-8"),
        (np.zeros((2, 2)), TypeError, "the table must be the path of a CSV file"),
        (3, TypeError, "got int"),
    ],
)
def test_what_is_no_table_is_refused(table, error, message):
    with pytest.raises(error, match=message):
        data.read_table(table)


# ---------------------------------------------------------------- splits and labels


def test_a_split_is_disjoint_whole_and_the_same_for_a_seed():
    first, second = data.split_rows(1000, 0.2, seed=3)
    assert len(second) == 200
    assert sorted([*first, *second]) == list(range(1000))
    assert np.array_equal(second, data.split_rows(1000, 0.2, seed=3)[1])
    assert not np.array_equal(second, data.split_rows(1000, 0.2, seed=4)[1])


def test_a_stratified_split_gives_each_class_its_share(rng):
    labels = rng.permutation(np.repeat(["a", "b", "c", "d"], [700, 250, 49, 1]))
    first, second = data.split_rows(1000, 0.1, stratify=labels)
    assert len(second) == 100
    counts = {name: int((labels[second] == name).sum()) for name in "abcd"}
    assert counts == {"a": 70, "b": 25, "c": 5, "d": 0}
    assert set(labels[first]) == set("abcd")


def test_split_cuts_all_arrays_alike():
    x, y = np.arange(20).reshape(10, 2), np.arange(10)
    x1, x2, y1, y2 = data.split(x, y, test=0.3)
    assert len(x2) == 3
    assert np.array_equal(x1[:, 0], 2 * y1)
    assert np.array_equal(x2[:, 0], 2 * y2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.split(), "at least one, got none"),
        (lambda: data.split([1, 2], [1]), "one number of rows"),
        (lambda: data.split_rows(1, 0.5), "n_rows must be at least 2, got 1"),
        (lambda: data.split_rows(10, 0.0), "fraction must be above 0"),
        (lambda: data.split_rows(10, 1.0), "fraction must be at least 0 and below 1"),
        (lambda: data.split_rows(3, 0.5, stratify=[0, 1]), r"stratify must have shape \(3,\), got \(2,\)"),
        (lambda: data.split_rows(3, 0.5, stratify=[0, 1, 2]), "a class of two rows"),
        (lambda: data.encode_labels([[1]]), r"1-D, got shape \(1, 1\)"),
        (lambda: data.encode_labels([1.0, float("nan")]), "must not be missing, got nan in row 1"),
    ],
)
def test_senseless_splits_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_of_any_kind_become_codes():
    for labels, classes in (
        (["b", "a", "b"], ["a", "b"]),
        ([7, -1, 7], [-1, 7]),
        ([True, False, True], [False, True]),
    ):
        codes, found = data.encode_labels(labels)
        assert codes.dtype == np.int64
        assert codes.tolist() == [1, 0, 1]
        assert found == classes


# ---------------------------------------------------------------- IDX


def idx_bytes(array, code):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read(tmp_path, code, dtype, pack):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(array, code)))
    found = data.read_idx(path)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.dtype.isnative
    assert np.array_equal(found, array)


def test_broken_idx_files_are_refused(tmp_path):
    good = idx_bytes(np.zeros((2, 3), ">u1"), 8)
    path = tmp_path / "file"
    cases = {
        b"": "begins with b''",
        b"\x89PNG": "must be an IDX file",
        good[:6]: "2 sizes in its header",
        good[:-1]: r"6 bytes for shape \(2, 3\), got 5",
        good + b"\0": "got more",
        struct.pack(">BBBB3I", 0, 0, 14, 3, *[2**32 - 1] * 3): "must hold .* bytes",  # would be 2**99 bytes
        gzip.compress(good)[:-4]: "broken gzip file",
        b"\x1f\x8b" + good: "broken gzip file",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(FormatError, match=message):
            data.read_idx(path)
