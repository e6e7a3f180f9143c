"""Which products of a captured step are cublasLt's, what is fused to them, and the proof before first use.

The kernels of kernels_products.cu have every product; a library should have the large ones faster. What it
is asked for is tried once for each batch size, outside of a capture, on numbers like chance and beside our
own kernel. What it does not have, or does otherwise, is asked for with less fused to it, and at last left to
our kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import kernels
from ..optimizers import Optimizer, Rule
from ..steps import Step
from . import cuda_cublaslt
from .cuda_cublaslt import WORKSPACE, CublasError, Library, Matmul, NotSupported
from .cuda_kernels import FROM_INPUT, NO_ARRAY, NORM_BLOCKS, Kernels, number_of

__all__ = ["LEAST_FLOPS", "LEAST_SIDE", "Planned", "Products", "Used", "folded_rules", "is_large"]

# Products of fewer operations, or with a shorter side, are our kernels'. Neither number is measured yet: no
# card has run this. Such a product takes our kernels some 20 us, of which a library could save a part.
LEAST_FLOPS = 1 << 28
LEAST_SIDE = 128

# How far a product of numbers in -1 .. 1 may be from that of our kernel, over the root of the length of its
# sums. Sums of 10^6 float32 are off by 4e-5 at most, products of numbers with 10 bits by 4e-4 somewhere in a
# large matrix, so that TF32 is not taken for float32.
TOLERANCE = {"float32": 1e-4, "tf32": 4e-3, "bf16": 2e-2}

# FASTNN_CUDA_PRODUCTS=own leaves all products to our kernels.
VARIABLE = "FASTNN_CUDA_PRODUCTS"


def folded_rules(
    o: Optimizer, rules: tuple[Rule, ...], steps: tuple[Step, ...]
) -> dict[int, tuple[int, Rule]]:
    """Dense steps whose weights have plain SGD alone, which a product can do: rule, and its number."""
    if o.name != "sgd" or o.has_velocity or o.clip_norm is not None or o.clip_value:
        return {}
    found = {}
    for j, rule in enumerate(rules):
        for i, s in enumerate(steps):
            if s.kind == "dense" and not rule.l1 and rule.offset <= s.weight < rule.offset + rule.length:
                found[i] = j, rule
    return found


def is_large(m: int, n: int, k: int) -> bool:
    """Whether a product (m, k) by (k, n) is worth a library."""
    return min(m, n, k) >= LEAST_SIDE and 2 * m * n * k >= LEAST_FLOPS


@dataclass
class Used:
    """What computes the products of a program: `CudaProgram.products`.

    Attributes
    ----------
    provider : str or None
        "cublasLt 12.9.3"; None where it has not been asked for, or cannot be used.
    reason : str or None
        Why it is not used at all.
    by_product : dict
        From "layer 0 forward, 512 rows" to what is fused to the library's product, "bias" say, or to why our
        own kernel has it. Products that are not large are not listed: they are our kernels'.
    """

    provider: str | None = None
    reason: str | None = None
    by_product: dict[str, str] = field(default_factory=dict)


class Products:
    """The library, as far as it is needed, for the batches of one captured step.

    Parameters
    ----------
    cp : module
        CuPy, or what has its face.
    run : Kernels
    steps : tuple of Step
    parameters, gradient : arrays on the card
        Flat blocks. The gradient is written to when products are tried.
    precision : str
    stream : Stream
    rules : dict of int to (int, Rule)
        By number of a dense step, the rule of its weights behind its number among all, where the update is
        plain SGD and may be part of the product.
    n_rules : int
    sources, progress : arrays on the card
        As `CapturedStep` has them.
    """

    def __init__(
        self,
        cp: Any,
        run: Kernels,
        steps: tuple[Step, ...],
        parameters: Any,
        gradient: Any,
        precision: str,
        stream: Any,
        rules: dict[int, tuple[int, Rule]],
        n_rules: int,
        sources: Any,
        progress: Any,
    ) -> None:
        self.cp, self.run, self.steps, self.precision, self.stream = cp, run, steps, precision, stream
        self.w, self.g, self.rules, self.n_rules = parameters, gradient, rules, n_rules
        self.sources, self.progress = sources, progress
        self.used = Used()
        self.provider: Library | None = None
        self.workspace: Any = None
        self.factors = cp.zeros(2, np.float32)

    def plan(self, batch: Any, m: int) -> Planned:
        """What of a step with m rows is the library's. Works on the batch's buffers and the gradient."""
        planned = self.none(batch, m)
        found = planned.large()
        if not found or self.used.reason is not None or not self._is_there():
            return planned
        try:
            planned.make(found)
        except CublasError as error:
            self.give_up(str(error))
            planned = self.none(batch, m)
        except self.cp.cuda.memory.OutOfMemoryError:
            self.give_up("no memory for trying its products")
            planned = self.none(batch, m)
        return planned

    def none(self, batch: Any, m: int) -> Planned:
        """A plan in which our kernels have all."""
        return Planned(self, batch, m)

    def give_up(self, reason: str) -> None:
        """Leave all products of the batches to come to our kernels."""
        self.used.reason = reason
        self.used.provider = None
        self.used.by_product.clear()

    def _is_there(self) -> bool:
        """Load it at first use; keep the reason if it is not to be had."""
        if self.provider is not None:
            return True
        wish = os.environ.get(VARIABLE, "")
        if wish not in ("", "own"):
            raise ValueError(f"{VARIABLE} must be 'own' or not set, got {wish!r}")
        if wish:
            self.give_up(f"{VARIABLE}=own")
            return False
        try:
            self.provider = Library(cuda_cublaslt.find())
            self.workspace = self.cp.empty(WORKSPACE, np.uint8)
        except CublasError as error:
            self.give_up(str(error))
            return False
        self.used.provider = self.provider.name
        return True

    def call(self, matmul: Matmul, a: Any, b: Any, d: Any) -> None:
        """Queue a product of the library."""
        matmul(a.data.ptr, b.data.ptr, d.data.ptr, self.workspace.data.ptr, self.stream.ptr)


class Planned:
    """The library's part of a step for one batch size; empty unless `make` was called.

    Each method that computes gives whether it did.
    """

    def __init__(self, products: Products, batch: Any, m: int) -> None:
        self._products, self._run, self._steps = products, products.run, products.steps
        self._batch, self._m = batch, m
        self._forward: dict[int, Matmul] = {}
        self._down: dict[int, Matmul] = {}
        self._weights: dict[int, Matmul] = {}
        self._masks: dict[int, tuple[Any, int]] = {}
        self.folded: set[int] = set()
        self._first = next(i for i, s in enumerate(self._steps) if s.n_parameters)

    def __bool__(self) -> bool:
        return bool(self._forward or self._down or self._weights)

    def shape(self, i: int, what: str) -> tuple[int, int, int]:
        """(m, n, k) of a product of dense step i: "forward", "down" (the gradient at x) or "weights"."""
        s, m = self._steps[i], self._m
        shapes = {"forward": (m, s.n_out, s.n_in), "down": (m, s.n_in, s.n_out)}
        return shapes.get(what, (s.n_in, s.n_out, m))

    def large(self) -> list[tuple[int, str]]:
        """Numbers of steps and products that are worth a library."""
        dense = [i for i, s in enumerate(self._steps) if s.kind == "dense"]
        listed = ((i, what) for i in dense for what in ("forward", "down", "weights"))
        wanted = ((i, what) for i, what in listed if what != "down" or i > self._first)
        return [(i, what) for i, what in wanted if is_large(*self.shape(i, what))]

    # ------------------------------------------------------------ within a step

    def forward(self, i: int, x: Any) -> bool:
        """The outputs of dense step i."""
        matmul = self._forward.get(i)
        if matmul is None:
            return False
        s, out = self._steps[i], self._batch.outputs[i]
        place = self._batch.inputs[i] if s.activation in FROM_INPUT else out
        self._products.call(matmul, x, self._part(self._products.w, s), place)
        if not (self._is_plain(s) or matmul.epilogue.startswith("relu")):
            size = self._m * s.n_out
            kind = number_of(kernels.ACTIVATIONS, s.activation)
            self._run.over("activation", size, place, out, np.int64(size), kind)
        return True

    def down(self, i: int, da: Any, below: Any) -> bool:
        """The gradient at the inputs of dense step i, or at z of the step before if it `has_slope`."""
        matmul = self._down.get(i)
        if matmul is None:
            return False
        self._products.call(matmul, da, self._part(self._products.w, self._steps[i]), below)
        return True

    def weights(self, i: int, x: Any, da: Any) -> bool:
        """The gradient of the weights of dense step i, or their update. `down` comes first."""
        matmul = self._weights.get(i)
        if matmul is None:
            return False
        s, products = self._steps[i], self._products
        if i not in self.folded:
            products.call(matmul, x, da, self._part(products.g, s))
            return True
        j, rule = products.rules[i]
        sizes = self._m * s.n_in, self._m * s.n_out
        arrays = x, np.int64(sizes[0]), da, np.int64(sizes[1])
        self._run.blocks("still", NORM_BLOCKS, products.progress, *arrays)
        numbers = np.int32(j), np.int32(products.n_rules), np.float32(rule.decay), products.factors
        self._run.over("fold_factors", 1, products.sources, products.progress, *numbers)
        products.call(matmul, x, da, self._part(products.w, s))
        return True

    def has_slope(self, i: int) -> bool:
        """Whether `down` of the step after gave the gradient at z of step i, and of its bias."""
        matmul = self._down.get(i + 1)
        return matmul is not None and matmul.epilogue.startswith("drelu")

    def has_bias(self, i: int) -> bool:
        """Whether `weights` gives the gradient of the bias of step i, whose f is the identity."""
        matmul = self._weights.get(i)
        return matmul is not None and matmul.epilogue == "bgrada"

    def rest_of(self, rule: Rule) -> list[slice]:
        """The parameters of a rule that are not updated by products."""
        places = [self._steps[i] for i in sorted(self.folded)]
        found, begin, end = [], rule.offset, rule.offset + rule.length
        for s in sorted(places, key=lambda s: s.weight):
            if begin <= s.weight < end:
                found.append(slice(begin, s.weight))
                begin = s.weight + s.n_in * s.n_out
        found.append(slice(begin, end))
        return [part for part in found if part.start < part.stop]

    # ------------------------------------------------------------ what is asked for, and tried

    @staticmethod
    def _part(block: Any, s: Step) -> Any:
        return block[s.weight : s.weight + s.n_in * s.n_out]

    @staticmethod
    def _is_plain(s: Step) -> bool:
        """Whether nothing is to be done elementwise: softmax, of rows, comes after."""
        return s.activation in ("identity", "softmax", "log_softmax")

    def _bias(self, block: Any, s: Step) -> int:
        return int(block[s.bias : s.bias + s.n_out].data.ptr) if s.bias >= 0 else 0

    def make(self, found: list[tuple[int, str]]) -> None:
        """Ask for the products of a list, with as much fused to each as there is.

        Forward ones come first, from the last step to the first backward ones.
        """
        for i, what in [one for one in found if one[1] == "forward"]:
            self._ask(i, what, self._forward, self._forward_wishes(i))
        for i, what in reversed([one for one in found if one[1] != "forward"]):
            if what == "down":
                self._ask(i, what, self._down, self._down_wishes(i))
            else:
                self._ask(i, what, self._weights, self._weights_wishes(i))

    def _ask(self, i: int, what: str, made: dict[int, Matmul], wishes: list[tuple[str, bool]]) -> None:
        """Take the first wish, of (epilogue, whether folded), that the library has and does as we do."""
        name = f"layer {self._steps[i].prefix} {what}, {self._m} rows"
        report = self._products.used.by_product
        refused: list[str] = []
        for epilogue, is_folded in wishes:
            text = epilogue + " with the update" * is_folded
            try:
                matmul = self._matmul(i, what, epilogue, is_folded)
                wrong = self._try(i, what, matmul, is_folded)
            except NotSupported:
                wrong = "not supported"
            if not wrong:
                made[i] = matmul
                if is_folded:
                    self.folded.add(i)
                report[name] = text + (f" ({'; '.join(refused)})" if refused else "")
                return
            refused.append(f"{text}: {wrong}")
            if what == "forward":  # what is asked for next, writes none
                self._masks.pop(i, None)
        report[name] = f"own kernel ({'; '.join(refused)})"

    def _forward_wishes(self, i: int) -> list[tuple[str, bool]]:
        s = self._steps[i]
        plain = "bias" if s.bias >= 0 else "default"
        if s.activation != "relu":
            return [(plain, False)]
        tail = "_bias" if s.bias >= 0 else ""
        with_mask = [(f"relu_aux{tail}", False)] if self._is_followed(i) else []
        return [*with_mask, (f"relu{tail}", False), (plain, False)]

    def _is_followed(self, i: int) -> bool:
        """Whether the step after is a dense one with a large product back."""
        is_last = i + 1 >= len(self._steps)
        return not is_last and self._steps[i + 1].kind == "dense" and is_large(*self.shape(i + 1, "down"))

    def _down_wishes(self, i: int) -> list[tuple[str, bool]]:
        fused = "drelu_bgrad" if self._steps[i - 1].bias >= 0 else "drelu"
        has_mask = i - 1 in self._masks and i - 1 in self._forward and "aux" in self._forward[i - 1].epilogue
        return [*([(fused, False)] if has_mask else []), ("default", False)]

    def _weights_wishes(self, i: int) -> list[tuple[str, bool]]:
        s = self._steps[i]
        # Where f bends, one pass of our own kernel takes slope and bias together.
        fused = ["bgrada"] if s.bias >= 0 and self._is_plain(s) else []
        epilogues = [*fused, "default"]
        folds = [(one, True) for one in epilogues] if i in self._products.rules else []
        return [*folds, *((one, False) for one in epilogues)]

    def _matmul(self, i: int, what: str, epilogue: str, is_folded: bool) -> Matmul:
        s, products = self._steps[i], self._products
        assert products.provider is not None
        weight = _alignment(self._part(products.w, s).data.ptr)
        if what == "forward":
            bias = self._bias(products.w, s) if epilogue.endswith("bias") else 0
            form, alignment = "nn", (256, weight, 256)
        elif what == "down":
            bias = self._bias(products.g, self._steps[i - 1]) if epilogue == "drelu_bgrad" else 0
            form, alignment = "nt", (256, weight, 256)
        else:
            bias = self._bias(products.g, s) if epilogue == "bgrada" else 0
            form, alignment = "tn", (256, 256, weight)
        mask = (0, 0)
        if "aux" in epilogue:
            bits = -(-s.n_out // 128) * 128
            if i not in self._masks:
                self._masks[i] = products.cp.zeros(self._m * bits // 8, np.uint8), bits
        if "aux" in epilogue or epilogue.startswith("drelu"):
            array, bits = self._masks[i if what == "forward" else i - 1]
            mask = array.data.ptr, bits
        factors = products.factors.data.ptr if is_folded else 0
        shape = self.shape(i, what)
        return Matmul(
            products.provider, form, shape, products.precision, epilogue, bias, mask, factors, alignment
        )

    def _try(self, i: int, what: str, matmul: Matmul, is_folded: bool) -> str:
        """What a product does otherwise than our kernel; "" for nothing."""
        return {"forward": self._try_forward, "down": self._try_down}.get(what, self._try_weights)(
            i, matmul, is_folded
        )

    def _fill(self, array: Any, seed: int) -> None:
        self._run.over("pattern", array.size, array, np.int64(array.size), np.uint32(seed))

    def _x(self, i: int) -> Any:
        return self._batch.outputs[i - 1] if i else self._batch.x

    def _try_forward(self, i: int, matmul: Matmul, is_folded: bool) -> str:
        s, products, cp = self._steps[i], self._products, self._products.cp
        x, b, out = self._x(i), self._part(products.g, s), self._batch.outputs[i]
        is_relu = matmul.epilogue.startswith("relu")
        self._fill(b, 1)
        if is_relu:  # a NaN that it hid would hide that a training has failed
            self._fill(x, 2)
            x[1, 0] = np.nan
            products.call(matmul, x, b, out)
            if not bool(cp.isnan(out[1]).all()):
                return "hides NaN"
        self._fill_x(i)
        products.call(matmul, x, b, out)
        own = cp.empty((self._m, s.n_out), np.float32)
        bias = products.w[s.bias : s.bias + s.n_out] if s.bias >= 0 else NO_ARRAY
        kind = "relu" if is_relu else "identity"
        self._run.product("nn", x, b, self.shape(i, "forward"), own, bias, kind)
        return self._difference(out, own, s.n_in)

    def _fill_x(self, i: int) -> None:
        """What a forward product is tried on: with a row of zeros, where z may be 0."""
        x = self._x(i)
        self._fill(x, 2)
        x[0] = 0.0

    def _try_down(self, i: int, matmul: Matmul, is_folded: bool) -> str:
        s, products, cp = self._steps[i], self._products, self._products.cp
        da, below = (
            one[: self._m * n] for one, n in zip(self._batch.gradients, (s.n_out, s.n_in), strict=True)
        )
        b = self._part(products.g, s)
        own = cp.empty(self._m * s.n_in, np.float32)
        expected = cp.empty(s.n_in, np.float32)
        kept: Any = NO_ARRAY
        fused = matmul.epilogue.startswith("drelu")
        if fused:  # outputs and mask of the step before, of one product
            before = self._steps[i - 1]
            self._fill_x(i - 1)
            self._fill(self._part(products.g, before), 3)
            kept = self._batch.outputs[i - 1]
            products.call(self._forward[i - 1], self._x(i - 1), self._part(products.g, before), kept)
        self._fill(da, 4)
        self._fill(b, 5)
        products.call(matmul, da, b, below)
        self._run.product("nt", da, b, self.shape(i, "down"), own)
        if fused:
            kind, sizes = number_of(kernels.ACTIVATIONS, "relu"), (np.int32(self._m), np.int32(s.n_in))
            self._run.columns("slope_and_bias", s.n_in, own, kept, kind, *sizes, expected)
        wrong = self._difference(below, own, s.n_out)
        if wrong or matmul.epilogue != "drelu_bgrad":
            return wrong
        bias = self._steps[i - 1].bias
        sums = products.g[bias : bias + s.n_in]
        return self._difference(sums, expected, s.n_out * self._m, "its sums")

    def _try_weights(self, i: int, matmul: Matmul, is_folded: bool) -> str:
        s, products, cp = self._steps[i], self._products, self._products.cp
        x, out, m = self._x(i), self._part(products.g, s), self._m
        da = self._batch.gradients[0][: m * s.n_out]
        self._fill(x, 6)
        self._fill(da, 7)
        own = cp.empty(s.n_in * s.n_out, np.float32)
        self._run.product("tn", x, da, self.shape(i, "weights"), own)
        if is_folded:
            products.factors.set(np.array([-0.5, 0.75], np.float32), stream=products.stream)
            self._fill(out, 8)
            own *= -0.5
            own += 0.75 * out
        products.call(matmul, x, da, out)
        wrong = self._difference(out, own, m)
        if wrong or matmul.epilogue != "bgrada":
            return wrong
        expected = cp.empty(s.n_out, np.float32)
        kind, sizes = number_of(kernels.ACTIVATIONS, "identity"), (np.int32(m), np.int32(s.n_out))
        self._run.columns("slope_and_bias", s.n_out, da, NO_ARRAY, kind, *sizes, expected)
        return self._difference(products.g[s.bias : s.bias + s.n_out], expected, m, "its sums")

    def _difference(self, found: Any, expected: Any, length: int, what: str = "it") -> str:
        """How an array is too far from ours; "" where it is not."""
        cp = self._products.cp
        away = float(cp.abs(found.reshape(-1) - expected.reshape(-1)).max()) / length**0.5
        most = TOLERANCE[self._products.precision]
        return (
            "" if away <= most else f"{what} differs by {away:.1e}, more than {most:g}, a root of its length"
        )


def _alignment(address: int) -> int:
    """The power of two, up to 256, that an address is a multiple of."""
    return min(256, address & -address)
