"""`receptance generate`: where the prompt comes from, what it prints, and how it complains."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from receptance import checkpoints, native
from receptance.cli.main import main
from receptance.inference import Sampling, load
from receptance.inference.runtime import RuntimeName
from tests.checkpoints.tuning.adapters import random_lora, saved
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.inference.models import random_model
from tests.models.examples import example

BASE = ("--max-tokens", "12", "--seed", "3")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    checkpoints.save(random_model(), path, tokenizer="bytes")
    return str(path)


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["generate", *arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert isinstance(result, dict)
    return result


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_it_writes_what_the_library_writes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--temperature", "1.3", "--top-p", "0.9", "--top-k", "90", "--stop", "zz", "--stop", "\x05")
    assert main(["generate", model, "--prompt", "Once", *BASE, *settings]) == 0
    expected = load(model).generate(
        "Once", max_tokens=12, seed=3, temperature=1.3, top_p=0.9, top_k=90, stop=["zz", "\x05"]
    )
    printed = capsys.readouterr()
    assert printed.out == expected + "\n"
    assert printed.err == ""


def test_every_setting_of_the_sampling_arrives(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (
        *(
            "--temperature",
            "1.6",
            "--top-p",
            "0.97",
            "--top-k",
            "90",
            "--min-p",
            "0.001",
            "--typical-p",
            "0.96",
        ),
        *("--temperature-first", "--presence-penalty", "0.4", "--frequency-penalty", "0.3"),
        *("--penalty-decay", "0.9", "--logit-bias", "97=1.5", "--logit-bias", "98=-2", "--ban", "0"),
        *("--ban", "99", "--logprobs", "2"),
    )
    result = as_json(capsys, model, "--prompt", "Once", *BASE, *settings)
    sampling = Sampling(
        temperature=1.6,
        top_p=0.97,
        top_k=90,
        min_p=0.001,
        typical_p=0.96,
        temperature_first=True,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        penalty_decay=0.9,
        logit_bias={97: 1.5, 98: -2.0},
        ban=[0, 99],
        seed=3,
    )
    lm = load(model, runtime="auto")
    pieces = list(lm.pieces("Once", max_tokens=12, sampling=sampling, logprobs=2))
    assert result["tokens"] == [piece.token for piece in pieces]
    assert result["logprobs"] == [
        {"logprob": piece.logprob, "top": [list(pair) for pair in piece.top_logprobs]} for piece in pieces
    ]


@pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))
def test_either_runtime_writes_the_most_likely_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = ("--prompt", "Once", *BASE, "--temperature", "0", "--dtype", "float32")
    texts = [
        as_json(capsys, model, *greedy, "--runtime", runtime)["tokens"]
        for runtime in ("torch", "native", "auto")
    ]
    assert texts[0] == texts[1] == texts[2]
    expected = load(model, runtime="native", dtype="int4").pieces(
        "Once", max_tokens=12, sampling=Sampling(seed=3)
    )
    packed = as_json(capsys, model, "--prompt", "Once", *BASE, "--dtype", "int4")
    assert packed["tokens"] == [piece.token for piece in expected]


@pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))
def test_speculation_writes_the_same_and_tells_how_often_it_was_right(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (model, "--prompt", "Once", "--seed", "3", "--max-tokens", "40", "--ban", "0")
    plain = as_json(capsys, *arguments)
    for how in (("--speculate", "lookup"), ("--draft-model", model)):
        result = as_json(capsys, *arguments, *how)
        assert result["tokens"] == plain["tokens"]
        accepted, drafted = result["accepted_tokens"], result["drafted_tokens"]
        assert isinstance(accepted, int)
        assert isinstance(drafted, int)
        assert 0 <= accepted <= drafted
    assert "drafted_tokens" not in plain


def test_speculation_that_cannot_be_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    checkpoints.save(random_model(vocabulary_size=65536), other, tokenizer="world")
    for arguments, complaint in (
        (("--runtime", "torch", "--speculate", "lookup"), "only the native runtime"),
        (("--speculate", "lookup", "--draft-model", model), "both guess the next tokens"),
        (("--draft-model", str(other)), "must share one"),
    ):
        assert main(["generate", model, "-p", "a", *arguments]) == 1
        assert complaint in capsys.readouterr().err


def test_a_dtype_of_the_other_runtime_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", model, "-p", "a", "--dtype", "int8", "--runtime", "torch"]) != 0
    assert "of the native runtime alone" in capsys.readouterr().err


def test_a_seed_reproduces_and_the_seed_of_json_repeats_the_text(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = as_json(capsys, model, "--prompt", "a", "--top-p", "1")
    again = as_json(capsys, model, "--prompt", "a", "--top-p", "1", "--seed", str(first["seed"]))
    other = as_json(capsys, model, "--prompt", "a", "--top-p", "1")
    assert first["text"] == again["text"] != other["text"]


def test_json_says_all(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = as_json(capsys, model, "--prompt", "né", *BASE)
    pieces = list(load(model).pieces("né", max_tokens=12, sampling=Sampling(seed=3)))
    assert result["prompt"] == "né"
    assert result["prompt_tokens"] == 3
    assert result["tokens"] == [piece.token for piece in pieces]
    assert result["text"] == "".join(piece.text for piece in pieces)
    assert result["finish_reason"] == pieces[-1].finish_reason
    assert result["seed"] == 3
    assert float(str(result["prefill_tokens_per_second"])) > 0
    assert float(str(result["decode_tokens_per_second"])) > 0


def test_json_is_whole_where_the_output_holds_no_such_characters(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = as_json(capsys, model, "--prompt", "漢", *BASE)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert main(["generate", model, "--prompt", "漢", *BASE, "--json"]) == 0
    assert json.loads(output.getvalue())["prompt"] == "漢"
    assert json.loads(output.getvalue())["text"] == expected["text"]
    assert main(["generate", model, "--prompt", "漢", *BASE]) == 0  # text has question marks instead
    assert "\ufffd" in str(expected["text"])
    assert b"?" in output.getvalue().splitlines()[-1]


def test_a_single_token_has_no_decoding_speed(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, model, "--prompt", "a", "-n", "1")["decode_tokens_per_second"] is None


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"Once\n", "Once"),
        (b"Once\r\n", "Once"),
        (b"Once\n\n", "Once\n"),
        ("nöch ein".encode(), "nöch ein"),
        (b"", ""),
    ],
)
def test_the_prompt_comes_from_a_file_or_a_pipe_less_one_line_break(
    model: str,
    data: bytes,
    prompt: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(data)
    assert as_json(capsys, model, "--prompt-file", str(file), *BASE)["prompt"] == prompt
    for arguments in ([], ["--prompt-file", "-"]):
        pipe(monkeypatch, data)
        assert as_json(capsys, model, *arguments, *BASE)["prompt"] == prompt


def test_where_there_is_nothing_to_read_a_document_is_started(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as in a process whose standard input was closed
    result = as_json(capsys, model, *BASE)
    assert (result["prompt"], result["prompt_tokens"]) == ("", 0)
    assert result["text"] == load(model).generate("", max_tokens=12, seed=3)


def test_a_prompt_may_begin_with_a_hyphen_and_is_taken_as_it_is(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_json(capsys, model, "--prompt", "- one\n", *BASE)["prompt"] == "- one\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--temperature", "-1"), "temperature is -1.0, but it must be 0 (greedy) or above"),
        (("--temperature", "nan"), "temperature is nan"),
        (("--top-p", "2"), "top_p is 2.0, but it is a probability"),
        (("--top-k", "-3"), "top_k is -3"),
        (("--seed", "-1"), "seed is -1"),
        (("--max-tokens", "0"), "max_tokens is 0"),
        (("--stop", ""), "stop string is empty"),
        (("--device", "nonsense"), "device 'nonsense' cannot be used"),
        (("--tokenizer", "nonsense"), "nonsense: is neither a tokenizer's name"),
        (
            ("--tokenizer", "world"),
            "the model has 256 rows, but the tokenizer rwkv_vocab_v20230424 needs 65,536",
        ),
        (("--logit-bias", "a=1"), "--logit-bias 'a=1' is not ID=VALUE, such as 261=-5"),
        (("--logit-bias", "5"), "--logit-bias '5' is not ID=VALUE"),
        (
            ("--logit-bias", "256=1"),
            "logit_bias names token 256, but the ids of the tokenizer go from 0 to 255",
        ),
        (("--ban", "-1"), "ban names token -1"),
        (("--logprobs", "3"), "--logprobs are written by --json only"),
        (("--prompt-file", "x"), "--prompt and --prompt-file were both given"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_explained(
    model: str, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", model, "--prompt", "a", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert complaint in printed.err
    assert printed.out == ""


def test_a_prompt_that_is_not_text_is_refused_with_the_byte(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc\x80def")
    assert main(["generate", model, "--prompt-file", str(file)]) == 1
    assert capsys.readouterr().err == f"error: {file}: byte 3 is 0x80, which is not UTF-8 text.\n"
    pipe(monkeypatch, b"\xff")
    assert main(["generate", model]) == 1
    assert capsys.readouterr().err == "error: standard input: byte 0 is 0xff, which is not UTF-8 text.\n"
    assert main(["generate", model, "--prompt", os.fsdecode(b"a\xfe")]) == 1
    assert capsys.readouterr().err == "error: --prompt: byte 1 is 0xfe, which is not UTF-8 text.\n"


def test_files_that_are_not_there_or_not_files_are_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", model, "--prompt-file", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: No such file or directory\n"
    assert main(["generate", model, "--prompt-file", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"
    assert main(["generate", str(tmp_path / "none"), "--prompt", "a"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: there is no such file or folder")
    assert main(["generate", str(tmp_path), "--prompt", "a"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: there is neither")


def run_on_terminal(*arguments: str) -> tuple[str, int]:
    """Run the program with a terminal for output, and nothing to read; return what it showed."""
    leader, follower = pty.openpty()
    program = [sys.executable, "-c", "import sys; from receptance.cli.main import main; sys.exit(main())"]
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*program, *arguments], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
    os.close(leader)
    return shown.decode().replace("\r\n", "\n"), process.wait()


def test_on_a_terminal_the_prompt_is_dim_control_characters_are_visible_and_speeds_come_last(
    tmp_path: Path,
) -> None:
    import torch

    silent = random_model()
    with torch.no_grad():
        silent.head.weight.zero_()  # all tokens are alike, so greedy takes the first that is allowed
        silent.ln_out.weight.zero_()
        silent.ln_out.bias.fill_(1.0)
        silent.head.weight[0x1B] = 1.0
    checkpoints.save(silent, tmp_path / "model.safetensors", tokenizer="bytes")
    shown, code = run_on_terminal("generate", str(tmp_path), "--prompt", "Hi\x1b[31m", "--max-tokens", "3")
    assert code == 0
    assert shown.startswith("\x1b[2mHi␛[31m\x1b[0m␛␛␛\n")
    assert "tokens: 7 read at" in shown
    assert "ended by --max-tokens; seed" in shown


@pytest.mark.parametrize(("cut", "runtime"), [(1, "torch"), (5, "auto"), (5, "native")])
def test_a_text_goes_on_from_a_saved_state_as_if_it_had_never_stopped(
    model: str,
    cut: int,
    runtime: RuntimeName,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if runtime == "native" and not native.levels():
        pytest.skip(str(native.unavailable_reason()))
    monkeypatch.setattr(sys, "stdin", None)
    state = ("--seed", "3", "--presence-penalty", "0.7", "--frequency-penalty", "0.4", "--ban", "0")
    state += ("--runtime", runtime)
    saved = str(tmp_path / "text.state")
    whole = as_json(capsys, model, "--prompt", "Once", "-n", "12", *state)
    first = as_json(capsys, model, "--prompt", "Once", "-n", str(cut), *state, "--save-state", saved)
    again = ("--load-state", saved, "--save-state", saved)
    second = as_json(capsys, model, "-n", str(10 - cut), *state, *again)
    third = as_json(capsys, model, "-n", "2", *state, *again)
    parts = [part["tokens"] for part in (first, second, third)]
    assert [token for part in parts if isinstance(part, list) for token in part] == whole["tokens"]
    prompted = as_json(capsys, model, "--prompt", " more", "-n", "5", *state, "--load-state", saved)
    lm = load(model, runtime=runtime)
    history = lm.load_history(saved)
    assert history.tokens == (*b"Once", *parts[0], *parts[1], *parts[2])  # type: ignore[misc]  # from JSON
    settings = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "ban": [0]}
    expected = lm.generate(" more", max_tokens=5, seed=3, history=history, **settings)
    assert prompted["text"] == expected


def test_a_state_of_another_model_or_with_a_tuned_one_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, other = str(tmp_path / "text.state"), tmp_path / "other.safetensors"
    checkpoints.save(random_model(seed=1), other, tokenizer="bytes")
    assert main(["generate", str(other), "--prompt", "a", *BASE, "--save-state", saved]) == 0
    capsys.readouterr()
    for arguments, complaint in (
        (("--load-state", saved), f"{saved}: its fingerprint is"),
        (("--load-state", model), f"{model}: is no saved state"),
        (("--load-state", saved, "--runtime", "torch"), "Load the model in the runtime in which"),
        (("--load-state", str(tmp_path)), f"{tmp_path}: there is no such file, but a saved state was needed"),
        (("--load-state", saved, "--state", "zero"), "--state comes too late, leave it out"),
        (("--save-state", str(tmp_path / "no" / "x")), f"there is no folder {tmp_path / 'no'} to write to"),
    ):
        assert main(["generate", model, "--prompt", "a", *BASE, *arguments]) == 1
        printed = capsys.readouterr()
        assert complaint in printed.err
        assert printed.out == ""


def test_an_adapter_is_merged_and_must_say_its_alpha(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = saved(tmp_path / "adapter.pth", random_lora(random_model()))
    arguments = ("generate", model, "--prompt", "Once", *BASE, "--lora", str(adapter))
    assert main([*arguments, "--lora-alpha", "8"]) == 0
    expected = load(model, lora=adapter, lora_alpha=8.0).generate("Once", max_tokens=12, seed=3)
    assert capsys.readouterr().out == expected + "\n"
    assert expected != load(model).generate("Once", max_tokens=12, seed=3)
    assert main([*arguments]) == 1
    assert "does not say what alpha is" in capsys.readouterr().err


def test_a_state_for_a_model_without_one_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seven = example("7", torch.float32)
    checkpoints.save_state(random_state(seven), seven.config, tmp_path / "state.pth")
    assert main(["generate", model, "--prompt", "a", *BASE, "--state", str(tmp_path / "state.pth")]) == 1
    assert "RWKV-4 cannot start from this tuned state" in capsys.readouterr().err
