"""Sources: which files are read, how each kind is, and what is said of those that cannot be."""

from __future__ import annotations

import base64
import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receptance.data import unpacking
from receptance.data.sources import Sources, keep_standard_input
from receptance.errors import ConfigError, DataError

TEXT = "first line\r\nzweite Zeile: äöü 😀\n"


def texts_of(sources: Sources) -> list[str]:
    return [document.text for document in sources]


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_text_file_is_one_document_and_keeps_its_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    assert texts_of(Sources([tmp_path / "a.txt"])) == [TEXT]


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_packed_files_are_unpacked(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(TEXT.encode()))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(lines({"text": "one"}, {"text": "two"})))
    assert texts_of(Sources([tmp_path])) == [TEXT, "one", "two"]


def zstandard() -> object:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return None


@pytest.mark.skipif(zstandard() is None, reason="needs Python 3.14 or the package backports.zstd")
def test_zst_is_unpacked_where_something_can(tmp_path: Path) -> None:
    with zstandard().open(tmp_path / "a.txt.zst", "wb") as file:
        file.write(TEXT.encode())
    assert texts_of(Sources([tmp_path])) == [TEXT]


def test_zst_without_an_unpacker_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    (tmp_path / "a.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(
        DataError, match=r"a\.txt\.zst: reading \.zst needs Python 3\.14 or .*backports\.zstd"
    ):
        texts_of(Sources([tmp_path]))


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2"])
@pytest.mark.parametrize("damage", ["cut off", "not packed", "bits"])
def test_a_damaged_packed_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    pack = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[suffix]
    packed = bytearray(pack(lines(*({"text": f"text {i * i}"} for i in range(1000)))))
    if damage == "cut off":
        del packed[len(packed) // 2 :]
    elif damage == "not packed":
        packed = bytearray(b"this is plain text, long enough to be no header")
    else:
        packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=rf"a\.jsonl\.{suffix}"):
        texts_of(Sources([path]))


def test_json_lines_give_the_chosen_field(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + lines({"body": "one", "text": "no"}) + b"\n  \n" + lines({"body": "two"})[:-1]
    )
    texts = Sources([path], text_field="body")
    assert texts_of(texts) == ["one", "two"]
    assert texts.empty == 0  # a blank line is no document


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'["text"]', r"a\.jsonl:2: this is a list, but an object"),
        (b'"text"', r"a\.jsonl:2: this is a text"),
        (b'{"id": 1, "body": "x"}', r"a\.jsonl:2: this object has no field 'text'; its fields: 'id', 'body'"),
        (b"{}", r"a\.jsonl:2: .* its fields: none"),
        (b'{"text": null}', r"a\.jsonl:2: the field 'text' is null"),
        (b'{"text": ', r"a\.jsonl:2: this line is not JSON"),
        (b"[" * 100_000, r"a\.jsonl:2: this line is not JSON"),
        (b'{"text": "\xff"}', r"a\.jsonl:2: byte 25 \(0xff\) is not UTF-8"),
        (b'{"text": "\\ud800"}', r"a\.jsonl:2: character 0 of the text is half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "12"}) + line + b"\n")
    with pytest.raises(DataError, match=message):
        texts_of(Sources([tmp_path / "a.jsonl"]))


def test_bytes_that_are_not_utf8_stop_or_are_replaced_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good \xff bad")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x\xfey"}\n{"text": "\\ud83d!"}\n{"text": "fine"}\n')
    with pytest.raises(DataError, match=r"a\.txt: byte 5 \(0xff\) is not UTF-8"):
        texts_of(Sources([tmp_path]))
    assert texts_of(Sources([tmp_path], errors="replace")) == ["good � bad", "x�y", "�!", "fine"]
    skipping = Sources([tmp_path], errors="skip")
    assert texts_of(skipping) == ["fine"]
    assert skipping.undecodable == 3
    assert texts_of(skipping) == ["fine"]
    assert skipping.undecodable == 3  # not 6: it is that of the latest iteration


