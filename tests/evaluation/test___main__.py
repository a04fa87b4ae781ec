"""`python -m receptance.evaluation`: lm-eval's command line with our model in it, or how to get it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "receptance.evaluation", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_it_says_how_to_get_it() -> None:
    found = run("--help")
    assert found.returncode == 1
    assert "pip install receptance[evaluation]" in found.stderr


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval: pip install lm-eval")
def test_with_it_the_command_is_lm_eval_s() -> None:
    found = run("--help")
    assert found.returncode == 0
    assert "lm-eval" in found.stdout
