"""Pickles of `.pth` files that call, lie or explode, each in an archive as it should be."""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import pickle
import pty
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

from tests.hostile import values
from tests.hostile.corpus import Case
from tests.hostile.formats.safetensors import saved
from tests.models.examples import example

FILE = "model.pth"


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def official(generation: str = "4") -> bytes:
    """Return a valid file."""
    return saved(generation, "pth", FILE)


def members(content: bytes) -> dict[str, bytes]:
    """Return the records of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as writer:
        for name, record in records.items():
            writer.writestr(name, record)
    return buffer.getvalue()


def with_pickle(program: bytes) -> bytes:
    """Return a valid archive but for its pickle."""
    records = members(official())
    return archive({name: program if name.endswith("data.pkl") else r for name, r in records.items()})


def pickles() -> Iterator[Case]:
    """Yield archives of every kind of bad pickle."""
    yield from _calls()
    yield from _programs()
    yield from _states()
    yield from _storages()


def case(name: str, content: bytes, *, loads: bool | None = False) -> Case:
    """Return the case of one archive."""
    return Case.of(name, {FILE: content}, FILE, loads=loads)


def _pickled(name: str, state: Any) -> Case:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return case(name, buffer.getvalue())


def _calls() -> Iterator[Case]:
    touch = f"touch {values.OUTSIDE}"
    calls: dict[str, Call] = {
        "os.system": Call(os.system, touch),
        "os.popen": Call(os.popen, touch),
        "os.execv": Call(os.execv, "/bin/true", ["true"]),
        "os.remove": Call(os.remove, values.OUTSIDE),
        "os.putenv": Call(os.putenv, "A", "B"),
        "subprocess.Popen": Call(subprocess.Popen, ["true"]),
        "subprocess.check_output": Call(subprocess.check_output, "true"),
        "pty.spawn": Call(pty.spawn, "true"),
        "eval": Call(eval, f"open({values.OUTSIDE!r}, 'w')"),
        "exec": Call(exec, "import socket; socket.socket()"),
        "compile": Call(compile, "1", "x", "eval"),
        "__import__": Call(__import__, "antigravity"),
        "getattr": Call(getattr, torch.Tensor, "__class__"),
        "setattr": Call(setattr, torch.Tensor, "load", None),
        "open": Call(open, "/etc/passwd"),
        "breakpoint": Call(builtins.breakpoint),
        "input": Call(input),
        "bytearray": Call(bytearray, 10**12),
        "map": Call(map, os.system, ["true"]),
        "type": Call(type, "A", (), {}),
        "torch.load": Call(torch.load, "/etc/passwd"),
        "torch.hub.load": Call(torch.hub.load, "a/b", "c"),
        "torch.hub.load_state_dict_from_url": Call(torch.hub.load_state_dict_from_url, "http://127.0.0.1:1/"),
        "torch.from_file": Call(torch.from_file, values.OUTSIDE, True, 10),
        "torch.jit.load": Call(torch.jit.load, "/etc/passwd"),
        "torch.save": Call(torch.save, 1, values.OUTSIDE),
        "torch.set_default_device": Call(torch.set_default_device, "meta"),
        "ctypes.CDLL": Call(ctypes.CDLL, "/lib/x.so"),
        "torch.zeros": Call(torch.zeros, 10**12),
        "torch.nn.Linear": Call(torch.nn.Linear, 10**6, 10**6),
        "pickle.loads": Call(pickle.loads, pickle.dumps(1)),
        "str.format": Call(str.format, "{0.__class__}", 1),
    }
    for name, call in calls.items():
        yield _pickled(f"{name} as a tensor", {"emb.weight": call})
        yield _pickled(f"{name} as the state", call)
        yield _pickled(f"{name} among good tensors", {**example("4").state_dict(), "x": call})


def _programs() -> Iterator[Case]:
    """Pickles by their opcodes."""
    named = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."
    doubled = b"".join(b"q%ch%c\x86" % (i, i) for i in range(40))  # each a pair of what was before, twice
    programs: dict[str, bytes] = {
        "nothing": b"",
        "only STOP": b".",
        "no STOP": b"\x80\x02}",
        "a hundred STOPs": b"\x80\x02}" + b"." * 100,
        "an unknown opcode": b"\x80\x02\xff.",
        "protocol 255": b"\x80\xff}.",
        "protocol 5 with a frame too long": b"\x80\x05\x95" + struct.pack("<Q", 2**63) + b"}.",
        "a frame of nothing": b"\x80\x04\x95" + bytes(8) + b"}.",
        "GLOBAL and REDUCE": named,
        "GLOBAL with a line end in its name": b"\x80\x02cos\r\nsystem\n)R.",
        "GLOBAL of a hidden module": b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
        "GLOBAL with dots": b"\x80\x02ctorch\nserialization.os.system\nX\x04\x00\x00\x00true\x85R.",
        "GLOBAL into torch's own os": b"\x80\x02ctorch.serialization\nos.system\nX\x04\x00\x00\x00true\x85R.",
        "GLOBAL of a million characters": b"\x80\x02c" + b"a" * 1_000_000 + b"\nb\n.",
        "GLOBAL of escapes": b"\x80\x02c\x1b[2J\x1b[31m\nsystem\n.",
        "GLOBAL without an end": b"\x80\x02cos",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        "INST": b"(X\x04\x00\x00\x00trueios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
        "NEWOBJ": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
        "BUILD on a dict": b"\x80\x02}}X\x09\x00\x00\x00__class__K\x01sb.",
        "BUILD on an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n)R}X\x06\x00\x00\x00updateK\x01sb.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT4": b"\x80\x02\x84\xff\xff\xff\x7f.",
        "PERSID": b"Pabc\n.",
        "BINPERSID of an int": b"\x80\x02K\x01Q.",
        "BINPERSID of a short tuple": b"\x80\x02X\x07\x00\x00\x00storage\x85Q.",
        "BINPERSID of nothing": b"\x80\x02)Q.",
        "a missing memo": b"\x80\x02h\x07.",
        "a memo of 2^31": b"\x80\x02}r\xff\xff\xff\x7f.",
        "a missing mark": b"\x80\x02t.",
        "POP of nothing": b"\x80\x020.",
        "REDUCE of nothing": b"\x80\x02R.",
        "REDUCE of a number": b"\x80\x02K\x01)R.",
        "SETITEM on a number": b"\x80\x02K\x01K\x01K\x01s.",
        "APPENDS on a dict": b"\x80\x02}(K\x01e.",
        "text of 2^31 bytes": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "text of 2^63 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc.",
        "bytes of 2^63": b"\x80\x05\x8e" + struct.pack("<Q", 2**63 - 1) + b"abc.",
        "a bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
        "a negative LONG4": b"\x80\x02\x8b\xff\xff\xff\xff.",
        "a LONG4 of 2^31": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "a number of 300,000 digits": b"\x80\x02}X\x01\x00\x00\x00aI" + b"9" * 300_000 + b"\ns.",
        "wrong UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
        "half a surrogate pair": b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80K\x01s.",
        "100,000 lists in one another": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "100,000 tuples in one another": b"\x80\x02)" + b"\x85" * 100_000 + b".",
        "100,000 tuples as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
        "a tuple doubled by DUP": b"\x80\x02)" + b"2\x86" * 40 + b".",
        "a tuple doubled 40 times": b"\x80\x02)" + doubled + b".",
        "a tuple doubled 40 times as a key": b"\x80\x02})" + doubled + b"K\x01s.",
        "a tuple doubled 40 times as the strategy": b"\x80\x02}X\x09\x00\x00\x00_strategy)" + doubled + b"s.",
        "a tuple doubled 40 times as a storage": b"\x80\x02})" + doubled + b"Q.",
        "a list doubled 40 times": b"\x80\x02]" + doubled + b".",
        "a list in itself": b"\x80\x02]q\x00h\x00a.",
        "a dict in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        "1 MB of empty lists": b"\x80\x02" + b"]" * 1_000_000 + b".",
        "1 MB of empty dicts": b"\x80\x02" + b"}" * 1_000_000 + b".",
        "1 MB of marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
        "4 MB of empty lists": b"\x80\x02" + b"]" * 4_000_000 + b".",
        "4 MB of memos": b"\x80\x02]" + b"".join(b"r" + struct.pack("<I", i) for i in range(800_000)) + b".",
        "an OrderedDict of a string": b"\x80\x02ccollections\nOrderedDict\nX\x01\x00\x00\x00a\x85R.",
        "a Counter of a string": b"\x80\x02ccollections\nCounter\nX\x01\x00\x00\x00a\x85R.",
        "a set of lists": b"\x80\x02c__builtin__\nset\n](]e\x85R.",
        "a huge bytearray": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "a device": b"\x80\x02ctorch\ndevice\nX\x04\x00\x00\x00cuda\x85R.",
        "a Size of text": b"\x80\x02ctorch\nSize\nX\x01\x00\x00\x00a\x85R.",
        "a Tensor of 2^31": b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
    }
    for name, program in programs.items():
        yield case(f"a pickle of {name}", with_pickle(program))


def _states() -> Iterator[Case]:
    """Honest pickles of what is no model."""
    good = example("4", torch.float32).state_dict()
    first = "blocks.0.att.key.weight"
    states: dict[str, Any] = {
        "a list": list(good.values()),
        "a tensor": good[first],
        "a number": 3,
        "None": None,
        "a nested dict": {"state_dict": good},
        "a number among the tensors": {**good, "epoch": 3},
        "numbers as names": dict(enumerate(good.values())),
        "bytes as names": {name.encode(): tensor for name, tensor in good.items()},
        "tuples as names": {(name,): tensor for name, tensor in good.items()},
        "a name of 1 MB": {**good, "a" * 1_000_000: good[first]},
        "a name of escapes": {**good, "\x1b[2J\x07": good[first]},
        "a converted file": {**good, "_strategy": "cpu fp32"},
        "an endless strategy": {**good, "_strategy": "x" * 1_000_000},
        "nothing": {},
        "NaN": {**good, first: good[first] * float("nan")},
        "an infinity": {**good, first: good[first] + float("inf")},
        "a complex tensor": {**good, first: good[first].to(torch.complex64)},
        "a tensor of whole numbers": {**good, first: good[first].long()},
        "a boolean tensor": {**good, first: good[first] > 0},
        "a sparse tensor": {**good, first: good[first].to_sparse()},
        "a tensor without memory": {**good, first: good[first].to("meta")},
        "a tensor of stride zero": {**good, first: torch.zeros(1).expand(24, 16)},
        "an enormous tensor of stride zero": {**good, "emb.weight": torch.zeros(1).expand(10**9, 16)},
        "one tensor many times": {f"{i}": good[first] for i in range(1000)},
        "an empty tensor": {**good, first: torch.zeros(0, 16)},
        "a tensor with 64 axes": {**good, first: good[first].reshape([1] * 62 + [24, 16])},
        "a tensor without axes": {**good, first: torch.tensor(1.0)},
        "a transposed tensor": {**good, first: good[first].t()},
        "a layer of number 10^9": {**good, "blocks.999999999.ln1.weight": good["blocks.0.ln1.weight"]},
        "a conjugate": {**good, first: torch.view_as_complex(torch.zeros(24, 16, 2)).conj()},
        "50,000 names": dict.fromkeys(map(str, range(50_000)), 1),
    }
    for name, state in states.items():
        yield _pickled(f"a state of {name}", state)
    for missing in ("emb.weight", "ln_out.bias", "blocks.1.ffn.key.weight", first):
        yield _pickled(f"without {missing}", {n: t for n, t in good.items() if n != missing})
    for kind in (torch.nn.Buffer, torch.nn.Parameter):
        buffer = io.BytesIO()
        torch.save({**good, first: kind(good[first])}, buffer)
        yield case(f"a state with a {kind.__name__}", buffer.getvalue(), loads=None)


def _storages() -> Iterator[Case]:
    """Lies of the pickle about the records."""

    def program(
        key: Any = "0", count: Any = 4, kind: Any = torch.FloatStorage, location: Any = "cpu",
        offset: Any = 0, size: Any = (2, 2), stride: Any = (2, 1), tag: Any = "storage",
    ) -> bytes:  # fmt: skip
        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                return (tag, kind, key, location, count) if value is Ellipsis else None

        tensor = Call(torch._utils._rebuild_tensor_v2, ..., offset, size, stride, False, OrderedDict())
        buffer = io.BytesIO()
        Pickler(buffer, 2).dump({"emb.weight": tensor})
        return buffer.getvalue()

    def storage(name: str, **lies: Any) -> Case:
        records = {
            "a/data.pkl": program(**lies),
            "a/byteorder": b"little",
            "a/data/0": bytes(16),
            "a/version": b"3\n",
        }
        return case(f"a storage with {name}", archive(records))

    yield storage("nothing wrong but that it is no model")
    for count in values.COUNTS:
        yield storage(f"{count} numbers", count=count)
        yield storage(f"an offset of {count}", offset=count)
        yield storage(f"{count} rows", size=(count, 2))
        yield storage(f"a stride of {count}", stride=(count, 1))
    for key in (
        "1",
        "",
        "../0",
        "/etc/passwd",
        "0\x00",
        "0/../0",
        "data.pkl",
        0,
        None,
        "a" * 100_000,
        "\x1b[31m",
    ):
        yield storage(f"key {str(key)[:20]!r}", key=key)
    for location in (
        "cuda:0",
        "cuda:99999999999",
        "meta",
        "mps",
        "xpu",
        "hpu",
        "",
        "cpu\n",
        None,
        3,
        "a" * 10_000,
        "/dev/zero",
    ):
        yield storage(f"location {str(location)[:20]!r}", location=location)
    for kind in (
        torch.DoubleStorage,
        torch.ByteStorage,
        torch.QInt8Storage,
        torch.ComplexDoubleStorage,
        torch.UntypedStorage,
    ):
        yield storage(f"type {kind.__name__}", kind=kind)
    yield storage("a dtype as its type", kind=torch.float32)
    yield storage("another tag", tag="tensor")
    yield storage("more strides than sizes", stride=(2, 1, 1))
    yield storage("fewer strides than sizes", stride=(2,))
    yield storage("sizes that are text", size=("2", "2"))
    yield storage("sizes that overflow when multiplied", size=(2**32, 2**32))
    yield storage("strides that overflow when multiplied", size=(2**31, 2**31), stride=(2**62, 2**62))
    yield storage("a fractional offset", offset=0.5)
