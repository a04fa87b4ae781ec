"""Our models in lm-eval: the figures of our own tasks, and those of other programs, on the same items."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from receptance import checkpoints, load
from receptance.errors import ConfigError
from receptance.evaluation import (
    PROPORTIONS,
    Answer,
    Choice,
    Completion,
    Encoding,
    Result,
    Text,
    answers,
    questions,
)
from receptance.evaluation.wikitext import pages
from receptance.inference import Loaded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install lm-eval")
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager

    from receptance.evaluation import harness
    from receptance.evaluation.harness import ReceptanceLM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what lm-eval and what it imports warn of
]

FOLDER = Path(lm_eval.__file__).parent / "tasks"
LIMIT = 5
MODEL = "rwkv-4.0-660K.safetensors"

# Our task, lm-eval's file, the split that it takes, and the metrics that both have.
OFFICIAL = {
    "lambada": ("lambada/lambada_openai.yaml", "test", ("acc", "perplexity")),
    "piqa": ("piqa/piqa.yaml", "validation", ("acc", "acc_norm")),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation", ("acc", "acc_norm")),
    "winogrande": ("winogrande/default.yaml", "validation", ("acc",)),
    "arc_easy": ("arc/arc_easy.yaml", "test", ("acc", "acc_norm")),
    "arc_challenge": ("arc/arc_challenge.yaml", "test", ("acc", "acc_norm")),
    "openbookqa": ("openbookqa/openbookqa.yaml", "test", ("acc", "acc_norm")),
    "sciq": ("sciq/sciq.yaml", "validation", ("acc", "acc_norm")),
    "copa": ("super_glue/copa/default.yaml", "validation", ("acc",)),
    "boolq": ("super_glue/boolq/default.yaml", "validation", ("acc",)),
    "headqa": ("headqa/headqa_en.yaml", "test", ("acc", "acc_norm")),
    "triviaqa": ("triviaqa/default.yaml", "validation", ("exact_match",)),
    "mmlu": ("mmlu/default/mmlu_abstract_algebra.yaml", "test", ("acc",)),
    "wikitext": (
        "wikitext/wikitext.yaml",
        "test",
        ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    ),
    "blimp": ("blimp/anaphor_gender_agreement.yaml", "validation", ("acc",)),
}
SHOTS = {"piqa": 3, "mmlu": 5, "winogrande": 2, "triviaqa": 1, "lambada": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module")
def model_path(shared: Path) -> Path:
    return shared / "data" / "tiny-models" / MODEL


@pytest.fixture(scope="module")
def lm(model_path: Path) -> Loaded:
    return load(model_path, tokenizer="bytes")


def local_task(folder: Path, data: Path, name: str, shots: int) -> str:
    """Write lm-eval's own task with the first rows of a local file as its data, and return its name."""
    official, split, _ = OFFICIAL[name]
    local = f"local_{name}_{shots}"
    files = {split: str(_first_rows(folder, data / questions(name, data).source, LIMIT + shots + 1))}
    examples = "null"
    if name == "mmlu":
        files["dev"] = str(_first_rows(folder, data / "mmlu.dev.jsonl", 5))
        examples = "dev"
    lines = [
        f"include: {FOLDER / official}",
        f"task: {local}",
        "tag: null",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {files}}}",
        "training_split: null",
        f"fewshot_split: {examples if shots else 'null'}",
        *(f"{which}_split: {split if which == split else 'null'}" for which in ("validation", "test")),
        f"num_fewshot: {shots}",
        "fewshot_config: {sampler: first_n}",
    ]
    (folder / f"{local}.yaml").write_text("\n".join(lines) + "\n")
    return local


def _first_rows(folder: Path, source: Path, count: int) -> Path:
    import gzip

    opened = gzip.open if source.suffix == ".gz" else open
    name = source.name.removesuffix(".gz")
    with opened(source, "rt", encoding="utf-8") as lines:
        if name == "wikitext-2.test.txt":
            name = "wikitext.test.jsonl"
            found = islice(pages(lines), count)
            rows = [json.dumps({"page": page[:700]}) + "\n" for page in found]
        else:
            rows = [next(lines) for _ in range(count)]
    path = folder / f"{count}-{name}"
    path.write_text("".join(rows), encoding="utf-8")
    return path


def evaluated(model: Any, folder: Path, task: str, **arguments: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return lm-eval's figures, and what the model answered to each item."""
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        limit=LIMIT,
        bootstrap_iters=0,
        log_samples=True,
        **arguments,
    )
    figures = {name.partition(",")[0]: value for name, value in found["results"][task].items()}
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return figures, [[each[0] for each in sample["resps"]] for sample in samples]


