"""Networks with each kind of layer, for the tests that hold all of them to one contract."""

import fastnn as fn

# Of 6 columns, with 3 outputs; f is the name of an activation.
NETWORKS = {
    "residual": lambda f: (
        fn.Dense(7),
        fn.Residual(fn.Dense(9, activation=f), fn.Dense(7)),
        fn.Activation(f),
        fn.Dense(3),
    ),
    "residual of the input": lambda f: (
        fn.Residual(fn.Scale(2.0, 0.5), fn.Dense(6, activation=f)),
        fn.Dense(3),
    ),
    "projection": lambda f: (
        fn.Dense(5, activation=f),
        fn.Residual(fn.Dense(3, activation=f), projection=True),
    ),
    "nested": lambda f: (
        fn.Residual(fn.Residual(fn.Dense(6, activation=f), fn.Dropout(0.3)), fn.Dense(6)),
        fn.Residual(
            fn.Concat(((0, 1), fn.Dense(2)), (slice(1, 5), fn.Residual(fn.Dense(4, activation=f)))),
        ),
        fn.Dense(3),
    ),
    "concat": lambda f: (
        fn.Concat(((4, 0, 2), fn.Dense(8, activation=f)), (slice(1, 6), fn.Dropout(0.4)), (None,), ((3,),)),
        fn.Dense(3, activation=f),
    ),
    "concat twice": lambda f: (
        fn.Dense(8),
        fn.Concat((None, fn.Dense(3, activation=f)), (None,), ((7, 1), fn.Activation(f))),
        fn.Concat((slice(0, 13, 3),), (None, fn.Dense(3))),
        fn.Dense(3),
        fn.Dropout(0.2),
    ),
}
