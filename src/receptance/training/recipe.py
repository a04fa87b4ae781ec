"""Reading and writing a recipe: a TOML file, changed by `--section.key=value`, becomes a checked `Config`."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from receptance import atomic, whole_file
from receptance.errors import ConfigError
from receptance.training.config import Config

# A value as TOML and JSON know it; what a key may hold is checked afterwards.
Tables = dict[str, Any]

_LARGEST_BYTES = 10_000  # the time and memory of a key grow with the square of its parts
_COMPLAINTS = 10  # that are shown at once
_EXAMPLES = {"tuple_type": ", such as [1, 2]", "bool_type": ": true or false"}
_TRUTH = ("true", "false", "True", "False")

_SECTIONS: Mapping[str, type] = get_type_hints(Config)
_ADAPTER = TypeAdapter(Config)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe, change it by overrides such as `--training.batch_size=8`, and check the whole.

    An override may leave out its dashes, write `-` for `_`, and put the value into the next word; one without
    a value is true. A value is read as TOML (`[0.9, 0.95]`, `true`, `3e-4`), but for keys that hold text.
    A list may leave out its brackets, a whole number may be written 1e9, and a name such as 5.2 without
    quotes.

    Raises ConfigError where the file cannot be read, or a key is unknown, missing or out of bounds; the text
    names the key, what came and what was needed.
    """
    path = Path(path)
    content = whole_file.read(path, limit=_LARGEST_BYTES, needed="a recipe", error=ConfigError)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8, so this is no recipe.") from error
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise ConfigError(f"{path}: this recipe is not valid TOML: {error}.") from error
    overridden = _override(tables, overrides)
    for section, entries in tables.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict):
                entry.update({name: _meant(value, _kinds(section, name)) for name, value in entry.items()})
    return _checked(tables, source=str(path), overridden=overridden)


def config_from_tables(tables: Tables, source: str) -> Config:
    """Check nested tables, as `config_to_tables` gives them. Raises ConfigError that names the source."""
    return _checked(tables, source=source, overridden=frozenset())


def config_to_tables(config: Config) -> Tables:
    """Return the config as nested tables of plain values, without the keys that are None."""
    tables: Tables = _ADAPTER.dump_python(config, mode="json", exclude_none=True)
    return tables


def save_config(config: Config, path: str | Path) -> None:
    """Write the whole config as TOML, defaults included; loading it again gives an equal one."""
    atomic.write_text(path, tomli_w.dumps(config_to_tables(config)))


def _override(tables: Tables, overrides: Sequence[str]) -> frozenset[str]:
    """Put each override into the tables, and return the keys that it changed."""
    changed = set()
    words = deque(overrides)
    while words:
        word = words.popleft()
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        section, dot, name = key.partition(".")
        if not equals and _kinds(section, name) == {bool} and not (words and words[0] in _TRUTH):
            value = "true"
        elif not equals:
            value = words.popleft() if words else ""
        if not (dot and section and name and value):
            hint = "" if dot else _suggestion(key)
            raise ConfigError(
                f"{word!r} changes nothing. Write --section.key=value, such as --run.seed=1.{hint}"
            )
        if get_origin(_SECTIONS.get(section)) is tuple:
            raise ConfigError(
                f"{word!r}: [[{section}]] is a list of tables, which only the recipe can change."
            )
        table = tables.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"[{section}] is {table!r} in the recipe, but it must be a table.")
        table[name] = _parsed(value, _kinds(section, name))
        changed.add(key)
    return frozenset(changed)


def _parsed(text: str, kinds: Set[object]) -> object:
    """Read the text of an override as TOML, unless its key holds text anyway."""
    if text in kinds or any(kind in (str, Path) for kind in kinds):
        return text
    if kinds == {bool}:
        text = text.lower()
    bracketed = f"[{text.removeprefix('(').removesuffix(')')}]"
    for attempt in (text, bracketed) if kinds == {tuple} else (text,):
        with suppress(tomllib.TOMLDecodeError):
            value = tomllib.loads(f"value = {attempt}")["value"]
            if kinds != {tuple} or isinstance(value, list):
                return value
    return text


