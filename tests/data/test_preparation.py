"""Preparing: every document arrives whole in its split, and a failure leaves nothing behind."""

from __future__ import annotations

import io
import json
import lzma
import re
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from receptance.data import (
    Description,
    Progress,
    open_split,
    open_tokenizer,
    preparation,
    prepare,
    prepared_folder,
    read_description,
    shard,
    shards,
    unpacking,
)
from receptance.data.chunks import Chunk
from receptance.errors import ConfigError, DataError, TokenizerError
from receptance.tokenizers import Tokenizer, load_tokenizer

FILES = ["data.json", "train.bin", "train.idx", "validation.bin", "validation.idx"]


def write_lines(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def numbered(count: int) -> list[str]:
    return [f"document number {i}, " + "word " * (i % 7) for i in range(count)]


def documents(folder: Path, split: str) -> list[str]:
    """Return the texts of a split, each of which must end with token 0."""
    store, tokenizer = open_split(folder, split), open_tokenizer(folder)
    arrays = [store.document(i) for i in range(store.documents)]
    assert all(array[-1] == 0 for array in arrays)
    return [tokenizer.decode(array[:-1].tolist()) for array in arrays]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _small(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let little text be read, tokenised and put into a shard at a time."""
    monkeypatch.setattr(unpacking, "CHUNK_BYTES", size)
    monkeypatch.setattr(shards, "SHARD_BYTES", size)
    monkeypatch.setattr(shard, "CHARACTERS_AT_ONCE", size)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "source.jsonl", numbered(200))


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_every_document_arrives_whole_in_one_split(tmp_path: Path, source: Path, tokenizer: str) -> None:
    prepare(source, tmp_path / "out", tokenizer=tokenizer, validation_fraction=0.05)
    train, validation = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "validation")
    assert sorted(train + validation) == sorted(numbered(200))
    assert len(validation) == 10
    assert names(tmp_path / "out") == sorted(FILES + (["tokenizer.json"] if tokenizer == "bpe:300" else []))


def test_a_learnt_vocabulary_has_the_size_asked_for_and_saw_no_validation_text(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    learn = preparation.train_bpe

    def spy(texts: Sequence[str], vocabulary_size: int) -> Tokenizer:
        seen.extend(texts)
        return learn(texts, vocabulary_size)

    monkeypatch.setattr(preparation, "train_bpe", spy)
    description = prepare(source, tmp_path / "out", tokenizer="bpe:280", validation_fraction=0.1)
    assert description.vocabulary_size == open_tokenizer(tmp_path / "out").vocabulary_size == 280
    assert sorted(seen) == sorted(documents(tmp_path / "out", "train"))


def test_a_vocabulary_is_learnt_from_a_bounded_sample_that_no_order_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = []

    def spy(texts: Sequence[str], vocabulary_size: int) -> Tokenizer:
        samples.append(list(texts))
        return load_tokenizer("bytes")

    monkeypatch.setattr(preparation, "train_bpe", spy)
    monkeypatch.setattr(preparation, "BPE_SAMPLE_CHARACTERS", 1000)
    texts = numbered(500)
    prepare(write_lines(tmp_path / "a.jsonl", texts), tmp_path / "one", tokenizer="bpe:300")
    prepare(write_lines(tmp_path / "a.jsonl", texts[::-1]), tmp_path / "two", tokenizer="bpe:300")
    assert samples[0] == samples[1]
    assert 1000 <= sum(map(len, samples[0])) < 1100


def test_the_description_counts_what_the_stores_hold(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    description = prepare([source], out, tokenizer="bytes", validation_fraction=0.1)
    assert read_description(out) == description
    for name, split in description.splits.items():
        store, texts = open_split(out, name), documents(out, name)
        assert (split.documents, split.tokens) == (store.documents, store.tokens)
        assert split.bytes_of_text == sum(len(text.encode()) for text in texts) == split.tokens - len(texts)
        assert split.longest_document == max(store.document(i).size for i in range(store.documents))
        assert split.bytes_per_token == split.bytes_of_text / split.tokens
    written = json.loads((out / "data.json").read_text())
    assert (written["tokenizer"], written["vocabulary_size"], written["end_of_text"]) == ("bytes", 256, 0)
    assert written["made_by"]["sources"] == [str(source)]
    assert written["splits"]["train"]["bytes_per_token"] == pytest.approx(
        description.splits["train"].bytes_per_token, abs=1e-6
    )


def test_however_many_sources_there_are_their_description_can_be_read(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a text")
    sources = [source] * (50_000 // len(str(source)))
    description = prepare(sources, tmp_path / "out", tokenizer="bytes")
    assert read_description(tmp_path / "out") == description
    first, *_, last = description.made_by["sources"]
    assert first == str(source)
    assert last == f"… and {len(sources) - len(description.made_by['sources']) + 1:,} more"


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_the_same_texts_give_the_same_bytes(tmp_path: Path, source: Path, tokenizer: str) -> None:
    for name in ("one", "two"):
        prepare(source, tmp_path / name, tokenizer=tokenizer)
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_no_order_of_sources_moves_a_document_to_the_other_split(tmp_path: Path) -> None:
    texts = numbered(300)
    first = write_lines(tmp_path / "first.jsonl", texts[:100])
    second = write_lines(tmp_path / "second.jsonl", texts[100:])
    prepare([first, second], tmp_path / "one", tokenizer="bytes", validation_fraction=0.1)
    prepare([second, first], tmp_path / "two", tokenizer="bytes", validation_fraction=0.1)
    for split in ("train", "validation"):
        assert set(documents(tmp_path / "one", split)) == set(documents(tmp_path / "two", split))


def test_folders_of_text_and_packed_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("the first\n")
    (tmp_path / "in" / "deep" / "b.jsonl.xz").write_bytes(lzma.compress(b'{"text": "the second"}\n'))
    prepare(tmp_path / "in", tmp_path / "out", tokenizer="bytes", validation_fraction=0)
    assert documents(tmp_path / "out", "train") == ["the first\n", "the second"]


def test_the_output_is_no_source_of_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text " * 100)
    for _ in range(2):
        prepare(tmp_path, tmp_path / "out", tokenizer="bytes", overwrite=True)
        assert open_split(tmp_path / "out", "train").documents == 1


def test_standard_input_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "one"}\n{"text": "two"}\n')))
    prepare("-", tmp_path / "out", tokenizer="bpe:300", validation_fraction=0)
    assert documents(tmp_path / "out", "train") == ["one", "two"]


def test_a_single_document_gives_its_last_lines_for_validation(tmp_path: Path) -> None:
    text = "".join(f"line {i} of the only document\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(text)
    prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes")
    (train,), (validation,) = (documents(tmp_path / "out", split) for split in ("train", "validation"))
    assert train + validation == text
    assert validation.startswith("line 99")
    assert len(validation) == pytest.approx(0.01 * len(text), rel=0.15)


def test_a_corpus_comes_back_from_its_tokens(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "corpora" / "tinyshakespeare.valid.jsonl.xz"
    with lzma.open(source, "rt", encoding="utf-8") as file:
        text = json.loads(file.read())["text"]
    prepare(source, tmp_path / "out", tokenizer="bpe:512")
    assert "".join(documents(tmp_path / "out", s)[0] for s in ("train", "validation")) == text


def test_a_long_document_is_tokenised_in_pieces_and_stored_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"{i}: äöü, some words\n" for i in range(500))
    (tmp_path / "a.txt").write_text(text)
    prepare(tmp_path / "a.txt", tmp_path / "whole", tokenizer="bpe:300")
    monkeypatch.setattr(shard, "CHARACTERS_AT_ONCE", 100)
    prepare(tmp_path / "a.txt", tmp_path / "pieces", tokenizer="bpe:300")
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes(), name


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch, 2**14)

    def peak(count: int) -> int:
        source = write_lines(tmp_path / "a.jsonl", [f"{i} " + "x" * 2000 for i in range(count)])
        tracemalloc.start()
        prepare(source, tmp_path / "out", tokenizer="bytes", validation_fraction=0.1, overwrite=True)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return memory

    peak(10)  # imports
    assert peak(2000) < peak(200) + 200_000  # the text grew by 3.6 MB


def test_duplicates_are_left_out_on_demand(tmp_path: Path) -> None:
    texts = [*numbered(50), *numbered(50)[::-1]]
    source = write_lines(tmp_path / "a.jsonl", texts)
    kept = prepare(source, tmp_path / "kept", tokenizer="bytes")
    assert (kept.duplicates, sum(split.documents for split in kept.splits.values())) == (0, 100)
    once = prepare(source, tmp_path / "once", tokenizer="bytes", deduplicate=True)
    assert (once.duplicates, sum(split.documents for split in once.splits.values())) == (50, 50)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": ""}\n{"text": "\xff"}\n{"text": "\xfe"}\n{"text": "good"}\n'
    )
    description = prepare(tmp_path / "a.jsonl", tmp_path / "out", tokenizer="bytes", errors="skip")
    assert (description.empty, description.undecodable) == (1, 2)


def test_without_validation_there_is_one_split(tmp_path: Path, source: Path) -> None:
    prepare(source, tmp_path / "out", tokenizer="bytes")
    prepare(source, tmp_path / "out", tokenizer="bytes", validation_fraction=0, overwrite=True)
    assert names(tmp_path / "out") == ["data.json", "train.bin", "train.idx"]
    with pytest.raises(DataError, match="has no split 'validation', but only train"):
        open_split(tmp_path / "out", "validation")


def test_a_folder_with_something_in_it_is_replaced_only_on_demand(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out, tokenizer="bpe:300")
    (out / "notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"is not empty.*--overwrite"):
        prepare(source, out, tokenizer="bytes")
    prepare(source, out, tokenizer="bytes", overwrite=True)
    assert names(out) == sorted([*FILES, "notes.md"])
    assert open_tokenizer(out).name == "bytes"


def test_hidden_files_do_not_fill_a_folder(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".keep").touch()
    prepare(source, tmp_path / "out", tokenizer="bytes")
    assert names(tmp_path / "out") == [".keep", *FILES]


class Failing:
    """Makes the byte tokenizer fail after some batches, or when it is saved."""

    def __init__(self, error: BaseException, batches: int | None) -> None:
        self.error, self.batches = error, batches

    def __call__(self, name: str) -> Tokenizer:
        tokenizer = load_tokenizer(name)
        encode_batch = tokenizer.encode_batch

        def encode(texts: Sequence[str]) -> list[list[int]]:
            if self.batches is not None:
                self.batches -= 1
                if self.batches < 0:
                    raise self.error
            return encode_batch(texts)

        def save(folder: Path) -> None:
            raise self.error

        tokenizer.encode_batch = encode  # type: ignore[method-assign] - the point
        tokenizer.save = save  # type: ignore[method-assign] - the point
        return tokenizer


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize(
    "batches", [0, 1, 3, None], ids=lambda n: f"after {n}" if n is not None else "saving"
)
@pytest.mark.parametrize("before", ["nothing", "empty folder"])
def test_whatever_ends_it_early_leaves_nothing(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    batches: int | None,
    before: str,
) -> None:
    monkeypatch.setattr(shard, "CHARACTERS_AT_ONCE", 1000)
    monkeypatch.setattr(preparation, "load_tokenizer", Failing(error, batches))
    out = tmp_path / "out"
    if before == "empty folder":
        out.mkdir()
    with pytest.raises((KeyboardInterrupt, DataError), match=r"out: .* Make room" if error.args else None):
        prepare(source, out, tokenizer="bytes")
    assert out.exists() == (before == "empty folder")
    assert not out.exists() or names(out) == []


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
@pytest.mark.parametrize("stops", [[1], [3, 2, 1]])
def test_what_was_stopped_goes_on_and_makes_the_same_files(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, stops: list[int], tokenizer: str
) -> None:
    _small(monkeypatch, 1000)
    options = {"tokenizer": tokenizer, "deduplicate": True, "validation_fraction": 0.1}
    prepare(source, tmp_path / "whole", **options)
    make, made = shard.ShardMaker.make, []

    def interrupted(self: shard.ShardMaker, chunks: Sequence[Chunk], key: str) -> shard.Shard:
        if len(made) == limit:
            raise KeyboardInterrupt
        made.append(key)
        return make(self, chunks, key)

    monkeypatch.setattr(shard.ShardMaker, "make", interrupted)
    limit = 0
    for stop in stops:
        limit += stop
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", **options)
        assert names(tmp_path / "out") == [preparation.SHARDS]
    limit = 1000
    prepare(source, tmp_path / "out", **options)
    assert len(made) == len(set(made)) > 6  # nothing was made twice
    assert names(tmp_path / "out") == names(tmp_path / "whole")
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("change", ["text", "option", "damage"])
def test_shards_of_other_texts_or_options_or_damaged_ones_are_made_anew(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    _small(monkeypatch, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(prepared_folder, "Joining", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, tmp_path / "out", tokenizer="bytes")
    options = {}
    if change == "text":
        write_lines(source, [*numbered(100), "another text", *numbered(90)])
    elif change == "option":
        options = {"validation_fraction": 0.5}
    else:
        victim = sorted((tmp_path / "out" / preparation.SHARDS).iterdir())[2]
        victim.write_bytes(victim.read_bytes()[:-40])
    prepare(source, tmp_path / "out", tokenizer="bytes", **options)
    prepare(source, tmp_path / "fresh", tokenizer="bytes", **options)
    for name in names(tmp_path / "fresh"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


def test_weights_repeat_and_thin_out_what_is_trained_on_and_leave_validation_alone(tmp_path: Path) -> None:
    texts = {name: [f"{name} {i}" for i in range(400)] for name in ("twice", "half", "more")}
    sources = [write_lines(tmp_path / f"{name}.jsonl", rows) for name, rows in texts.items()]
    plain = prepare(sources, tmp_path / "plain", tokenizer="bytes", validation_fraction=0.1)
    prepare(sources, tmp_path / "mixed", tokenizer="bytes", validation_fraction=0.1, weights=[2, 0.5, 1.25])
    assert documents(tmp_path / "mixed", "validation") == documents(tmp_path / "plain", "validation")
    once, mixed = (Counter(documents(tmp_path / name, "train")) for name in ("plain", "mixed"))
    for name, (least, most), expected in (
        ("twice", (2, 2), 2),
        ("half", (0, 1), 0.5),
        ("more", (1, 2), 1.25),
    ):
        rows = [row for row in once if row.startswith(name)]
        assert {mixed[row] for row in rows} == {least, most}
        assert sum(mixed[row] for row in rows) / len(rows) == pytest.approx(expected, abs=0.08)
    assert plain.splits["train"].documents == once.total()


def test_of_conversations_and_instructions_the_answers_are_learnt(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": f"Yes {i}"}]}
        for i in range(30)
    ] + [{"instruction": "Add.", "input": f"{i}+1", "output": f"{i + 1}"} for i in range(30)]
    rows += [{"text": f"plain text {i}"} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    description = prepare(tmp_path / "a.jsonl", tmp_path / "out", validation_fraction=0.1)
    tokenizer = open_tokenizer(tmp_path / "out")
    found = {}
    for split in ("train", "validation"):
        store = open_split(tmp_path / "out", split)
        assert store.mask is not None
        assert int(store.mask.sum()) == description.splits[split].learnt_tokens
        learnt_bytes = 0
        for index in range(store.documents):
            tokens = store.document(index)
            begin = int(store.borders(0, store.tokens)[index])
            mask = store.mask[begin : begin + tokens.size]
            assert mask[-1] == 1  # the end of the text, at which the model must stop
            learnt = tokenizer.decode(tokens[mask == 1].tolist())
            learnt_bytes += len(learnt)
            found[tokenizer.decode(tokens.tolist())] = learnt
        assert learnt_bytes == description.splits[split].learnt_bytes
    expected = {f"User: Hi {i}\n\nAssistant: Yes {i}": f" Yes {i}" for i in range(30)}
    expected |= {f"User: Add.\n{i}+1\n\nAssistant: {i + 1}": f" {i + 1}" for i in range(30)}
    assert found == expected | {f"plain text {i}": f"plain text {i}" for i in range(30)}


def test_a_document_longer_than_memory_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch, 1000)
    monkeypatch.setattr(unpacking, "ALWAYS_FITS", 5_000)
    monkeypatch.setattr(unpacking, "longest_document_bytes", lambda: 10_000)
    (tmp_path / "long.jsonl").write_text('{"text": "a"}\n' * 5 + '{"text": "' + "b" * 20_000 + '"}\n')
    (tmp_path / "long.txt").write_text("b" * 20_000)
    with pytest.raises(DataError, match=r"long\.jsonl:6: .* more than 10,000 bytes.* free memory"):
        prepare([source, tmp_path / "long.jsonl"], tmp_path / "out", tokenizer="bytes")
    with pytest.raises(DataError, match=r"long\.txt: .* more than 10,000 bytes"):
        prepare([source, tmp_path / "long.txt"], tmp_path / "out", tokenizer="bytes")


def test_whatever_ends_an_overwriting_early_leaves_what_was_there(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare(source, out, tokenizer="bytes")
    old = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(shard, "CHARACTERS_AT_ONCE", 1000)
    monkeypatch.setattr(preparation, "load_tokenizer", Failing(KeyboardInterrupt(), 2))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, tokenizer="bytes", validation_fraction=0.2, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == old


def test_an_overwriting_that_ends_in_its_last_moment_leaves_no_finished_folder(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare(source, out, tokenizer="bytes")

    def fail(self: Description, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Description, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, tokenizer="bytes", overwrite=True)
    with pytest.raises(DataError, match="not finished"):
        open_split(out, "train")


def test_progress_rises_to_the_end(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch, 1000)
    seen: list[Progress] = []
    prepare(source, tmp_path / "out", tokenizer="bpe:300", report=seen.append)
    assert [
        stage for i, stage in enumerate(p.stage for p in seen) if i == 0 or seen[i - 1].stage != stage
    ] == [
        "learning the vocabulary",
        "tokenising",
    ]
    tokenising = [progress for progress in seen if progress.stage == "tokenising"]
    assert len(tokenising) > 3
    assert [p.documents for p in tokenising] == sorted(p.documents for p in tokenising)
    last = tokenising[-1]
    assert last.documents == 200
    assert last.bytes_of_text == sum(len(text) for text in numbered(200))
    assert last.bytes_read == last.bytes_to_read == source.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokenizer": "bpe:many"}, ConfigError, 'asked for as "bpe:4096"'),
        ({"tokenizer": "bpe:10"}, TokenizerError, "10"),
        ({"tokenizer": "no such tokenizer"}, TokenizerError, "no such tokenizer"),
        ({"validation_fraction": 1.0}, ConfigError, "validation_fraction is 1.0"),
        ({"errors": "ignore"}, ConfigError, "errors is 'ignore'"),
        ({"weights": [1, 2]}, ConfigError, "2 weights for 1 sources"),
        ({"weights": [0]}, ConfigError, r"weight of .* is 0, but"),
        ({"processes": -1}, ConfigError, "processes is -1"),
        ({"text_field": "body"}, DataError, r"source\.jsonl:1: this object has no field 'body'"),
    ],
)
def test_a_mistake_is_explained_and_leaves_no_folder(
    tmp_path: Path, source: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(source, tmp_path / "out", **{"tokenizer": "bytes", **arguments})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", r"a\.txt: there is no text"), ("x", "too little text for the split 'validation'")],
)
def test_too_little_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes")


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{source} is a file")):
        prepare(source, source, tokenizer="bytes")