@pytest.mark.parametrize(("name", "shots"), [*((name, 0) for name in OFFICIAL), *SHOTS.items()])
def test_lm_eval_s_figures_are_those_of_our_own_tasks(
    lm: Loaded, model_path: Path, shared: Path, folder: Path, offline: None, name: str, shots: int
) -> None:
    data = shared / "data" / "eval"
    task = local_task(folder, data, name, shots)
    arguments = {"pretrained": str(model_path), "tokenizer": "bytes"}
    figures, responses = evaluated("receptance", folder, task, model_args=arguments)
    first = questions(name, _only(folder, data, name, shots), shots=shots).items[:LIMIT]
    ours = answers(lm, first, Encoding(lm.tokenizer))
    result = Result(first, {"ours": ours})
    for metric in OFFICIAL[name][2]:
        expected = result.estimate("ours", metric).value
        is_exact = metric in PROPORTIONS
        assert figures[metric] == pytest.approx(expected, rel=0 if is_exact else 1e-4)
    for response, answer in zip(responses, ours, strict=True):
        if name == "triviaqa":
            assert response == [answer]
        elif name == "wikitext":
            assert response == [pytest.approx(-answer["nats"], abs=1e-3)]
        elif name == "lambada":
            assert [response[0][0], response[0][1]] == [pytest.approx(answer[0], abs=1e-4), answer[1]]
        else:
            assert [each[0] for each in response] == pytest.approx(answer, abs=1e-4)


def _only(folder: Path, data: Path, name: str, shots: int) -> Path:
    """Return a folder with the same rows under our names."""
    source = data / questions(name, data).source
    place = folder / f"ours-{name}-{shots}"
    place.mkdir()
    rows = _first_rows(folder, source, LIMIT + shots + 1)
    (place / rows.name.partition("-")[2]).write_bytes(rows.read_bytes())
    if name == "mmlu":
        (place / "mmlu.dev.jsonl").write_bytes((data / "mmlu.dev.jsonl").read_bytes())
    return place


class Logits(TemplateLM):  # type: ignore[misc]  # where lm-eval is not installed, this is of any type
    """Another program's model as lm-eval's own template asks it: one text at a time, a line break before."""

    def __init__(self, logits_of: Any) -> None:
        super().__init__()
        self.logits_of = logits_of

    eot_token_id = 10  # what an empty context becomes

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        return list(string.encode())

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        found = []
        for (context, _), before, after in requests:
            tokens = [*([10] if context else []), *before, *after]
            said = self.logits_of(tokens[:-1])[-len(after) :].double().log_softmax(-1)
            following = torch.tensor(after)
            is_greedy = bool((said.argmax(-1) == following).all())
            found.append((float(said.gather(-1, following[:, None]).sum()), is_greedy))
        return found

    def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
        return [
            self._loglikelihood_tokens([(("", ""), [10], self.tok_encode(*request.args))])[0][0]
            for request in requests
        ]

    def generate_until(self, requests: Any, **_: Any) -> list[str]:
        raise NotImplementedError


@pytest.fixture(params=["rwkv", "transformers"])
def theirs(request: pytest.FixtureRequest, model_path: Path, tmp_path: Path) -> Iterator[Logits]:
    if request.param == "rwkv":
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("RWKV_JIT_ON", "0")
            environment.setenv("RWKV_CUDA_ON", "0")
            rwkv = pytest.importorskip("rwkv.model")
            torch.save(checkpoints.load(model_path).model.state_dict(), tmp_path / "model.pth")
            pip = rwkv.RWKV(model=str(tmp_path / "model"), strategy="cpu fp32", verbose=False)
            yield Logits(lambda tokens: pip.forward(tokens, None, full_output=True)[0])
        return
    transformers = pytest.importorskip("transformers")
    checkpoints.save(checkpoints.load(model_path).model, tmp_path / "folder", format="transformers")
    module = transformers.RwkvForCausalLM.from_pretrained(tmp_path / "folder").eval()
    with torch.inference_mode():
        yield Logits(lambda tokens: module(torch.tensor([tokens]), use_cache=False).logits[0])


@pytest.mark.parametrize("name", ["lambada", "piqa", "winogrande", "sciq", "blimp"])
def test_other_programs_give_the_same_figures_through_lm_eval(
    theirs: Logits, model_path: Path, shared: Path, folder: Path, offline: None, name: str
) -> None:
    task = local_task(folder, shared / "data" / "eval", name, 0)
    figures, responses = evaluated(ReceptanceLM(str(model_path), tokenizer="bytes"), folder, task)
    expected, expected_responses = evaluated(theirs, folder, task)
    for metric in set(OFFICIAL[name][2]) - {"perplexity"}:
        assert figures[metric] == expected[metric]
    for ours, others in zip(responses, expected_responses, strict=True):
        for (log_likelihood, is_greedy), (other, other_is_greedy) in zip(ours, others, strict=True):
            assert log_likelihood == pytest.approx(other, abs=1e-4)
            assert is_greedy == other_is_greedy