def _meant(value: object, kinds: Set[object]) -> object:
    """Return a number as its key needs it: 1e9 as a whole one, and as text where that is a choice, as 5.2."""
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if type(value) in (int, float) and str(value) in kinds:
        return str(value)
    return value


def _kinds(section: str, name: str) -> Set[object]:
    """Return what a key may hold: types, and the texts of a choice; nothing where there is no such key."""

    def kinds(hint: object) -> Set[object]:
        if get_origin(hint) is tuple or not get_args(hint):
            return {get_origin(hint) or hint}
        return {kind for part in get_args(hint) for kind in kinds(part)}

    hint = _keys(section).get(name)
    return set() if hint is None else kinds(hint)


def _keys(section: str) -> Mapping[str, Any]:
    """Return the keys of a section with their types; none where there is no such section."""
    if section not in _SECTIONS:
        return {}
    hint = _SECTIONS[section]
    return get_type_hints(get_args(hint)[0] if get_origin(hint) is tuple else hint)


def _checked(tables: Tables, *, source: str, overridden: frozenset[str]) -> Config:
    """Turn tables into a config: TOML's types are JSON's, with which pydantic is strict in the right way."""
    try:
        return _ADAPTER.validate_json(json.dumps(tables, default=str), strict=True)
    except RecursionError as error:
        raise ConfigError(f"{source}: its tables lie too deep in one another.") from error
    except ValidationError as error:
        details = error.errors()
        lines = [_complaint(detail, source, overridden) for detail in details[:_COMPLAINTS]]
        if len(details) > _COMPLAINTS:
            lines.append(f"{source}: and {len(details) - _COMPLAINTS:,} more.")
        raise ConfigError("\n".join(lines)) from None


def _complaint(detail: ErrorDetails, source: str, overridden: frozenset[str]) -> str:
    """Say in one line which key is wrong, what came, and what was needed."""
    place: list[str] = []
    for part in detail["loc"]:
        if isinstance(part, int) and len(place) == 1:  # one of a list of tables
            place[0] += f"[{part}]"
        else:
            place.append(str(part))
    key = ".".join(place[:2])
    kind, came, needed = detail["type"], detail["input"], detail["msg"]
    where = "command line" if any(f"{name}.".startswith(f"{key}.") for name in overridden) else source
    if kind == "value_error":  # from a section's own check, which any key of it may have caused
        return f"{source}: {f'[{key}]: ' if key else ''}{needed.removeprefix('Value error, ')}."
    if kind == "unexpected_keyword_argument":
        return f"{where}: there is no key {key!r}.{_suggestion(key)}"
    if kind == "missing" and len(place) == 1:
        return f"{where}: the section [{key}] is missing."
    if kind == "missing" and len(place) == 2:
        return f"{where}: the key {key!r} is missing. Set it there, or by --{key}=…"
    if kind == "missing":
        return f"{where}: {key} is {came!r}, but a value more is needed."
    if kind == "dataclass_type":
        return f"{where}: [{key}] is {came!r}, but it must be a table."
    needed = needed[0].lower() + needed[1:]
    example = _EXAMPLES.get(kind, "")
    return f"{where}: {'.'.join(place)} is {came!r}, but the {needed.replace('input', 'value', 1)}{example}."


def _suggestion(key: str) -> str:
    """Return " Did you mean ...?" where a known key looks like this one, in any section."""
    known = list(_SECTIONS)
    for section in _SECTIONS:
        known.extend(f"{section}.{name}" for name in _keys(section))
    key = re.sub(r"\[\d+\]", "", key)
    same_name = [other for other in known if "." in other and other.split(".")[1] == key.split(".")[-1]]
    for other in (*same_name, *difflib.get_close_matches(key, known, n=1)):
        return f" Did you mean {other!r}?"
    section = key.partition(".")[0]
    names = _keys(section) or _SECTIONS
    return f" Known are {', '.join(names)}."
