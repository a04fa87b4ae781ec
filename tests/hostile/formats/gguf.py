"""GGUF files of llama.cpp."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import torch

from receptance.checkpoints.gguf.container import TYPES
from tests.checkpoints.gguf.gguf_bytes import Tensor, array, gguf_file, number, string, text, value
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import read
from tests.models.examples import example

FILE = "model.gguf"
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def sizes(generation: str) -> dict[str, int]:
    """Return the sizes of an example, by llama.cpp's keys."""
    config = example(generation, torch.float32).config
    common = {
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.feed_forward_size,
        "wkv.head_size": config.head_size,
    }
    if generation == "6":
        return common | {"time_mix_extra_dim": 3, "time_decay_extra_dim": 5, "rescale_every_n_layers": 2}
    return common | {"attention.decay_lora_rank": 3, "attention.gate_lora_rank": 6}


def metadata(generation: str) -> dict[str, bytes]:
    """Return what an honest file says, value by value."""
    rows = [b"<s>", *(bytes([65 + row]) for row in range(28))]
    return {
        "general.architecture": text(f"rwkv{generation}"),
        "general.name": text("example"),
        **{f"rwkv{generation}.{key}": number(size) for key, size in sizes(generation).items()},
        f"rwkv{generation}.attention.layer_norm_epsilon": value(F32, 1e-5),
        "tokenizer.ggml.model": text("rwkv"),
        "tokenizer.ggml.tokens": array(STRING, rows),
        "tokenizer.ggml.token_type": array(5, [3, *[1] * 28]),
    }


