"""Targets that a loss takes, for the tests of everything that trains."""

import numpy as np

from fastnn import losses

# Every loss with other numbers than its defaults too; for four outputs.
DESCRIPTIONS = (
    losses.CrossEntropy(),
    losses.CrossEntropy(label_smoothing=0.1),
    losses.BinaryCrossEntropy(),
    losses.BinaryCrossEntropy(pos_weight=2.5),
    losses.BinaryCrossEntropy(pos_weight=(0.5, 1, 2, 3)),
    losses.MSE(),
    losses.MAE(),
    losses.Huber(),
    losses.Huber(delta=0.3),
    losses.LogCosh(),
    losses.Quantile(),
    losses.Quantile(q=0.9),
    losses.Quantile(q=(0.1, 0.8)),
    losses.Poisson(),
    losses.Poisson(full=True),
    losses.GaussianNLL(),
    losses.GaussianNLL(full=True, eps=0.5),
    losses.Hinge(),
    losses.MultiMargin(),
    losses.MultiMargin(p=2, margin=0.5),
    losses.Focal(),
    losses.Focal(alpha=None, gamma=0.7),
    losses.Focal(alpha=0.9, gamma=0.0),
    losses.KLDivergence(),
    losses.SoftmaxFocal(),
    losses.SoftmaxFocal(gamma=0.7),
)
OF_THREE_OUTPUTS = [name for name in losses.CLASSES if name != "gaussian_nll"]


def targets_of(loss, rng, n_rows, n_out, dtype="float64", soft=False):
    """Legal random targets of a loss, a name or a description."""
    loss = losses.get(loss)
    if loss.takes_labels and not soft:
        return rng.integers(0, n_out, n_rows)
    y = rng.random((n_rows, loss.n_targets(n_out)))
    if loss.name == "hinge":
        y = np.where(y < 0.5, -1.0, 1.0)
    elif loss.name == "poisson":
        y = np.floor(5 * y)
    elif soft or loss.name == "kl_divergence":
        y[y < 0.2] = 0  # where t log(t) is 0
        y[:, 0] += 0.1
        y /= y.sum(axis=1, keepdims=True)
    return y.astype(dtype)


def torch_rows(torch, loss, z, y):
    """The losses of rows by PyTorch, or by its functions where it has none."""
    f, loss = torch.nn.functional, losses.get(loss)
    name = loss.name
    if name == "cross_entropy":
        kept = {"ignore_index": loss.ignore_index} if y.ndim == 1 else {}
        return f.cross_entropy(z, y, reduction="none", label_smoothing=loss.label_smoothing, **kept)
    if name == "kl_divergence":
        return f.kl_div(f.log_softmax(z, dim=1), y, reduction="none").sum(dim=1)
    if name == "softmax_focal":
        of_label = f.log_softmax(z, dim=1).gather(1, y[:, None])[:, 0]
        return -((1 - of_label.exp()) ** loss.gamma) * of_label
    if name == "multi_margin":
        return f.multi_margin_loss(z, y, p=loss.p, margin=loss.margin, reduction="none")
    if name == "binary_cross_entropy":
        weight = loss.pos_weight
        weight = None if weight is None else torch.as_tensor(weight, dtype=z.dtype)
        rows = f.binary_cross_entropy_with_logits(z, y, reduction="none", pos_weight=weight)
    elif name == "focal":  # torchvision.ops.sigmoid_focal_loss
        p = torch.sigmoid(z)
        rows = f.binary_cross_entropy_with_logits(z, y, reduction="none")
        rows = rows * (1 - (p * y + (1 - p) * (1 - y))) ** loss.gamma
        if loss.alpha is not None:
            rows = rows * (loss.alpha * y + (1 - loss.alpha) * (1 - y))
    elif name == "hinge":
        rows = torch.relu(1 - y * z)
    elif name == "mse":
        rows = f.mse_loss(z, y, reduction="none")
    elif name == "mae":
        rows = f.l1_loss(z, y, reduction="none")
    elif name == "huber":
        rows = f.huber_loss(z, y, reduction="none", delta=loss.delta)
    elif name == "log_cosh":
        rows = torch.logaddexp(z - y, y - z) - np.log(2.0)
    elif name == "quantile":
        q = torch.as_tensor(loss.q, dtype=z.dtype).reshape(-1).repeat(y.shape[1])
        d = y.repeat_interleave(z.shape[1] // y.shape[1], dim=1) - z
        rows = torch.maximum(q * d, (q - 1) * d)
    elif name == "poisson":
        kept = {"log_input": loss.log_input, "full": loss.full, "eps": loss.eps}
        rows = f.poisson_nll_loss(z, y, reduction="none", **kept)
    elif name == "gaussian_nll":
        n, kept = y.shape[1], {"full": loss.full, "eps": loss.eps}
        rows = f.gaussian_nll_loss(z[:, :n], y, z[:, n:].exp(), reduction="none", **kept)
    return rows.mean(dim=1)
