"""The recipe: rules, encodings, targets, saving, and tables given to a model."""

import copy
import json
import pickle

import numpy as np
import pytest

import fastnn as fn
from fastnn import data
from fastnn.data import Recipe, encoders
from fastnn.errors import FormatError

TABLE = {
    "size": [1.0, 2.0, None, 5.0],
    "color": ["red", "blue", "red", None],
    "sold": ["yes", "no", "no", "yes"],
    "day": ["2024-01-01", "2024-07-01", "2025-01-01", "2024-03-01"],
    "price": [10.5, 20.25, 30.0, 40.0],
}


def matrix(recipe, table, dtype=np.float64):
    """The matrix by the name of its columns."""
    found = recipe.matrix(table, dtype)
    return dict(zip(recipe.features, found.T.tolist(), strict=True))


# ---------------------------------------------------------------- kinds and encodings


def test_kinds_are_chosen_by_the_rules():
    recipe = Recipe.fit(TABLE, target="price")
    assert [(e.name, e.kind) for e in recipe.encoders] == [
        ("size", "number"), ("color", "category"), ("sold", "boolean"), ("day", "date"),
    ]  # fmt: skip
    assert recipe.target.task == "regression"


def test_numbers_are_standardised_and_missing_ones_filled_and_flagged():
    found = matrix(Recipe.fit({"a": [1.0, 2.0, None, 6.0]}), {"a": [3.0, None, float("inf")]})
    deviation = np.std([1, 2, 6])
    assert found["a"] == [0.0, (2 - 3) / deviation, (2 - 3) / deviation]  # the median is 2
    assert found["a is missing"] == [0.0, 1.0, 1.0]


def test_numbers_far_outside_are_limited():
    values = [*range(1000), 10**9]
    recipe = Recipe.fit({"a": values})
    found = recipe.matrix({"a": [10**9, 10**12, 1498, -499, -(10**6), 500]}, np.float64)[:, 0]
    # Quantiles 1 and 999, and half their distance more.
    assert found[0] == found[1]
    assert found[0] == pytest.approx((1498 - 500.5) / np.std([*range(1000), 1498]), rel=1e-2)
    assert found[2] == pytest.approx(found[0], rel=1e-2)
    assert found[4] == pytest.approx(found[3], rel=1e-2)
    assert abs(found[5]) < 0.01
    rare = Recipe.fit({"a": [0] * 5000 + [1]})  # what is rare is not cut away
    assert rare.matrix({"a": [1]}, np.float64)[0, 0] == pytest.approx(np.sqrt(5000), rel=1e-3)


def test_what_was_never_missing_gets_no_flag_and_is_filled_all_the_same():
    recipe = Recipe.fit({"a": [1.0, 2.0, 6.0]})
    assert recipe.features == ["a"]
    assert matrix(recipe, {"a": [None]})["a"] == [(2 - 3) / np.std([1, 2, 6])]


def test_categories_are_one_hot_and_unknown_ones_all_zeros():
    recipe = Recipe.fit({"c": ["b", "a", None, "b"]})
    assert recipe.features == ["c=a", "c=b", "c is missing"]
    assert recipe.matrix({"c": ["a", "b", "new", ""]}).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
        [0, 0, 1],
    ]
    assert Recipe.fit({"c": ["a", "b"]}).matrix({"c": [None]}).tolist() == [[0, 0]]


def test_a_large_category_becomes_codes_for_an_embedding():
    n = data.ONE_HOT_CATEGORIES + 6
    texts = [f"t{i:03d}" for i in range(n)]
    table = {"a": np.arange(2 * n) % 7 / 2, "c": 2 * [*texts[:-1], ""], "b": np.arange(2 * n) % 5 / 2}
    recipe = Recipe.fit(table)
    assert recipe.features == ["a", "c", "b"]
    codes = recipe.matrix({"a": [1, 1, 1], "b": [1, 1, 1], "c": ["t003", "new", ""]})[:, 1]
    assert codes.tolist() == [3, -1, n - 1]
    assert recipe.embedding() == fn.Embedding(((1, n, round(1.6 * n**0.56)),))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.fit({"c": ["x", "y"]}).embedding() is None


