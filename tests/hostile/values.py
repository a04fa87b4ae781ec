"""Numbers, names and texts that have broken readers before."""

from __future__ import annotations

from collections.abc import Iterator

COUNTS = (0, -1, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30)
UNSIGNED = tuple(count for count in COUNTS if 0 <= count < 2**64)

# A model asks for none of these, whatever the format.
NOT_NUMBERS = ("8", "", None, True, 1.5, float("nan"), float("inf"), [], {}, [8], "1e9")

OUTSIDE = "outside"  # what the files that attacks try to reach are called; the tests put them there

# None of these is the name of a file in the folder.
TRAVERSALS = (
    "..", ".", "/", "../", "./../", "../outside.safetensors", "../outside.txt", "../outside.json",
    "../outside", "./../outside.json", "x/../../outside.json", "..//outside.json", "//outside.json",
    "../../../../../../../../etc/passwd", "/etc/passwd", "/etc/hostname", "/dev/zero", "/dev/stdin",
    "/proc/self/mem", "/proc/self/environ", "/proc/self/fd/0", "/proc/self/cwd/etc/passwd", "/dev/tcp/1/2",
    "~/.ssh/id_rsa", "~root/.bashrc", "$HOME/.bashrc", "${HOME}/x", "`id`", "$(id)", "|id", ";id", "a;id",
    "..\\outside.json", "\\\\server\\share\\x", "C:\\Windows\\win.ini", "C:x", "\\outside.json",
    "..\\..\\..\\etc\\passwd", "%2e%2e%2foutside.json", "..%2foutside.json", "%2e%2e/outside.json",
    "..%c0%afoutside.json", "..%5coutside.json", "..;/outside.json", "....//outside.json",
    "\u2025/outside.json", "\uff0e\uff0e/outside.json", "..\u2215outside.json", "..\uff0foutside.json",
    "file:///etc/passwd", "http://localhost/x", "https://127.0.0.1:1/x.json", "ftp://localhost/x", "s3://b/k",
    "data:text/plain,x", "ssh://localhost/x", "hf://a/b", "a\x00.json", "\x00", "\x00/etc/passwd",
    "outside.json\x00.safetensors", "a\nb.json", "\n", "\r\n", "\x1b[2J\x1b[31m.json", "\x07", "\x7f",
    "\u202egpj.exe", "\ufeff.json", " ", " .json", ".json ", "-", "--help", "-rf", "*", "*.json", "?", "CON",
    "NUL", "aux.json", "a" * 256, "a" * 5000 + ".json", "é" * 128 + ".json", "/" * 5000, "../" * 2000,
)  # fmt: skip


def json_texts() -> Iterator[tuple[str, bytes, bool | None]]:
    """Yield texts that are no JSON, or such that a parser suffers from; none is an object of use."""
    deep = 100_000
    yield "depth in lists", b"[" * deep + b"]" * deep, False
    yield "depth in objects", b'{"a":' * deep + b"1" + b"}" * deep, False
    yield "depth never closed", b"[" * deep, False
    yield "depth below a key", b'{"model_type":' + b"[" * deep + b"]" * deep + b"}", False
    yield "NaN", b"NaN", False
    yield "Infinity", b'{"a": Infinity}', False
    yield "a number of 5,000 digits", b'{"a": ' + b"9" * 5000 + b"}", False
    yield "an exponent of 400", b'{"a": 1e400}', False
    yield "half a surrogate pair", b'{"a": "\\ud800"}', False
    yield "half a surrogate pair as key", b'{"\\udfff": 1}', False
    yield "a list", b"[]", False
    yield "a number", b"1", False
    yield "null", b"null", False
    yield "a string", b'"a"', False
    yield "an empty object", b"{}", False
    yield "nothing but spaces", b" " * 1000, False
    yield "a byte order mark", b"\xef\xbb\xbf{}", False
    yield "UTF-16", '{"a": 1}'.encode("utf-16"), False
    yield "UTF-32", '{"a": 1}'.encode("utf-32"), False
    yield "wrong UTF-8", b'{"a": "\xff"}', False
    yield "an overlong slash", b'{"a": "\xc0\xaf"}', False
    yield "a zero byte", b'{"a": "\x00"}', False
    yield "a comment", b'{"a": 1} // x', False
    yield "single quotes", b"{'a': 1}", False
    yield "a comma too many", b'{"a": 1,}', False
    yield "two objects", b"{}{}", False
    yield "a web page", b"<!doctype html><title>404</title>", False
    yield "2 MB of empty lists", b'{"a": [' + b"[]," * 650_000 + b"[]]}", False
    yield "2 MB of empty objects", b'{"a": [' + b"{}," * 650_000 + b"{}]}", False
    yield "2 MB of numbers", b'{"a": [' + b"1.5," * 500_000 + b"1]}", False
    yield "2 MB of keys", b"{" + b",".join(b'"%x":0' % i for i in range(200_000)) + b"}", False
    yield "2 MB of one string", b'{"a": "' + b"x" * 2_000_000 + b'"}', False
    yield "2 MB of escapes", b'{"a": "' + b"\\u0041" * 330_000 + b'"}', False
