"""One of several processes that train together: obeys an order a line, as JSON, and answers each with a line.

recipe, resume      the run, as for `train`
stop                [rank, step]: that process is told to stop after that step
spoil               [rank, step]: the loss of that step is not a number in that process

or
share               so many processes share a batch, of which each such group has one
generation, batch   of the model, and what `random_batch` makes one of
chunk, gradient     as in a recipe
file                where the first process puts the gradient of all
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file

from receptance.errors import ReceptanceError
from receptance.training import TrainingConfig, World, joined_world, load_config, train
from receptance.training.context_parallel import joined_relay
from receptance.training.reading import Reader
from receptance.training.trainer import Trainer
from tests.models.examples import example
from tests.training.test_chunks import MAX_LOGIT, random_batch

Order = Mapping[str, Any]
SECONDS = 120.0  # for an order; then this process says where it hangs, and ends


class Watched(Trainer):
    """A trainer that has the last one at hand, and spoils a loss."""

    last: Watched
    spoil: tuple[int, int] | None = None

    def run(self, *arguments: Any) -> Any:
        Watched.last = self
        whole = self.reader.loss

        def loss(*batch: Any) -> Any:
            loss, nats, *others = whole(*batch)
            if (self.world.rank, self.position.step + 1) == Watched.spoil:
                loss, nats = loss * math.nan, nats * math.nan
            return loss, nats, *others

        self.reader.loss = loss
        return super().run(*arguments)


def take_gradient(order: Order, world: World) -> dict[str, object]:
    """Take a gradient as ordered, and return the loss."""
    model = example(order["generation"]).drop(order["dropout"]).train()
    reader = Reader(model, TrainingConfig(batch_size=1, max_steps=1, max_logit_weight=MAX_LOGIT))
    with joined_relay(world, order["share"]) as relay:
        batch = random_batch(**order["batch"], seed=relay.team)
        chunks = relay.chunks(batch, order["chunk"], order["gradient"])
        learnt = int(world.sum(sum(chunk.num_learnt for chunk in relay.own(chunks)))[0])
        parts = list(relay.backward(reader, (relay.team,), chunks, learnt, order["gradient"]))
        relay.finish()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    world.add_up(list(gradients.values()))
    if world.is_first:
        save_file({name: gradient.contiguous() for name, gradient in gradients.items()}, order["file"])
    return {"loss": world.sum(float(sum(parts)))[0]}


def obey(order: Order, world: World) -> dict[str, object]:
    """Train as ordered, and return how that ended."""
    if "share" in order:
        return take_gradient(order, world)
    done = [0]
    rank, step = order.get("stop") or (0, math.inf)
    Watched.spoil = tuple(order["spoil"]) if order.get("spoil") else None
    try:
        result = train(
            load_config(order["recipe"]),
            resume=order["resume"],
            world=world,
            report=lambda progress: done.append(progress.step),
            stop=lambda: world.rank == rank and done[-1] >= step,
        )
    except ReceptanceError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    state = Watched.last.optimizer.state()
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values()))
    return {
        "step": result.step,
        "interrupted": result.interrupted,
        "validation": result.validation and result.validation.loss,
        "state": digest.hexdigest(),
    }


def main() -> None:
    """Obey until the input ends."""
    import receptance.training.session as session

    session.Trainer = Watched  # type: ignore[misc]  # what `train` makes
    torch.set_num_threads(1)
    with joined_world() as world:
        for line in sys.stdin:
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            print(json.dumps(obey(json.loads(line), world)), flush=True)
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
