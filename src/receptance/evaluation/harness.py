"""Our models in lm-evaluation-harness (lm-eval 0.4), under the name `receptance`.

    python -m receptance.evaluation run --model receptance --model_args pretrained=PATH --tasks piqa

is its command line with the model registered; `import receptance.evaluation.harness` registers it in Python.
With `--apply_chat_template` it asks in turns, as World models know them (`tokenizers.conversation`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from receptance import inference
from receptance.errors import ConfigError
from receptance.evaluation.contexts import BATCH_SIZE
from receptance.evaluation.encoding import Encoding, PrefixName
from receptance.evaluation.generation import write_greedily
from receptance.evaluation.scoring import Request, Scored, score
from receptance.inference.runtime import IntegerFormat, RuntimeName
from receptance.tokenizers.conversation import ANSWER, ASSISTANT, END_OF_TURN, ROLES, Turn, render

T = TypeVar("T")

NEXT_TURN = f"{END_OF_TURN}User:"  # ends an answer, beside what the task says
MAX_TOKENS = 256  # what lm-eval's own models write at most where a task does not say it


class ReceptanceLM(LM):  # type: ignore[misc]  # where lm-eval is not installed, this is of any type
    """A model as lm-eval asks it; nothing is ever cut off, because an RNN has no longest context."""

    def __init__(
        self,
        pretrained: str,
        *,
        prefix: PrefixName = "newline",
        tokenizer: str | None = None,
        dtype: str | None = None,
        runtime: RuntimeName = "auto",
        device: str = "cpu",
        revision: str | None = None,
        state: str | None = None,
        lora: str | None = None,
        lora_alpha: float | None = None,
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | None = None,
    ) -> None:
        """Load a model: `pretrained` and the others are what `receptance.load` takes.

        prefix      what is read before every text: "newline", as in the RWKV-4 paper, "end-of-text" or "none"
        batch_size  how many texts are read at once; "auto" is 16

        Raises what `receptance.load` does, and ConfigError for another prefix or number format.
        """
        super().__init__()
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "cpu"  # lm-eval names cuda:0 where nobody has named a device
        self._lm = inference.load(
            pretrained,
            revision=revision,
            dtype=_dtype(dtype),
            device=device,
            runtime=runtime,
            tokenizer=tokenizer,
            state=state,
            lora=lora,
            lora_alpha=lora_alpha,
        )
        self._encoding = Encoding(self._lm.tokenizer, prefix)
        is_automatic = str(batch_size).startswith("auto")
        self._batch_size = (max_batch_size or BATCH_SIZE) if is_automatic else int(batch_size)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return of each (context, continuation) the log likelihood, and whether greedy writing gives it."""
        asked = [self._encoding.pair(*_with_blank(*request.args)) for request in requests]
        scores = ((index, (each.log_likelihood, each.is_greedy)) for index, each in self._score(asked))
        return self._in_order("loglikelihood", requests, scores, disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log likelihood of each whole text, read once from its beginning to its end."""
        asked = [self._encoding.whole(*request.args) for request in requests]
        scores = ((index, each.log_likelihood) for index, each in self._score(asked))
        return self._in_order("loglikelihood_rolling", requests, scores, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes greedily after each prompt, up to a stop string.

        Raises ConfigError when a task asks for tokens that are drawn.
        """
        texts = self._written([request.args for request in requests])
        return self._in_order("generate_until", requests, texts, disable_tqdm)

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer, by which lm-eval keeps the requests that it has made."""
        return self._lm.tokenizer.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return what conversations look like, for lm-eval to record.

        Raises ConfigError for a template by name: there is one alone.
        """
        if isinstance(chat_template, str):
            raise ConfigError(
                f"the chat template {chat_template!r} was asked for, but RWKV models know one alone, without "
                "a name: give --apply_chat_template and nothing after it."
            )
        return self.apply_chat_template([{"role": role, "content": "…"} for role in ("system", "user")])

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return turns as the text that World models are trained on, up to where the answer begins.

        add_generation_prompt  whether an answer is to begin; else the last turn goes on, with the blanks that
                               it ends with
        """
        turns = [Turn(ROLES[turn["role"]], turn["content"]) for turn in chat_history]
        if add_generation_prompt:
            turns.append(Turn(ASSISTANT, ""))
        last = turns[-1].content
        return "".join(span.text for span in render(turns)) + last[len(last.rstrip()) :]

    def _score(self, asked: Sequence[Request]) -> Iterator[tuple[int, Scored]]:
        lm = self._lm
        return score(lm.runtime, asked, state=lm.tuned_state, batch_size=self._batch_size)

    def _written(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[tuple[int, str]]:
        alike: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        for index, (prompt, settings) in enumerate(asked):
            stop, max_tokens = _stop_and_length(settings)
            if _is_answer(prompt):
                stop = (*stop, NEXT_TURN)
            alike[stop, max_tokens].append(index)
        for (stop, max_tokens), indices in alike.items():
            texts = write_greedily(
                self._lm.runtime,
                self._lm.tokenizer,
                [self._encoding.prompt(asked[index][0]) for index in indices],
                stop=stop,
                max_tokens=max_tokens,
                state=self._lm.tuned_state,
                batch_size=self._batch_size,
            )
            yield from ((indices[place], text) for place, text in texts)

    def _in_order(
        self, kind: str, requests: Sequence[Any], found: Iterator[tuple[int, T]], disable_tqdm: bool
    ) -> list[T]:
        """Return what is found in the order of the requests, and have lm-eval keep it as it comes."""
        answers: dict[int, T] = {}
        for index, answer in tqdm(found, total=len(requests), desc=kind, disable=disable_tqdm):
            answers[index] = answer
            self.cache_hook.add_partial(kind, requests[index].args, answer)
        return [answers[index] for index in range(len(requests))]


def _is_answer(prompt: str) -> bool:
    """Whether a prompt ends in a turn of the assistant; in a conversation a blank line ends a turn."""
    return prompt.rpartition(END_OF_TURN)[2].startswith(ANSWER)


def _with_blank(context: str, continuation: str) -> tuple[str, str]:
    """Return a pair with the blank that an answer begins with, which lm-eval leaves to the chat template."""
    if context.endswith(ANSWER) and not continuation[:1].isspace():
        continuation = f" {continuation}"
    return context, continuation


def _dtype(name: str | None) -> torch.dtype | IntegerFormat | None:
    integers: dict[str | None, IntegerFormat | None] = {None: None, "int8": "int8", "int4": "int4"}
    if name in integers:
        return integers[name]
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype is {name!r}, but it must be one of float32, bfloat16, float16, int8, int4.")
    return found


def _stop_and_length(settings: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """Return the stop strings and the length that lm-eval asks for; refuse what is not greedy."""
    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise ConfigError(
            f"the task asks for tokens that are drawn ({settings}), but here they are always the likeliest: "
            "set do_sample to false, such as by --gen_kwargs do_sample=False."
        )
    stop = settings.get("until") or ()
    stop = (stop,) if isinstance(stop, str) else stop
    return tuple(string for string in stop if string), int(settings.get("max_gen_toks", MAX_TOKENS))


register_model("receptance")(ReceptanceLM)