def test_rare_texts_of_an_embedded_category_share_a_code(monkeypatch):
    monkeypatch.setattr(encoders, "EMBEDDED_CATEGORIES", data.ONE_HOT_CATEGORIES + 1)
    n = data.ONE_HOT_CATEGORIES + 1
    texts = [f"t{i:03d}" for i in range(n + 5)]
    recipe = Recipe.fit({"c": texts + texts[5:]})
    codes = recipe.matrix({"c": [texts[0], texts[5], "new"]})[:, 0]
    assert codes.tolist() == [n, 0, n]  # what was never seen is as rare as what was seen once
    assert recipe.embedding().columns[0][1] == n + 1


@pytest.mark.parametrize(
    "words", [["yes", "no"], ["TRUE", "False"], ["t", "f"], ["1", "0"], [1, 0], [True, False]]
)
def test_booleans_are_understood_in_any_words(words):
    recipe = Recipe.fit({"b": ["yes", "no", "no", "no"]})
    yes, no = recipe.matrix({"b": words}, np.float64)[:, 0]
    assert yes == pytest.approx(0.75 / np.std([1, 0, 0, 0]))
    assert no == pytest.approx(-0.25 / np.std([1, 0, 0, 0]))


def test_dates_become_time_year_circles_weekday_and_hour():
    days = ["2023-01-01", "2024-12-30 06:00", "2024-07-01", None]
    recipe = Recipe.fit({"d": days})
    found = matrix(recipe, {"d": ["2024-12-30 06:00", "2023-01-01"]})
    stamps = np.array(["2023-01-01", "2024-12-30T06", "2024-07-01"], "datetime64[s]").astype(float)
    assert found["d time"][0] == pytest.approx((stamps[1] - stamps.mean()) / stamps.std())
    assert found["d year"][0] - found["d year"][1] == pytest.approx(365.25 * 86400 / stamps.std())
    assert found["d month sin"] == pytest.approx([np.sin(2 * np.pi * 11 / 12), 0.0])
    assert found["d day cos"] == pytest.approx([np.cos(2 * np.pi * 364 / 365.25), 1.0])
    assert [found["d Monday"], found["d Sunday"]] == [[1, 0], [0, 1]]
    assert found["d hour sin"] == pytest.approx([1.0, 0.0])
    assert found["d is missing"] == [0, 0]
    assert "d hour sin" not in Recipe.fit({"d": ["2023-01-01", "2024-01-01"]}).features


def test_columns_of_no_use_are_left_out_with_a_word():
    n = 30
    table = {
        "x": np.arange(n) % 7, "same": ["a"] * n, "empty": [None] * n, "id": [f"u{i}" for i in range(n)],
        "index": np.arange(n) + 1, "mine": np.arange(n) % 3,
    }  # fmt: skip
    recipe = Recipe.fit(table, drop=["mine"])
    assert recipe.columns == ["x"]
    assert recipe.notes == [
        "column 'same' is left out: all values are equal",
        "column 'empty' is left out: it has no value",
        "column 'id' is left out: no text repeats: an id",
        "column 'index' is left out: it counts the rows",
        "column 'mine' is left out: as asked",
    ]
    kept = Recipe.fit(table, kinds={"index": "number", "x": "category"})
    assert kept.columns == ["x", "index", "mine"]
    assert kept.features[:2] == ["x=0", "x=1"]


def test_a_constant_with_gaps_leaves_its_flag():
    recipe = Recipe.fit({"a": [5.0, None, 5.0]})
    assert recipe.features == ["a is missing"]
    assert recipe.matrix({"a": [None, 4.0]}).tolist() == [[1], [0]]


