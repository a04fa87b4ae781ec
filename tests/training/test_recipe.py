from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from receptance.errors import ConfigError
from receptance.training import Config, load_config, save_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

SMALLEST = """
[run]
folder = "runs/x"
[model]
num_layers = 2
hidden_size = 8
[data]
folder = "prepared"
context = 16
[training]
batch_size = 4
max_steps = 3
[optimizer]
learning_rate = 1e-3
final_learning_rate = 1e-5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(SMALLEST, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    load_config(path)


def test_defaults_are_those_of_the_published_models(recipe: Path) -> None:
    config = load_config(recipe)
    assert config.optimizer.betas == (0.9, 0.99)
    assert config.optimizer.epsilon == 1e-8
    assert config.optimizer.weight_decay == 0.0
    assert {group.parameters: group.multiplier for group in config.groups} == {
        "*.att.time_decay": 2.0,
        "*.att.w0": 2.0,
        "*.att.time_first": 3.0,
    }
    assert config.training.gradient_clip == 1.0
    assert config.run.folder == Path("runs/x")


@pytest.mark.parametrize(
    "text",
    [
        "seed = " + "9" * 5000,
        "a = " + "[" * 9000,
        "a = " + "{a=" * 2000 + "1" + "}" * 2000,
        ".".join(["a"] * 4000) + " = 1",
        "[" + ".".join(["a"] * 4000) + "]",
        "#" * 10_000,
        "\ufeff" + SMALLEST,
    ],
    ids=["digits", "lists", "tables", "a key", "a header", "size", "mark"],
)
def test_a_text_that_a_parser_suffers_from_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.toml").write_text(SMALLEST + text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        load_config(tmp_path / "recipe.toml")


def test_of_many_mistakes_the_first_are_shown(tmp_path: Path) -> None:
    keys = "".join(f"k{number} = 1\n" for number in range(500))
    (tmp_path / "recipe.toml").write_text(SMALLEST + keys, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "recipe.toml")
    lines = str(error.value).splitlines()
    assert len(lines) == 11
    assert lines[-1].endswith("and 490 more.")


def test_a_saved_config_loads_as_the_same(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, ["--optimizer.epsilon=1e-18", "--run.folder=a 'b' \\ \"c\" é"])
    save_config(config, tmp_path / "saved.toml")
    assert load_config(tmp_path / "saved.toml") == config
    assert "dtype" in tomllib.loads((tmp_path / "saved.toml").read_text(encoding="utf-8"))["training"]


@pytest.mark.parametrize(
    ("words", "section", "name", "value"),
    [
        (["--training.batch_size=8"], "training", "batch_size", 8),
        (["--training.batch_size", "8"], "training", "batch_size", 8),
        (["training.batch-size=8"], "training", "batch_size", 8),
        (["--optimizer.learning_rate=3e-4"], "optimizer", "learning_rate", 3e-4),
        (["--optimizer.learning_rate=1"], "optimizer", "learning_rate", 1.0),
        (["--optimizer.betas=[0.9, 0.95]"], "optimizer", "betas", (0.9, 0.95)),
        (["--samples.prompts=['a', '']"], "samples", "prompts", ("a", "")),
        (["--training.compile=true"], "training", "compile", True),
        (["--run.folder=7"], "run", "folder", Path("7")),
        (["--run.folder=runs/a=b"], "run", "folder", Path("runs/a=b")),
        (["--run.seed=1", "--run.seed=2"], "run", "seed", 2),
        (["--model.generation=4"], "model", "generation", "4"),
        (["--model.version=5.0"], "model", "version", "5.0"),
        (["--model.version='5.0'"], "model", "version", "5.0"),
        (["--optimizer.betas=0.9,0.95"], "optimizer", "betas", (0.9, 0.95)),
        (["--optimizer.betas=(0.9, 0.95)"], "optimizer", "betas", (0.9, 0.95)),
        (["--training.max_tokens=332e9"], "training", "max_tokens", 332_000_000_000),
        (["--training.compile=True"], "training", "compile", True),
        (["--training.compile", "--run.seed=2"], "run", "seed", 2),
        (["--run.seed=2", "--training.compile"], "training", "compile", True),
        (["--training.compile", "false"], "training", "compile", False),
    ],
)
def test_an_override_is_read_as_its_keys_type(
    recipe: Path, words: list[str], section: str, name: str, value: object
) -> None:
    found = getattr(getattr(load_config(recipe, words), section), name)
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


def test_a_recipe_may_write_numbers_as_people_do(tmp_path: Path) -> None:
    text = SMALLEST.replace("[model]", "[model]\ngeneration = 5\nversion = 5.0")
    text = text.replace("max_steps = 3", "max_steps = 1e3")
    (tmp_path / "recipe.toml").write_text(text)
    config = load_config(tmp_path / "recipe.toml")
    assert (config.model.generation, config.model.version) == ("5", "5.0")
    assert config.training.max_steps == 1000
    assert type(config.training.max_steps) is int


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        (
            "--training.bacth_size=8",
            ["command line", "'training.bacth_size'", "Did you mean 'training.batch_size'"],
        ),
        ("--training.learning_rate=1", ["Did you mean 'optimizer.learning_rate'"]),
        ("--trainin.batch_size=1", ["'trainin'", "Did you mean 'training'"]),
        (
            "--training.batch_size=-1",
            ["command line", "training.batch_size is -1", "greater than or equal to 1"],
        ),
        ("--training.batch_size=many", ["training.batch_size is 'many'", "valid integer"]),
        ("--training.batch_size=1.5", ["training.batch_size is 1.5", "valid integer"]),
        ("--training.batch_size=true", ["training.batch_size is True", "valid integer"]),
        ("--training.compile=1", ["training.compile is 1", "valid boolean", "true or false"]),
        ("--optimizer.betas=much", ["optimizer.betas is 'much'", "such as [1, 2]"]),
        ("--batch-size=8", ["'--batch-size=8'", "Did you mean 'training.batch_size'"]),
        ("--training.dtype=float16", ["training.dtype is 'float16'", "'bfloat16' or 'float32'"]),
        ("--training.max_minutes=inf", ["training.max_minutes is inf", "finite"]),
        ("--optimizer.betas=[0.9]", ["optimizer.betas is [0.9]", "a value more"]),
        ("--optimizer.betas=[0.9, 1.0]", ["optimizer.betas.1 is 1.0", "less than 1"]),
        ("--training.max_steps=0", ["[training]", "max_steps, max_tokens or max_minutes"]),
        ("--model.num_layers=0", ["[model]", "num_layers and hidden_size are needed"]),
        ("--model.initial=m.pth", ["[model]", "num_layers, hidden_size cannot be set beside it"]),
        ("--data.folder=", ["'--data.folder='", "--section.key=value"]),
        ("max_steps=3", ["'max_steps=3'", "--section.key=value"]),
    ],
)
def test_a_bad_override_is_named_with_what_was_needed(recipe: Path, word: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, [word])
    for part in parts:
        assert part in str(caught.value)


def test_a_bad_file_is_named_with_all_that_is_wrong_in_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("run = 3\n[data]\ncontext = 'long'\n[training]\nbatch_size = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    text = "\n".join(lines)
    for part in (
        "[run] is 3, but it must be a table",
        "data.context is 'long'",
        "'data.folder' is missing",
        "[model] is missing",
        "[optimizer] is missing",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ("[[stages]]\nmax_steps = 1\n[[stages]]\n", ["stages[1]", "a stage needs an end"]),
        ("[[stages]]\nmax_steps = 1\nmax_tokens = 1", ["stages[0]", "either max_steps or max_tokens"]),
        ("[[stages]]\nmax_steps = 1\ncontext = -1", ["stages[0].context is -1", "greater than"]),
        ("[[stages]]\nmax_stpes = 1", ["'stages[0].max_stpes'", "Did you mean 'stages.max_steps'"]),
        ("[[groups]]\nmultiplier = 2", ["'groups[0].parameters' is missing"]),
        ("[groups]\nmultiplier = 2", ["groups is {'multiplier': 2}", "array"]),
    ],
)
def test_a_mistake_in_a_list_of_tables_is_named_with_its_number(
    recipe: Path, tables: str, parts: list[str]
) -> None:
    recipe.write_text(SMALLEST + tables, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(recipe)
    for part in parts:
        assert part in str(caught.value)


def test_stages_and_groups_are_saved_and_loaded(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        SMALLEST.replace("max_steps = 3", "")  # the stages end the run
        + '[[groups]]\nparameters = "*.bias"\nmultiplier = 0\nweight_decay = 0.5\n'
        + "[[stages]]\nmax_tokens = 640\n[[stages]]\nmax_steps = 2\ncontext = 32\n",
        encoding="utf-8",
    )
    config = load_config(recipe)
    assert [stage.context for stage in config.stages] == [0, 32]
    assert config.groups[0].weight_decay == 0.5
    save_config(config, tmp_path / "saved.toml")
    assert load_config(tmp_path / "saved.toml") == config
    with pytest.raises(ConfigError, match="only the recipe can change"):
        load_config(recipe, ["--stages.context=3"])


@pytest.mark.parametrize(
    ("contents", "reason"),
    [(b"[run\n", "not valid TOML"), (b"\xff", "byte 0 is not UTF-8"), (None, "does not exist")],
)
def test_an_unreadable_recipe_says_why(tmp_path: Path, contents: bytes | None, reason: str) -> None:
    path = tmp_path / "recipe.toml"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_config_cannot_be_changed(recipe: Path) -> None:
    config: Config = load_config(recipe)
    with pytest.raises(AttributeError):
        config.run.seed = 3  # type: ignore[misc]
