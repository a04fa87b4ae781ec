"""rwkv.cpp itself computes the same from our files, where librwkv is installed or in LD_LIBRARY_PATH."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import rwkv_cpp, writers
from receptance.checkpoints.stored_model import from_module
from tests.checkpoints.rwkv_cpp_models import GENERATIONS, wide_model


@pytest.fixture
def library() -> ctypes.CDLL:
    name = ctypes.util.find_library("rwkv")
    if name is None:
        pytest.skip("librwkv of rwkv.cpp is not installed")
    library = ctypes.CDLL(name)
    library.rwkv_init_from_file.argtypes = [ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32]
    library.rwkv_init_from_file.restype = ctypes.c_void_p
    for function in (library.rwkv_get_state_len, library.rwkv_get_logits_len):
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_size_t
    library.rwkv_eval.argtypes = [ctypes.c_void_p, ctypes.c_uint32, *[ctypes.c_void_p] * 3]
    library.rwkv_eval.restype = ctypes.c_bool
    library.rwkv_init_state.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.rwkv_free.argtypes = [ctypes.c_void_p]
    library.rwkv_quantize_model_file.argtypes = [ctypes.c_char_p] * 3
    library.rwkv_quantize_model_file.restype = ctypes.c_bool
    return library


def logits(library: ctypes.CDLL, path: Path, tokens: list[int]) -> Tensor:
    model = library.rwkv_init_from_file(str(path).encode(), 1, 0)
    assert model
    state = np.zeros(library.rwkv_get_state_len(model), dtype=np.float32)
    logits = np.zeros(library.rwkv_get_logits_len(model), dtype=np.float32)
    library.rwkv_init_state(model, state.ctypes.data)
    for token in tokens:
        assert library.rwkv_eval(model, token, *[state.ctypes.data] * 2, logits.ctypes.data)
    library.rwkv_free(model)
    return torch.from_numpy(logits)


@torch.no_grad()
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_program_computes_what_we_compute(tmp_path: Path, library: ctypes.CDLL, generation: str) -> None:
    tokens = [3, 5, 20, 7, 9, 1, 28]
    checkpoints.save(wide_model(generation), tmp_path / "a.bin", format="rwkv.cpp")
    override = {"group_norm_epsilon": 1e-5} if generation.startswith("5") else {}
    ours = checkpoints.load(tmp_path / "a.bin", **override).model(torch.tensor([tokens]))[0][0, -1]
    torch.testing.assert_close(ours, logits(library, tmp_path / "a.bin", tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("quantization", rwkv_cpp.QUANTISED)
def test_the_program_quantises_as_we_do(
    tmp_path: Path, library: ctypes.CDLL, generation: str, quantization: str
) -> None:
    pytest.importorskip("gguf")
    model = wide_model(generation)
    checkpoints.save(model, tmp_path / "a.bin", format="rwkv.cpp")
    names = (str(tmp_path / "a.bin"), str(tmp_path / "theirs.bin"), quantization.upper())
    assert library.rwkv_quantize_model_file(*(name.encode() for name in names))
    writers.write(tmp_path / "ours.bin", from_module(model), "rwkv.cpp", quantization)
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