def test_a_row_does_not_depend_on_the_rows_beside_it(rng):
    hours = np.arange(50) * np.timedelta64(7, "h")
    table = {
        "n": rng.normal(size=50),
        "c": rng.choice(list("abc"), 50),
        "d": np.datetime64("2024-01-01") + hours,
    }
    recipe = Recipe.fit(table)
    whole = recipe.matrix(table)
    for i in (0, 17, 49):
        assert np.array_equal(recipe.matrix({k: v[i : i + 1] for k, v in table.items()})[0], whole[i])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": ["1", "2", "big", "4"]}, "column 'size' must hold numbers, got 'big' in row 2"),
        ({"day": ["2024-13-01"] * 4}, "column 'day' must hold dates, got '2024-13-01' in row 0"),
        ({"size": np.array(["2024-01-01"] * 4, "M8[D]")}, "'size' must hold numbers, got dates"),
    ],
)
def test_values_that_do_not_fit_are_told_by_column_and_row(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe.fit(TABLE, target="price").matrix({**TABLE, **changes})


def test_columns_that_are_not_there_are_named():
    with pytest.raises(
        ValueError, match="must have the columns 'day'; the table has 'size', 'color', 'sold'"
    ):
        Recipe.fit(TABLE, target="price").matrix({"size": [1.0], "color": ["a"], "sold": ["no"]})
    with pytest.raises(ValueError, match="must have a target"):
        Recipe.fit({"a": [1, 2]}).arrays({"a": [1]})


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (TABLE, {"target": "pryce"}, "columns 'pryce'; .* did you mean 'price'"),
        (TABLE, {"target": "price", "task": "classify"}, "task must be one of"),
        (TABLE, {"task": "regression"}, "task needs a target"),
        (TABLE, {"kinds": {"size": "text"}}, "kinds must be one of number"),
        (TABLE, {"kinds": {"color": "number"}}, "column 'color' must hold numbers, got 'red' in row 0"),
        ({"a": []}, {}, "at least one row"),
        ({"a": [1, 1], "y": [1, 2]}, {"target": "y"}, "got none .'a': all values are equal."),
        ({"a": [1, 2], "y": [3, 3]}, {"target": "y"}, "two classes or more, got only 3"),
        ({"a": [1, 2], "y": [0.5, 0.5]}, {"target": "y"}, "must vary, got 0.5 in every row"),
        ({"a": [1, 2], "y": [None, None]}, {"target": "y"}, "must have a value, got none"),
        ({"a": [1, 2], "y": ["u", "v"]}, {"target": "y", "task": "regression"}, "hold numbers, got 'u'"),
        ({"a": [1, 2], "y": [1.0, np.inf]}, {"target": "y"}, "must be finite, got inf"),
        ({"a": [1, 2], "y": [1.0, np.inf]}, {"target": "y", "task": "classification"}, "finite, got inf"),
        ({"a": [1e308, -1e308], "y": [1, 2]}, {"target": "y"}, "too large to take their mean"),
    ],
)
def test_tables_that_teach_nothing_are_refused(table, arguments, message):
    with pytest.raises(ValueError, match=message):
        Recipe.fit(table, **arguments)


def test_lines_of_a_file_are_named(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("a\n1\n\nx\n")
    with pytest.raises(ValueError, match=r"must hold numbers, got 'x' in line 4 of .*bad.csv"):
        Recipe.fit({"a": [1, 2]}).matrix(path)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["u", "v", "u"], ("u", "v")),
        (["yes", "no", None], ("no", "yes")),
        ([True, False, True], (False, True)),
        ([3, 1, 1], (1, 3)),
        ([3.0, None, 1.0], (1, 3)),
        (list(range(data.CLASS_COUNT)), tuple(range(data.CLASS_COUNT))),
        (list(range(data.CLASS_COUNT + 1)), ()),
        ([0.5, 1.0, 2.0], ()),
    ],
)
def test_the_task_follows_from_the_target(values, classes):
    table = {"a": np.arange(len(values)) * 7 % 5, "y": values}
    target = Recipe.fit(table, target="y").target
    assert target.classes == classes
    assert target.task == ("classification" if classes else "regression")


