"""Which cards there are, and what is missing where there is none."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ..errors import DeviceError

__all__ = ["cards", "check", "number_of"]

_PIP = "pip install 'fastnn-core[cuda12]' or 'fastnn-core[cuda13]', for drivers of CUDA 12 or 13"
_LEAST_MAJOR = 14  # of CuPy


def number_of(device: str) -> int:
    """Number of the card that a name means.

    Raises
    ------
    ValueError
        It is neither "cuda" nor "cuda:" and a number.
    """
    number = device.removeprefix("cuda:")
    if device == "cuda":
        return 0
    if number != device and number.isascii() and number.isdigit():
        return int(number)
    raise ValueError(f"device must be 'cuda' or 'cuda:' and the number of a card, got {device!r}")


def _cupy(device: str) -> Any:
    """CuPy, and nothing less."""
    if importlib.util.find_spec("cupy") is None:
        raise DeviceError(f"device {device!r} needs CuPy, which is not installed: {_PIP}")
    try:
        cp = importlib.import_module("cupy")
    except Exception as error:
        raise DeviceError(
            f"device {device!r} needs CuPy, which could not be imported ({error}): {_PIP}"
        ) from error
    if int(cp.__version__.split(".")[0]) < _LEAST_MAJOR:
        raise DeviceError(
            f"device {device!r} needs CuPy {_LEAST_MAJOR} or newer, got {cp.__version__}: {_PIP}"
        )
    return cp


def _n_cards(cp: Any, device: str) -> int:
    """How many cards the driver sees."""
    try:
        n = int(cp.cuda.runtime.getDeviceCount())
    except cp.cuda.runtime.CUDARuntimeError as error:
        text = str(error)
        if "NoDevice" in text:
            n = 0
        else:
            raise DeviceError(
                f"device {device!r} needs NVIDIA's driver, and one as new as the CUDA of CuPy: {text}; "
                f"install the driver, or the extra that fits it: {_PIP}"
            ) from error
    if n == 0:
        raise DeviceError(
            f"device {device!r} needs a card: the driver sees none (is CUDA_VISIBLE_DEVICES set?)"
        )
    return n


def check(device: str) -> Any:
    """CuPy, if the card of that name can be used.

    Raises
    ------
    DeviceError
        It names what is missing: CuPy, the driver or the card.
    """
    number, cp = number_of(device), _cupy(device)
    n = _n_cards(cp, device)
    if number >= n:
        known = "cuda:0" if n == 1 else f"cuda:0 to cuda:{n - 1}"
        raise DeviceError(f"device {device!r} is not there: the driver sees {known}")
    return cp


def cards() -> list[dict[str, Any]]:
    """The cards by "device", "name", "memory" and "free" in bytes and "capability".

    Raises
    ------
    DeviceError
        There is none, or it cannot be asked.
    """
    cp = check("cuda")
    found = []
    for i in range(_n_cards(cp, "cuda")):
        properties = cp.cuda.runtime.getDeviceProperties(i)
        name = properties["name"]
        free, memory = cp.cuda.Device(i).mem_info
        found.append(
            {
                "device": f"cuda:{i}",
                "name": name.decode() if isinstance(name, bytes) else str(name),
                "memory": int(memory),
                "free": int(free),
                "capability": f"{properties['major']}.{properties['minor']}",
            }
        )
    return found
