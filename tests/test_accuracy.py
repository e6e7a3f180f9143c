"""A sample of what `make check-all` looks at in full: errors and steps back of functions of one number."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastnn import kernels

ROOT = Path(__file__).parent.parent
COMPILER = next((name for name in ("gcc", "cc") if shutil.which(name)), None)


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_functions_keep_the_stated_errors_and_their_order(tmp_path: Path) -> None:
    isa = kernels.isa_available()[-1]  # the best one; that all give the same bits is shown elsewhere
    ask = f"import setup; print(*setup.C_FLAGS, *setup.ISA_FLAGS[{isa!r}])"
    told = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, check=True, capture_output=True, text=True)
    program = tmp_path / "accuracy"
    # Of the kernels most are not called: where gcc knows that, it compiles a tenth.
    whole = ["-fwhole-program"] if COMPILER == "gcc" else []
    subprocess.run(
        [str(COMPILER), *told.stdout.split(), *whole, f"-DISA={isa}", f"-I{ROOT / 'csrc'}",
         str(ROOT / "tests/c/accuracy.c"), "-o", str(program), "-lm"], check=True)  # fmt: skip
    ran = subprocess.run([program, "10007"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(ran.stdout.splitlines()) > 50