def test_the_task_can_be_given():
    table = {"a": [1, 2, 1], "y": [0.5, 1.5, 0.5]}
    recipe = Recipe.fit(table, target="y", task="classification")
    assert recipe.target.classes == (0.5, 1.5)
    assert recipe.arrays(table)[1].tolist() == [0, 1, 0]
    assert Recipe.fit({"a": [1, 2], "y": [0, 1]}, target="y", task="regression").target.mean == 0.5


def test_rows_without_a_target_are_left_out():
    table = {"a": [1.0, 2.0, 100.0], "y": ["u", "v", None]}
    recipe = Recipe.fit(table, target="y")
    assert recipe.encoders[0].mean == 1.5
    x, y = recipe.arrays(table)
    assert x.shape == (2, 1)
    assert y.tolist() == [0, 1]


def test_labels_are_known_in_other_words():
    boolean = Recipe.fit({"a": [1, 2], "y": [True, False]}, target="y")
    for words in (["yes", "no"], ["True", "false"], [1, 0], [1.0, 0.0], [True, False]):
        assert boolean.arrays({"a": [1, 2], "y": words})[1].tolist() == [1, 0]
    whole = Recipe.fit({"a": [1, 2], "y": [7, 3]}, target="y")
    for words in (["7", "3"], [7.0, 3.0], ["7.0", "3"]):
        assert whole.arrays({"a": [1, 2], "y": words})[1].tolist() == [1, 0]
    with pytest.raises(ValueError, match="one of the 2 classes of the training, got '5' in row 1"):
        whole.arrays({"a": [1, 2], "y": [7, 5]})


# ---------------------------------------------------------------- saving


def test_json_gives_an_equal_recipe_back():
    for table, target in (
        (TABLE, "price"),
        (TABLE, "sold"),
        (TABLE, None),
        ({"a": [1, 2], "y": [True, False]}, "y"),
    ):
        recipe = Recipe.fit(table, target=target)
        again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
        assert again == recipe
        assert [type(c) for c in (again.target.classes if target else ())] == [
            type(c) for c in (recipe.target.classes if target else ())
        ]


def test_broken_recipes_are_refused():
    good = Recipe.fit(TABLE, target="price").to_json()

    def changed(*path, value):
        broken = copy.deepcopy(good)
        at = broken
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return broken

    cases = [
        None, [], {}, {**good, "extra": 1}, changed("format", value=2), changed("format", value=True),
        changed("columns", value=[]), changed("columns", value={}), changed("columns", 0, value=3),
        changed("columns", 0, "kind", value="text"), changed("columns", 0, "kind", value=[]),
        changed("columns", 0, "mean", value="1"), changed("columns", 0, "mean", value=float("nan")),
        changed("columns", 0, "mean", value=True), changed("columns", 0, "scale", value=-1.0),
        changed("columns", 0, "extra", value=1), changed("columns", 0, "missing", value=1),
        changed("columns", 0, "name", value=1), changed("columns", 1, "categories", value=["a", "a"]),
        changed("columns", 1, "categories", value="ab"), changed("columns", 1, value=good["columns"][0]),
        changed("target", value=[]), changed("target", "task", value="guess"),
        changed("target", "scale", value=0), changed("target", "classes", value=[float("nan")]),
        changed("target", "classes", value=["a", "b"]), changed("target", "mean", value=None),
        changed("target", "classes", value=[[]]), changed("target", "name", value=None),
        changed("dropped", value=[["a"]]), changed("dropped", value="ab"),
    ]  # fmt: skip
    assert Recipe.from_json(good).to_json() == good
    for case in cases:
        with pytest.raises(FormatError):
            Recipe.from_json(case)


