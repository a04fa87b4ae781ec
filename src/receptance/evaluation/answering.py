"""A model answers the items of a task; what it has answered before is not asked again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from receptance.evaluation.contexts import BATCH_SIZE
from receptance.evaluation.encoding import Encoding
from receptance.evaluation.generation import write_greedily
from receptance.evaluation.items import Answer, Item, Kept, ScoredItem
from receptance.evaluation.kept_answers import KeptAnswers, identity, key_of
from receptance.evaluation.scoring import Scored, score
from receptance.inference import Loaded

Report = Callable[[int, int], None]


def answers(
    lm: Loaded,
    items: Sequence[Item],
    encoding: Encoding,
    *,
    batch_size: int = BATCH_SIZE,
    kept: KeptAnswers | None = None,
    report: Report = lambda done, total: None,
) -> list[Kept]:
    """Return the answer of a model to each item, in order.

    kept    answers that are there already, to which those of now are added
    report  told how many of the items are answered, and how many there are

    Raises ConfigError for a batch size below one, TokenizerError for a text that no UTF-8 can express.
    """
    kept = kept if kept is not None else KeptAnswers({}, None)
    model = identity(lm)
    keys = [key_of(model, encoding, item) for item in items]
    missing = {key: item for key, item in zip(keys, items, strict=True) if key not in kept}
    done = len(items) - len(missing)
    report(done, len(items))
    for key, answer in _answered(lm, missing, encoding, batch_size):
        kept.add(key, answer)
        done += 1
        report(done, len(items))
    return [kept[key] for key in keys]


def _answered(
    lm: Loaded, items: Mapping[str, Item], encoding: Encoding, batch_size: int
) -> Iterator[tuple[str, Kept]]:
    """Yield (key, answer) of each item, in the order in which they are ready."""
    scored = {key: item for key, item in items.items() if isinstance(item, ScoredItem)}
    yield from _scored(lm, scored, encoding, batch_size)
    written: dict[tuple[tuple[str, ...], int], dict[str, str]] = defaultdict(dict)
    for key, item in items.items():
        if isinstance(item, Answer):
            written[item.stop, item.max_tokens][key] = item.prompt
    for (stop, max_tokens), prompts in written.items():
        keys = list(prompts)
        texts = write_greedily(
            lm.runtime,
            encoding.tokenizer,
            [encoding.prompt(prompt) for prompt in prompts.values()],
            stop=stop,
            max_tokens=max_tokens,
            state=lm.tuned_state,
            batch_size=batch_size,
        )
        yield from ((keys[index], text) for index, text in texts)


def _scored(
    lm: Loaded, items: Mapping[str, ScoredItem], encoding: Encoding, batch_size: int
) -> Iterator[tuple[str, Kept]]:
    requests = {key: item.requests(encoding) for key, item in items.items()}
    places = [(key, place) for key, asked in requests.items() for place in range(len(asked))]
    flat = [request for asked in requests.values() for request in asked]
    waiting: dict[str, dict[int, Scored]] = defaultdict(dict)
    for index, scores in score(lm.runtime, flat, state=lm.tuned_state, batch_size=batch_size):
        key, place = places[index]
        waiting[key][place] = scores
        if len(waiting[key]) == len(requests[key]):
            found = waiting.pop(key)
            yield key, items[key].kept([found[place] for place in range(len(found))], encoding)