class Instance:
    """What lm-eval hands to a model."""

    def __init__(self, *arguments: Any) -> None:
        self.args = arguments


def test_a_whole_text_is_read_to_its_end(lm: Loaded, model_path: Path, theirs: Logits) -> None:
    texts = ["Once upon a time there was a girl.", "", "x" * 700]
    found = ReceptanceLM(str(model_path), tokenizer="bytes").loglikelihood_rolling(
        [Instance(t) for t in texts]
    )
    ours = answers(lm, [Text.of(text) for text in texts], Encoding(lm.tokenizer))
    assert found == pytest.approx([-each["nats"] for each in ours], abs=1e-4)
    assert found[1] == 0
    (other,) = theirs.loglikelihood_rolling([Instance(texts[0])])
    assert found[0] == pytest.approx(other, abs=1e-4)


def test_text_is_written_until_a_stop_string_or_its_length(lm: Loaded, model_path: Path) -> None:
    model = ReceptanceLM(str(model_path), tokenizer="bytes", prefix="none", batch_size="auto")
    asked = [
        Instance("Once", {"until": ["e", ""], "max_gen_toks": 20, "do_sample": False}),
        Instance("Upon", {"until": "zzz", "max_gen_toks": 3}),
    ]
    expected = [
        lm.generate("Once", max_tokens=20, stop="e", temperature=0),
        lm.generate("Upon", max_tokens=3, temperature=0),
    ]
    assert model.generate_until(asked, disable_tqdm=True) == expected
    with pytest.raises(ConfigError, match="the task asks for tokens that are drawn"):
        model.generate_until([Instance("a", {"do_sample": True, "temperature": 0.7})])


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "One?\n\nTwo?"},
    {"role": "assistant", "content": "Three."},
    {"role": "user", "content": "Four?"},
]
RENDERED = "System: Be brief.\n\nUser: One?\nTwo?\n\nAssistant: Three.\n\nUser: Four?\n\nAssistant:"


def test_turns_are_rendered_as_world_models_know_them(model_path: Path) -> None:
    model = ReceptanceLM(str(model_path), tokenizer="bytes")
    assert model.apply_chat_template([SYSTEM, *TURNS]) == RENDERED
    begun = [SYSTEM, *TURNS, {"role": "assistant", "content": "The answer is "}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == f"{RENDERED} The answer is "
    assert model.tokenizer_name == "bytes"
    with pytest.raises(ConfigError, match="the chat template 'short' was asked for"):
        model.chat_template("short")


@pytest.mark.parametrize("name", ["piqa", "triviaqa"])
def test_a_task_is_asked_in_turns(
    lm: Loaded, model_path: Path, shared: Path, folder: Path, offline: None, name: str
) -> None:
    """An answer begins with a blank, and ends where the next turn begins."""
    data = shared / "data" / "eval"
    task = local_task(folder, data, name, 0)
    model = ReceptanceLM(str(model_path), tokenizer="bytes")
    _, responses = evaluated(
        model, folder, task, apply_chat_template=True, system_instruction=SYSTEM["content"]
    )
    encoding = Encoding(lm.tokenizer)
    for item, response in zip(questions(name, data, limit=LIMIT).items, responses, strict=True):
        if isinstance(item, Choice):
            head = model.apply_chat_template([SYSTEM, {"role": "user", "content": item.contexts[0]}])
            asked = [Completion(context=head, ending=f" {ending}") for ending in item.endings]
            expected = [each[0] for each in answers(lm, asked, encoding)]
            assert [each[0] for each in response] == pytest.approx(expected, abs=1e-4)
        elif isinstance(item, Answer):
            head = model.apply_chat_template([SYSTEM, {"role": "user", "content": item.prompt}])
            stop = (*item.stop, "\n\nUser:")
            assert response == [lm.generate(f"\n{head}", max_tokens=256, stop=stop, temperature=0)]


def test_an_answer_ends_where_the_next_turn_begins(model_path: Path) -> None:
    """A model that would say "\\n\\nUser:" is stopped there, but not in a text that is no conversation."""
    model = ReceptanceLM(str(model_path), tokenizer="bytes")
    settings = {"until": ["."], "max_gen_toks": 8}
    stops: list[tuple[str, ...]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(harness, "write_greedily", lambda *_, stop, **__: stops.append(stop) or iter(()))
        list(
            model._written([(RENDERED, settings), (f"{RENDERED} So", settings), ("Assistant. So", settings)])
        )
    assert stops == [(".", "\n\nUser:"), (".",)]
