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
    "shortcut": lambda f: (
        fn.Residual(
            fn.Dense(5, activation=f),
            fn.Dense(4),
            shortcut=(fn.LayerNorm(), fn.Dense(4, activation=f), fn.Residual(fn.Dense(4))),
        ),
        fn.Activation(f),
        fn.Residual(fn.Dense(3, activation=f), shortcut=(fn.Dense(3),)),
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
    "batch norm": lambda f: (
        fn.BatchNorm(),
        fn.Dense(17),
        fn.BatchNorm(momentum=0.3, eps=1e-3),
        fn.Activation(f),
        fn.Dense(9, activation=f),
        fn.BatchNorm(affine=False),
        fn.Dense(3),
    ),
    "batch norm in branches": lambda f: (
        fn.Residual(fn.BatchNorm(), fn.Activation(f), fn.Dense(6)),
        fn.Concat(((0, 3), fn.BatchNorm()), (None, fn.Dense(4, bias=False), fn.BatchNorm())),
        fn.Dense(3),
        fn.BatchNorm(),
    ),
    "layer norm": lambda f: (
        fn.LayerNorm(),
        fn.Dense(17, activation=f),
        fn.LayerNorm(eps=1e-3, affine=False),
        fn.Dense(33),
        fn.LayerNorm(),
        fn.Dense(3),
    ),
    "rms norm": lambda f: (
        fn.RMSNorm(affine=False),
        fn.Dense(19, activation=f),
        fn.RMSNorm(),
        fn.Dense(7),
        fn.RMSNorm(eps=1e-2),
        fn.Dense(3),
    ),
    "prelu": lambda f: (
        fn.PReLU(),
        fn.Dense(18, activation=f),
        fn.PReLU(18, init=-0.5),
        fn.Dense(3),
        fn.PReLU(),
    ),
    "noise": lambda f: (
        fn.GaussianNoise(0.3),
        fn.Dense(34, activation=f),
        fn.AlphaDropout(0.3),
        fn.Residual(fn.GaussianNoise(0.1), fn.Dense(34)),
        fn.Dense(3),
    ),
    "numerical embeddings": lambda f: (
        fn.Flatten(),
        fn.Concat(
            ((0, 1, 2), fn.PiecewiseLinear(((-1.0, 0.0, 0.3), (-0.5, 0.5), (-2.0, -1.0, 0.1, 1.0)))),
            ((3, 4, 5), fn.Dense(3), fn.Periodic(19, sigma=0.5)),
        ),
        fn.Dense(3, activation=f),
    ),
    "piecewise of trained": lambda f: (
        fn.Dense(2, activation=f),
        fn.PiecewiseLinear(((-0.51, 0.02, 0.57), (-1.03, -0.52, 0.53, 1.04))),
        fn.Periodic(3),
        fn.Dense(3),
    ),
    "scale by column": lambda f: (
        fn.Scale((0.5, 2.0, -1.0, 1.0, 0.1, 3.0), (0.0, 1.0, -0.5, 0.25, 0.0, 0.0)),
        fn.Dense(19, activation=f),
        fn.Scale(tuple(0.1 * j - 0.9 for j in range(19))),
        fn.Residual(fn.Scale(0.5, tuple(0.1 * j for j in range(19))), fn.Dense(19)),
        fn.Dense(3),
    ),
    "batch norm over all batches": lambda f: (
        fn.Dense(17),
        fn.BatchNorm(momentum=None),
        fn.Activation(f),
        # a bias here had the gradient 0, as a sum whose terms the norm makes large: softmax hardly varies
        fn.Residual(fn.Dense(17, bias=False), fn.BatchNorm(momentum=None, affine=False)),
        fn.Dense(3),
    ),
}
# Those that a batch of one row cannot train.
COUPLED = {"batch norm", "batch norm in branches", "batch norm over all batches"}