# ---------------------------------------------------------------- a model with a recipe


def trained(target="price"):
    recipe = Recipe.fit(TABLE, target=target)
    x, y = recipe.arrays(TABLE)
    model = fn.Sequential(fn.Dense(8, activation="tanh"), fn.Dense(recipe.target.n_out))
    loss = "mse" if recipe.target.task == "regression" else "cross_entropy"
    trainer = fn.Trainer(model, loss=loss, optimizer="adam", seed=0)
    trainer.fit(x, (y - recipe.target.mean) / recipe.target.scale if loss == "mse" else y, epochs=20)
    model.recipe, model.classes = recipe, list(recipe.target.classes) or None
    return model, x


def test_a_table_goes_through_the_recipe_and_a_matrix_straight():
    model, x = trained()
    assert np.array_equal(model.predict(TABLE), model.predict(x))
    assert np.array_equal(model.predict({**TABLE, "more": [0] * 4})[::-1], model.predict(x[::-1]))
    with pytest.raises(ValueError, match=r"as the recipe gives them, got shape \(4, 5\)"):
        model.predict(np.zeros((4, 5)))
    classifier, x = trained("sold")
    assert np.array_equal(classifier.predict_proba(TABLE), classifier.predict_proba(x))


def test_copies_keep_the_recipe():
    model, _ = trained("sold")
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.recipe == model.recipe
        assert again.classes == ["no", "yes"]
        assert np.array_equal(again.predict(TABLE), model.predict(TABLE))


def test_a_file_whose_recipe_does_not_fit_its_network_is_refused(tmp_path):
    model, _ = trained()
    model.recipe = Recipe.fit({"a": [1.0, 2.0]})
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match=r"the recipe of .* must give \d+ columns, got 1"):
        fn.load(tmp_path / "m.safetensors")


def test_a_table_for_a_model_without_a_recipe_is_refused():
    model = fn.Sequential(fn.Dense(1)).build(2)
    for table in ({"a": [1.0]}, "table.csv"):
        with pytest.raises(TypeError, match="this model has no recipe"):
            model.predict(table)


def test_scaled_outputs_are_folded_into_the_last_layer():
    model, x = trained()
    before = model.predict(x)
    model.scale_outputs(12.0, 25.0)
    # One rounding of weights and biases, and one of the sum, in float32.
    assert np.allclose(model.predict(x), before * 12 + 25, rtol=1e-5)
    assert np.array_equal(model.compile()(x), model.predict(x))
    for last in (fn.Dense(1, activation="relu"), fn.Dense(1, bias=False), fn.Activation("tanh")):
        with pytest.raises(ValueError, match="the last layer must be a Dense with a bias"):
            fn.Sequential(fn.Dense(1), last).build(2).scale_outputs(2.0, 0.0)
    with pytest.raises(ValueError, match="finite"):
        model.scale_outputs(float("nan"), 0.0)


def test_a_column_of_numbers_with_a_slip_is_named():
    table = {"a": [*map(str, range(100)), "n/a?"], "b": [0.5, 1.5] * 50 + [2.5]}
    (left_out, doubt) = Recipe.fit(table).notes
    assert "no text repeats" in left_out
    assert doubt == "column 'a' is taken as texts: 100 of its 101 are numbers, but 'n/a?' is not"
    assert Recipe.fit({"a": ["x", "y", "7"]}).notes == []


def test_what_was_never_seen_is_counted():
    recipe = Recipe.fit({"c": ["a", "b", "a", None], "f": ["yes", "no", "yes", "no"], "n": [1, 2, 4, 8]})
    assert recipe.unseen(
        {"c": ["a", "new", None, "newer"], "f": ["yes", "maybe", None, "no"], "n": [1] * 4}
    ) == {
        "c": 2,
        "f": 1,
    }