def tensors(generation: str) -> list[Tensor]:
    """Return the tensors of an honest file."""
    from receptance.checkpoints.contents import weights
    from receptance.checkpoints.gguf.layout import layout

    model = example(generation, torch.float32)
    named = layout(f"rwkv{generation}", model.config.head_size).to_foreign(weights(model.state_dict()))
    found: list[Tensor] = []
    place = 0
    for name, weight in named.items():
        numbers = bytes(weight.numbers())
        found.append((name, tuple(reversed(weight.shape)), 0, place, numbers))
        place += -(-len(numbers) // 32) * 32
    return found


def honest(generation: str) -> bytes:
    """Return a valid file."""
    return gguf_file(metadata(generation), tensors(generation))


def examples() -> list[Example]:
    """Both generations."""
    found = []
    for generation in ("6", "7"):
        content = honest(generation)
        end_of_metadata = len(gguf_file(metadata(generation), alignment=1))
        numbers = (
            len(content)
            - len(gguf_file((), tensors(generation)))
            + len(gguf_file((), [(*t[:4], b"") for t in tensors(generation)]))
        )
        borders = [4, 8, 24, end_of_metadata, numbers]
        found.append(Example(f"RWKV-{generation}", {FILE: content}, FILE, {FILE: borders}))
    return found


def attacks() -> Iterator[Case]:
    """Lies about counts, metadata and tensors, one at a time."""
    said, parts = metadata("7"), tensors("7")
    for lie in values.UNSIGNED:
        yield _case(f"{lie} tensors", gguf_file(said, parts, num_tensors=lie))
        yield _case(f"{lie} keys", gguf_file(said, parts, num_keys=lie))
        if lie < 2**32:
            yield _case(f"version {lie}", gguf_file(said, parts, version=lie))
    yield from _keys(said, parts)
    yield from _arrays(said, parts)
    yield from _entries(said, parts)
    yield from _bombs(said, parts)


def _case(name: str, content: bytes, *, loads: bool | None = False) -> Case:
    return Case.of(name, {FILE: content}, FILE, loads=loads)


def _keys(said: dict[str, bytes], parts: list[Tensor]) -> Iterator[Case]:
    for key in said:
        without = {k: v for k, v in said.items() if k != key}
        needed = key in ("general.architecture", "rwkv7.wkv.head_size")
        yield _case(f"without {key}", gguf_file(without, parts), loads=not needed)
        size = key.startswith("rwkv7.") and "epsilon" not in key
        for lie in (0, 1, 2**31, 2**32 - 1):
            may_load = not size or (key.endswith("head_size") and lie == 1)  # of which heads there are more
            lied = {**said, key: number(lie)}
            yield _case(f"{key} is {lie}", gguf_file(lied, parts), loads=None if may_load else False)
        for kind, name in ((11, "negative"), (12, "a float"), (BOOL, "a bool")):
            content = value(kind, {11: -1, 12: float("nan"), BOOL: True}[kind])
            yield _case(
                f"{key} is {name}", gguf_file({**said, key: content}, parts), loads=False if size else None
            )
        for content in (text(""), text("\x1b[31m" * 1000), text("7"), array(U32, []), array(STRING, ["7"])):
            yield _case(
                f"{key} is {content[:12]!r}",
                gguf_file({**said, key: content}, parts),
                loads=False if size else None,
            )
        for kind in (13, 2**31, 2**32 - 1):
            lied = {**said, key: struct.pack("<I", kind) + said[key][4:]}
            yield _case(f"{key} is of type {kind}", gguf_file(lied, parts))
        yield _case(f"{key} twice", gguf_file([*said.items(), (key, said[key])], parts))
    for alignment in (0, 1, 3, 4, 2**31, 2**32 - 1):
        yield _case(
            f"alignment {alignment}", gguf_file({**said, "general.alignment": number(alignment)}, parts)
        )
    for name in (
        "llama",
        "rwkv6",
        "arwkv7",
        "rwkv6qwen2",
        "RWKV7",
        "rwkv7\x00",
        "",
        "x" * 100_000,
        "\x1b[2J",
    ):
        yield _case(
            f"architecture {name[:20]!r}", gguf_file({**said, "general.architecture": text(name)}, parts)
        )
    for raw in (b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80"):
        yield _case(f"a key {raw!r}", gguf_file([*said.items(), (raw, number(1))], parts))
        yield _case(f"a text {raw!r}", gguf_file({**said, "general.name": text(raw)}, parts))
    for epsilon in (float("inf"), -1.0, 0.0):
        for key in ("layer_norm_epsilon", "group_norm_epsilon"):
            lied = {**said, f"rwkv7.attention.{key}": value(F32, epsilon)}
            loads = False if key[0] == "l" or epsilon == float("inf") else None
            yield _case(f"{key} {epsilon}", gguf_file(lied, parts), loads=loads)
    for every in values.UNSIGNED:
        lied = {**metadata("6"), "rwkv6.rescale_every_n_layers": value(10, every)}
        yield _case(f"rescaled every {every}", gguf_file(lied, tensors("6")), loads=None)


def _arrays(said: dict[str, bytes], parts: list[Tensor]) -> Iterator[Case]:
    key = "tokenizer.ggml.tokens"
    for kind in (*range(14), 2**31, 2**32 - 1):
        for count in (0, 29, 2**20 + 1, 2**31, 2**63, 2**64 - 1):
            lied = {**said, key: struct.pack("<IIQ", ARRAY, kind, count) + said[key][16:]}
            yield _case(f"tokens are {count} of type {kind}", gguf_file(lied, parts), loads=None)
    for length in values.UNSIGNED:
        lied = {**said, key: struct.pack("<IIQQ", ARRAY, STRING, 1, length) + b"a"}
        yield _case(f"a token of {length} bytes", gguf_file(lied, parts), loads=True if length == 1 else None)
    for tokens in (
        [],
        [b""],
        [b"\\"],
        [b"\\x"],
        [b"\\xg1"] * 29,
        [b"\xff"] * 256,
        [b"\\x1"] * 256,
        [b"[PAD0]"] * 29,
    ):
        yield _case(
            f"tokens {str(tokens)[:30]}", gguf_file({**said, key: array(STRING, tokens)}, parts), loads=True
        )
    nested = struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", ARRAY, 1) * 50_000
    yield _case("arrays in arrays", gguf_file({**said, key: nested}, parts))


def _entries(said: dict[str, bytes], parts: list[Tensor]) -> Iterator[Case]:
    place = next(i for i, part in enumerate(parts) if part[0] == "blk.1.time_mix_key.weight")
    name, shape, kind, begin, numbers = parts[place]

    def changed(what: str, entry: Tensor, *, loads: bool | None = False) -> Case:
        return _case(
            f"{name!s} {what}", gguf_file(said, [*parts[:place], entry, *parts[place + 1 :]]), loads=loads
        )

    for other in (*TYPES, 4, 5, 31, 36, 41, 255, 2**31, 2**32 - 1):
        if other != kind:
            yield changed(f"is of type {other}", (name, shape, other, begin, numbers))
    for lie in values.UNSIGNED:
        yield changed(f"lies at {lie}", (name, shape, kind, lie, numbers))
        yield changed(f"has {lie} columns", (name, (lie, shape[1]), kind, begin, numbers))
        yield changed(f"has {lie} rows", (name, (shape[0], lie), kind, begin, numbers))
    for lie in (
        (),
        (256,),
        (16, 1, 16),
        (1, 16, 16),
        (16, 16, 1, 1),
        (4, 4, 4, 4),
        (1,) * 5,
        (2**62, 0),
        (0, 0),
    ):
        yield changed(
            f"is {lie}", (name, lie, kind, begin, numbers), loads=True if lie == (16, 16, 1, 1) else None
        )
    for new in (
        "",
        "a",
        "\x1b[31m",
        "../x",
        "blk.1.time_mix_key.weight\x00",
        "blk.999999999.ln",
        "blk.-1.x",
        "b" * 64,
        "blk.٣.time_mix_key.weight",
        parts[0][0],
        "blk.2147483648.time_mix_key.weight",
        b"\xff",
        "b" * 65,
    ):
        yield changed(f"is called {new!r}", (new, shape, kind, begin, numbers))
    for index, part in enumerate(parts):
        if part[0].startswith(("blk.1.", "token", "output")):
            rest = gguf_file(said, parts[:index] + parts[index + 1 :])
            yield _case(f"{part[0]} is missing", rest)
    for what in ("nan", "inf", "-inf"):
        bad = struct.pack("<f", float(what)) + numbers[4:]
        yield changed(f"holds {what}", (name, shape, kind, begin, bad))
    yield _case("bytes of no tensor", gguf_file(said, parts) + bytes(4096))
    yield _case("tensors in reverse", gguf_file(said, parts[::-1]))


def _bombs(said: dict[str, bytes], parts: list[Tensor]) -> Iterator[Case]:
    """Files that cost time or memory."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 4000)
    keys = b"".join(string(f"{i:x}") + text("x" * 4000) for i in range(4000))
    yield _case("16 MB of metadata", head + keys, loads=None)
    many = b"".join(string(f"{i:x}") + struct.pack("<IQIQ", 1, 8, 0, 32 * i) for i in range(65_536))
    yield _case("65,536 tensors without numbers", struct.pack("<4sIQQ", b"GGUF", 3, 65_536, 0) + many)
    empty = struct.pack("<IIQ", ARRAY, STRING, 2**20) + bytes(2**23)
    yield _case(
        "a million empty tokens", gguf_file({**said, "tokenizer.ggml.tokens": empty}, parts), loads=True
    )
    yield _case("a name of 20 MB", gguf_file({**said, "general.name": text("x" * 20_000_000)}, parts))
    yield _case("a key of 20 MB", gguf_file([*said.items(), ("k" * 20_000_000, number(1))], parts))


FORMAT = Format("gguf", read, examples, attacks, ("gguf",))
