"""OpenVINO: our torch module's step for one token, traced, with the state kept inside; weights by NNCF.

A prompt would be as many steps, because the loop over tokens does not become a graph. RWKV-7 is computed in
float32: told to compute in bfloat16, OpenVINO 2026.4 gets logits that are wrong by 40 %, torch by 0.6 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import receptance
from benchmarks.peers.engine import Engine, Logits, Request, Tokens
from receptance import kernels
from receptance.models import AnyModel, State

GROUP = 32


class Step(nn.Module):
    """The model as a function of tensors alone."""

    def __init__(self, model: AnyModel) -> None:
        super().__init__()
        self.model = model
        self.state_type: type[State] = type(model.initial_state(1))
        self.names = list(model.initial_state(1).tensors())

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the logits and the state after the token."""
        before = self.state_type(**dict(zip(self.names, state, strict=True)))
        # A trace records nothing of what compiled kernels write.
        with kernels.use(norm_mix="reference", **{self.model.config.operator: "reference"}):
            logits, after = self.model(tokens, before)
        return logits[:, -1], *after.tensors().values()


class OpenVINO(Engine):
    """A compiled graph for each number of texts."""

    reads_spans = False

    def __init__(self, request: Request) -> None:
        self.request = request
        self.model = receptance.load(request.source, dtype=torch.float32).model
        self.compiled: dict[int, Any] = {}  # Any: requests of OpenVINO
        self.running: Any = None

    def start(self, batch: int) -> None:
        """Put the state of an empty text into the graph, made where there is none yet."""
        if batch not in self.compiled:
            self.compiled[batch] = compiled(self.model, self.request, batch)
        self.running = self.compiled[batch]
        import openvino

        initial = self.model.initial_state(batch).tensors()
        for variable in self.running.query_state():
            name = variable.name.partition("after ")[2]  # it is called by its input and its output
            variable.state = openvino.Tensor(initial[name].numpy().copy())

    def read(self, tokens: Tokens) -> Logits:
        """Read token by token."""
        for column in np.hsplit(tokens, tokens.shape[1]):
            self.running.infer([np.ascontiguousarray(column)], share_inputs=True)
        logits: Logits = self.running.get_output_tensor(0).data
        return logits


@torch.inference_mode()
def compiled(model: AnyModel, request: Request, batch: int) -> Any:
    """Return a request of the graph for so many texts."""
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    step = Step(model)
    state = model.initial_state(batch).tensors()
    example = (torch.zeros(batch, 1, dtype=torch.int64), *state.values())
    traced = torch.jit.trace(step, example, check_trace=False)
    shapes = [tuple(tensor.shape) for tensor in example]
    graph = openvino.convert_model(traced, example_input=example, input=shapes)
    for port, name in zip(graph.inputs, ("tokens", *state), strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.outputs, ("logits", *state), strict=True):
        port.get_tensor().set_names({f"after {name}"})
    apply_make_stateful_transformation(graph, {name: f"after {name}" for name in state})
    if request.matrix_format in ("int8", "int4"):
        graph = rounded(graph, request.matrix_format)
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": request.threads}
    is_exact = request.matrix_format == "float32" or model.config.generation == "7"
    settings["INFERENCE_PRECISION_HINT"] = "f32" if is_exact else "bf16"
    return openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()


def rounded(graph: Any, matrix_format: str) -> Any:
    """Round the weights: int8 with a scale a row, int4 with one for 32 columns, both symmetric."""
    import nncf

    if matrix_format == "int8":
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
    return nncf.compress_weights(
        graph, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=GROUP, ratio=1.0, all_layers=True
    )


def open_engine(request: Request) -> Engine:
    """Load the file, and make the graph for one text."""
    engine = OpenVINO(request)
    engine.start(1)
    return engine
