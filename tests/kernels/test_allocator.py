from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from receptance import native


@pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))
def test_it_tells_whether_the_c_library_could_be_told() -> None:
    code = "from receptance import kernels; print(kernels.tune_allocator())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )  # for good
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