def test_utf16_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("hello".encode("utf-16"))
    with pytest.raises(DataError, match="looks like UTF-16"):
        texts_of(Sources([tmp_path]))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("hello".encode("utf-8-sig"))
    assert texts_of(Sources([tmp_path])) == ["hello"]


def test_documents_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(lines({"text": ""}, {"text": " \n\t"}, {"text": "x"}))
    texts = Sources([tmp_path])
    assert texts_of(texts) == ["x"]
    assert texts.empty == 3


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.py", "a.py", "z.txt", "note.md", "lib/c.py", "lib/deep/d.py", "lib/data.jsonl", "tests/e.py",
        ".hidden/f.py", ".g.txt", "tests/lib/h.py",
    ):  # fmt: skip
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines({"text": name}) if name.endswith("jsonl") else name.encode())
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree", target_is_directory=True)
    (tmp_path / "tree" / "dead.py").symlink_to(tmp_path / "nowhere")
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("include", "exclude", "found"),
    [
        ([], [], ["z.txt", "lib/data.jsonl"]),
        (["*.py"], [], ["a.py", "b.py", "lib/c.py", "lib/deep/d.py", "tests/e.py", "tests/lib/h.py"]),
        (["*.py"], ["tests"], ["a.py", "b.py", "lib/c.py", "lib/deep/d.py"]),
        (["*.py"], ["tests/"], ["a.py", "b.py", "lib/c.py", "lib/deep/d.py"]),
        (["*.py"], ["lib"], ["a.py", "b.py", "tests/e.py"]),
        (["**/*.py"], ["lib/*", "b.*"], ["a.py", "tests/e.py", "tests/lib/h.py"]),
        (["lib/*.py", "*.md"], [], ["note.md", "lib/c.py", "lib/deep/d.py"]),
    ],
)
def test_a_folder_is_searched_in_a_fixed_order(
    tree: Path, include: list[str], exclude: list[str], found: list[str]
) -> None:
    assert texts_of(Sources([tree], include=include, exclude=exclude)) == found


def test_a_file_named_directly_is_read_whatever_the_globs_say(tree: Path) -> None:
    assert texts_of(Sources([tree / "note.md", tree / ".g.txt"], include=["*.py"], exclude=["*"])) == [
        "note.md",
        ".g.txt",
    ]


def test_sources_come_in_the_order_given(tree: Path) -> None:
    assert texts_of(Sources([tree / "z.txt", tree / "lib", tree / "a.py"])) == [
        "z.txt",
        "lib/data.jsonl",
        "a.py",
    ]


def test_a_folder_to_be_left_out_is_not_searched(tree: Path) -> None:
    assert texts_of(Sources([tree], leave_out=tree / "lib")) == ["z.txt"]


def test_a_folder_without_texts_says_what_it_has(tree: Path) -> None:
    (tree / "z.txt").unlink()
    with pytest.raises(
        DataError, match=r"tests has no file to read: wanted \.txt.*found 2 with \.py.*--include"
    ):
        texts_of(Sources([tree / "tests"]))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        texts_of(Sources([tmp_path / "nowhere"]))
    with pytest.raises(DataError, match="/dev/null is neither a file nor a folder"):
        texts_of(Sources(["/dev/null"]))
    with pytest.raises(DataError, match="No source"):
        Sources([])
    with pytest.raises(ConfigError, match="errors is 'ignore'"):
        Sources(["a"], errors="ignore")  # type: ignore[arg-type] - the point


@pytest.mark.parametrize(
    ("piped", "texts"),
    [
        (b"plain\ntext\n", ["plain\ntext\n"]),
        (b'{"a": 1}\n', ['{"a": 1}\n']),  # JSON, but without the field: text
        (b'{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        (b"", []),
    ],
)
def test_standard_input_is_read_as_often_as_needed(
    monkeypatch: pytest.MonkeyPatch, piped: bytes, texts: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped)))
    with keep_standard_input() as kept:
        sources = Sources(["-"], standard_input=kept)
        assert texts_of(sources) == texts
        assert sources.bytes_to_read() == len(piped)
        assert texts_of(sources) == texts
        assert sources.bytes_read == len(piped)


def test_standard_input_needs_a_stream() -> None:
    with pytest.raises(DataError, match="seekable"):
        Sources(["-"])


def test_progress_counts_the_bytes_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*({"text": "x" * 999} for _ in range(500)))))
    (tmp_path / "b.txt").write_bytes(b"y" * 100)
    sources = Sources([tmp_path])
    size = (tmp_path / "a.jsonl.gz").stat().st_size + 100
    assert sources.bytes_to_read() == size
    seen = [sources.bytes_read for _ in sources]
    assert seen == sorted(seen)
    assert 0 < seen[0] <= size
    assert sources.bytes_read == size


line_like = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: json.dumps({"text": text}).encode()),
    st.text(max_size=20).map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5).map(
        lambda value: json.dumps({"text": value}).encode()
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(line_like, max_size=4), errors=st.sampled_from(["strict", "replace", "skip"]))
def test_any_bytes_are_texts_or_an_error_that_names_the_file(
    tmp_path: Path, rows: list[bytes], errors: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    try:
        texts = texts_of(Sources([tmp_path / "a.jsonl"], errors=errors))
    except DataError as error:
        assert "a.jsonl:" in str(error)  # noqa: PT017 - either outcome is right
    else:
        for text in texts:
            text.encode()
            assert not text.isspace()


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
def test_a_document_that_unpacks_to_far_more_than_text_does_is_refused(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[suffix]
    path = tmp_path / f"a{kind}{suffix}"
    path.write_bytes(pack(b'{"text": "' + b" " * 20_000_000 + b'"}'))
    with pytest.raises(
        DataError, match=rf"a{kind}{suffix}(:1)?: a document in it unpacks to more than 16,777,216"
    ):
        texts_of(Sources([path]))


def test_a_packed_document_may_be_as_long_as_its_file_allows(tmp_path: Path) -> None:
    text = base64.b64encode(random.Random(0).randbytes(13_000_000)).decode()  # packs to three quarters
    assert len(text) > 2**24
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode(), 1))
    assert texts_of(Sources([tmp_path])) == [text]


def test_folders_in_folders_are_searched_or_refused_however_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_deep(folder: Path, **_: object) -> Iterator[tuple[str, list[str], list[str]]]:
        yield str(folder), ["d"], []
        raise RecursionError

    monkeypatch.setattr(os, "walk", too_deep)
    with pytest.raises(DataError, match="too deep to be searched"):
        texts_of(Sources([tmp_path]))


def test_a_json_array_is_a_document_an_item(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"instruction": "Say two.", "output": "two"}]
    (tmp_path / "a.json").write_text(" \n" + json.dumps(rows, indent=1))
    assert texts_of(Sources([tmp_path])) == ["one", "User: Say two.\n\nAssistant: two"]
    (tmp_path / "a.json").write_text(json.dumps([*rows, {"no": 1}]))
    with pytest.raises(DataError, match=r"a\.json: item 3: this object has no field 'text'"):
        texts_of(Sources([tmp_path]))


def test_chunks_are_whole_lines_and_say_where_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "CHUNK_BYTES", 30)
    content = lines(*({"text": "x" * (i % 50)} for i in range(40)))
    (tmp_path / "a.jsonl").write_bytes(content)
    chunks = [chunk for _, chunk in Sources([tmp_path]).chunks()]
    assert b"".join(chunk.data for chunk in chunks) == content
    for chunk in chunks:
        assert chunk.data.endswith(b"\n")
        assert chunk.first == content[: chunk.position].count(b"\n") + 1
    assert sum(chunk.size for chunk in chunks) == len(content)
    assert len(chunks) > 10
