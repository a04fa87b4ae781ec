"""A name brings the files of its model from a hub, once and no others, or an error that says what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from receptance import checkpoints
from receptance.checkpoints import hub
from receptance.cli.main import main
from receptance.errors import CheckpointError, ConfigError
from receptance.inference import load
from tests.checkpoints.files import assert_same_weights, random_model
from tests.checkpoints.hub_server import HubServer, Repository

VOCABULARY = b'1 "a" 1\n'
LEFTOVERS = {
    "README.md": b"# A model",
    ".gitattributes": b"*.pth filter=lfs",
    "modeling_rwkv.py": b"raise SystemExit",
    "optimizer.pt": b"leftover",
    "rng_state_0.pth": b"leftover",
    "training_args.bin": b"leftover",
    "checkpoint-500/model.safetensors": b"leftover",
    "onnx/model.onnx": b"leftover",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model as transformers keeps them."""
    path = tmp_path_factory.mktemp("folder") / "hf"
    checkpoints.save(random_model(), path, format="transformers")
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(scope="module")
def pth(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("file") / "model.pth"
    checkpoints.save(random_model(seed=1), path, format="pth")
    return path.read_bytes()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub to which the library goes, with a cache of this test's own; the current folder is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as server:
        # What the library takes from the environment when it is imported.
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("text", "repository", "revision", "file"),
    [
        ("RWKV/rwkv-4-169m-pile", "RWKV/rwkv-4-169m-pile", None, None),
        ("fla-hub/rwkv7-1.5B-world", "fla-hub/rwkv7-1.5B-world", None, None),
        ("org/name@v1.0", "org/name", "v1.0", None),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3", None),
        ("org/name@refs/pr/3/a.gguf", "org/name", "refs/pr/3", "a.gguf"),
        ("BlinkDL/rwkv-7-world/RWKV-x070 0.1B.pth", "BlinkDL/rwkv-7-world", None, "RWKV-x070 0.1B.pth"),
        ("org/name/deep/er/a.st", "org/name", None, "deep/er/a.st"),
        ("org/name@main/a.safetensors", "org/name", "main", "a.safetensors"),
    ],
)
def test_a_name_says_repository_revision_and_file(
    text: str, repository: str, revision: str | None, file: str | None
) -> None:
    assert hub.parse(text) == hub.HubName(repository, revision, file)
    assert str(hub.parse(text)) == text


PATHS = [
    "", "/", "model", "model.pth", "runs/model.pth", "./org/name", "../org/name", "/org/name", "~/org/name",
    "../x/y", "org/name/../../etc", "org/name/../../etc/a.pth", "org/../name", "org/..", "../..", "a/b/c",
    "org/name/", "org//name", "org/name/README.md", "org/name/.hidden.pth", "org/name@", "org/name@..",
    "org/name@../../x", "org/name@a..b", "org/name@/a.pth", "org/name@-x", "o--rg/name", "org/na..me",
    "org/name.git", ".org/name", "org/-name", "org/name-", "C:\\org\\name", "org\\name", "org/name\0",
    "org/na me", "org/näme", "org/name\n", "org/name/a\0.pth", "org/name/a\n.pth", "org/name/C:a.pth",
    "https://huggingface.co/org/name", "hf://org/name", f"org/{'a' * 97}", f"org/name/{'a' * 300}.pth",
]  # fmt: skip


@pytest.mark.parametrize("text", PATHS)
def test_what_cannot_be_a_name_is_a_path_and_no_hub_hears_of_it(server: HubServer, text: str) -> None:
    assert hub.parse(text) is None
    assert hub.local_path(text) == Path(text)
    with pytest.raises(CheckpointError) as refusal:
        load(text)
    assert server.endpoint not in str(refusal.value)
    assert server.requests == []


class TestOnDisk:
    """What is on this disk goes before the hub."""

    @pytest.mark.parametrize("is_path", [False, True])
    @pytest.mark.parametrize(
        ("made", "asked"),
        [
            ("org/name/model.safetensors", "org/name"),
            ("org/name/model.safetensors", "org/name/model.safetensors"),
            ("org/name@v1/model.safetensors", "org/name@v1"),
            ("org/name.pth", "org/name"),
            ("org/name-4.0.safetensors", "org/name-4.0"),
        ],
    )
    def test_a_path_that_exists_comes_back_unchanged(
        self, server: HubServer, made: str, asked: str, is_path: bool
    ) -> None:
        server.repository("org/name", {"model.safetensors": b"theirs"})
        Path(made).parent.mkdir(parents=True)
        checkpoints.save(random_model(), made)
        name = Path(asked) if is_path else asked
        assert hub.local_path(name) == Path(asked)
        assert_same_weights(load(name).model, random_model())
        assert server.requests == []

    def test_a_file_that_is_missing_in_a_folder_here_is_not_sought_on_the_hub(
        self, server: HubServer, pth: bytes
    ) -> None:
        server.repository("org/name", {"a.pth": pth})
        Path("org/name").mkdir(parents=True)
        with pytest.raises(CheckpointError, match="no such file or folder") as refusal:
            load("org/name/a.pth")
        assert "hub" not in str(refusal.value)
        assert server.requests == []

    def test_a_link_that_leads_nowhere_is_not_replaced_by_the_hub(self, server: HubServer) -> None:
        server.repository("org/name", {"model.safetensors": b"theirs"})
        Path("org").mkdir()
        Path("org/name").symlink_to("gone")
        assert hub.local_path("org/name") == Path("org/name")
        assert server.requests == []

    def test_a_path_object_is_a_path_and_no_name(self, server: HubServer, pth: bytes) -> None:
        server.repository("org/name", {"a.pth": pth})
        assert hub.local_path(Path("org/name")) == Path("org/name")
        assert server.requests == []

    @pytest.mark.parametrize("name", ["org/name", "model.pth"])
    def test_it_has_no_revision(self, server: HubServer, name: str) -> None:
        Path("org/name").mkdir(parents=True)
        with pytest.raises(
            ConfigError, match=f"revision is 'v1', but .* {name} is taken for a path on this disk"
        ):
            load(name, revision="v1")
        assert server.requests == []


class TestWhatIsFetched:
    """The files of one model, and nothing else."""

    def test_a_folder_of_transformers(self, server: HubServer, folder: dict[str, bytes]) -> None:
        theirs = {
            "tokenizer.json": b"{}",
            "rwkv_vocab_v20230424.txt": VOCABULARY,
            "20B_tokenizer.json": b"{ }",
        }
        server.repository("org/name", LEFTOVERS | folder | theirs | {"other.pth": b"", "q8.gguf": b""})
        path = hub.local_path("org/name")
        assert_same_weights(checkpoints.load(path).model, random_model())
        assert sorted(file.name for file in path.iterdir()) == sorted(folder | theirs)
        assert server.fetched() == sorted(folder | theirs)

    def test_a_folder_in_parts(self, server: HubServer, folder: dict[str, bytes]) -> None:
        names = [f"model-{part:05}-of-00003.safetensors" for part in (1, 2, 3)]
        files = {"config.json": folder["config.json"], "model.safetensors.index.json": b"{}"}
        files |= dict.fromkeys(names, b"part")
        server.repository("org/name", LEFTOVERS | files)
        assert sorted(file.name for file in hub.local_path("org/name").iterdir()) == sorted(files)

    def test_weights_of_old_in_a_folder_of_transformers(self, server: HubServer) -> None:
        files = {"config.json": b"{}", "pytorch_model.bin": b"weights"}
        server.repository("org/name", LEFTOVERS | files)
        assert sorted(file.name for file in hub.local_path("org/name").iterdir()) == sorted(files)

    def test_a_run_folder_of_ours(self, server: HubServer, tmp_path: Path) -> None:
        checkpoints.save(random_model(vocabulary_size=256), tmp_path / "model.safetensors", tokenizer="bytes")
        ours = (tmp_path / "model.safetensors").read_bytes()
        server.repository(
            "org/name", {"model.safetensors": ours, "config.toml": b"", "snapshot.safetensors": b""}
        )
        assert load("org/name").tokenizer.name == "bytes"
        assert server.fetched() == ["model.safetensors"]

    @pytest.mark.parametrize("place", ["", "models/"])
    def test_the_only_file_with_a_model_and_the_vocabulary_beside_it(
        self, server: HubServer, pth: bytes, place: str
    ) -> None:
        files = {f"{place}RWKV-4.pth": pth, f"{place}rwkv_vocab_v20230424.txt": VOCABULARY}
        elsewhere = {"elsewhere/vocab.txt": VOCABULARY, "elsewhere/tokenizer.json": b"{}"}
        without = {
            name: content for name, content in LEFTOVERS.items() if not place or "safetensors" not in name
        }
        server.repository("org/name", without | files | elsewhere)
        path = hub.local_path("org/name")
        assert path.as_posix().endswith(f"/{place}RWKV-4.pth")
        assert_same_weights(checkpoints.load(path).model, random_model(seed=1))
        assert server.fetched() == sorted(files)

    def test_a_file_that_is_named_among_many(self, server: HubServer, pth: bytes) -> None:
        files = {f"RWKV-x070-World-{size}.pth": b"other" for size in ("0.1B", "0.4B", "1.5B")}
        server.repository("org/name", files | {"old/RWKV 4.pth": pth, "config.json": b"{}"})
        path = hub.local_path("org/name/old/RWKV 4.pth")
        assert_same_weights(checkpoints.load(path).model, random_model(seed=1))
        assert server.fetched() == ["old/RWKV 4.pth"]

    def test_of_many_files_the_error_lists_the_latest(self, server: HubServer) -> None:
        dates = [f"2025{month:02}15" for month in range(1, 13)]
        old = ["RWKV-x060-World-7B-20240101-ctx4096.pth", "ancient.pth"]
        files = [*old, *(f"RWKV-x070-World-{i}B-{date}-ctx4096.pth" for i, date in enumerate(dates))]
        server.repository("BlinkDL/rwkv-7-world", LEFTOVERS | dict.fromkeys(files, b"weights"))
        with pytest.raises(CheckpointError) as refusal:
            hub.local_path("BlinkDL/rwkv-7-world")
        text = str(refusal.value)
        assert "it holds 14 models. Say which one as BlinkDL/rwkv-7-world/FILE, " in text
        assert "where FILE is one of: RWKV-x070-World-11B-20251215-ctx4096.pth, RWKV-x070-World-10B" in text
        assert text.endswith("RWKV-x070-World-0B-20250115-ctx4096.pth, …")
        assert not any(file in text for file in old)
        assert server.fetched() == []

    def test_formats_of_one_model_are_a_choice_too(self, server: HubServer) -> None:
        server.repository("org/name", {"q4.gguf": b"", "q8.gguf": b"", "a-00001-of-00002.gguf": b""})
        with pytest.raises(CheckpointError, match=r"as org/name@main/FILE, .*one of: q8\.gguf, q4\.gguf\.$"):
            hub.local_path("org/name@main")

    @pytest.mark.parametrize(
        "files",
        [
            LEFTOVERS.keys() - {"checkpoint-500/model.safetensors"},
            {"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"},
            {"config.json", "model-00001-of-00001.safetensors"},
            {"tokenizer.json"},
            set(),
        ],
    )
    def test_a_repository_without_a_model_is_refused(self, server: HubServer, files: set[str]) -> None:
        server.repository("org/name", dict.fromkeys(files, b""))
        with pytest.raises(
            CheckpointError, match="org/name: it holds no model in a format that receptance knows"
        ):
            hub.local_path("org/name")
        assert server.fetched() == []

    def test_a_file_that_is_not_there_is_refused_with_what_is(
        self, server: HubServer, folder: dict[str, bytes]
    ) -> None:
        server.repository("org/name", {"b.pth": b"", "c.gguf": b""})
        with pytest.raises(
            CheckpointError, match=r"org/name/a\.pth: org/name has no such file; .* c\.gguf, b\.pth"
        ):
            hub.local_path("org/name/a.pth")
        server.repository("org/folder", folder)
        with pytest.raises(CheckpointError, match=r"its model is org/folder\."):
            hub.local_path("org/folder/a.pth")


class TestRevisions:
    """A branch, a tag or a commit, in the name or beside it."""

    @pytest.fixture
    def repository(self, server: HubServer, pth: bytes) -> Repository:
        repository = server.repository("org/name")
        repository.commit({"a.pth": pth}, "v1", "refs/pr/1", "feature/x")
        repository.commit({"a.pth": b"newer"})
        return repository

    @pytest.mark.parametrize(
        ("name", "revision"),
        [
            ("org/name@v1", None),
            ("org/name", "v1"),
            ("org/name@v1", "v1"),
            ("org/name@refs/pr/1", None),
            ("org/name/a.pth", "feature/x"),
            ("org/name@v1/a.pth", None),
            ("org/name@COMMIT", None),
            ("org/name", "COMMIT"),
        ],
    )
    def test_each_is_what_it_was(
        self, repository: Repository, name: str, revision: str | None, pth: bytes
    ) -> None:
        commit = repository.revisions["v1"]
        path = hub.local_path(name.replace("COMMIT", commit), commit if revision == "COMMIT" else revision)
        assert path.read_bytes() == pth
        assert path.parent.name == commit

    def test_without_one_it_is_the_main_branch_as_it_is_today(self, repository: Repository) -> None:
        assert hub.local_path("org/name").read_bytes() == b"newer"
        repository.commit({"a.pth": b"newest"})
        assert hub.local_path("org/name").read_bytes() == b"newest"

    @pytest.mark.parametrize("revision", ["v9", "f" * 40, "feature"])
    def test_one_that_is_not_there_is_refused(self, repository: Repository, revision: str) -> None:
        with pytest.raises(CheckpointError, match=f"has no revision '{revision}'. The page lists"):
            hub.local_path("org/name", revision)

    @pytest.mark.parametrize(
        "revision", ["", "..", "../../x", "/x", "a//b", "-x", "a b", "a\0", "a\\b", "a" * 300]
    )
    def test_nonsense_is_refused_unasked(self, server: HubServer, revision: str) -> None:
        with pytest.raises(ConfigError, match="no branch, tag or commit is called so"):
            hub.local_path("org/name", revision)
        assert server.requests == []

    def test_two_are_one_too_many(self, server: HubServer) -> None:
        with pytest.raises(ConfigError, match="org/name@v1 names a revision, and 'v2' is another one"):
            hub.local_path("org/name@v1", "v2")


class TestCache:
    """What was fetched once is not fetched again, and serves without the hub."""

    def test_only_what_changed_is_fetched_again(self, server: HubServer, folder: dict[str, bytes]) -> None:
        repository = server.repository("org/name", folder)
        before = hub.local_path("org/name")
        assert server.fetched() == sorted(folder)
        assert hub.local_path("org/name") == before
        assert server.fetched() == []
        repository.commit(folder | {"generation_config.json": b"{}"})
        after = hub.local_path("org/name")
        assert server.fetched() == ["generation_config.json"]
        assert (after / "generation_config.json").read_bytes() == b"{}"
        assert before != after
        assert_same_weights(checkpoints.load(after).model, random_model())

    @pytest.mark.parametrize("name", ["org/folder", "org/file", "org/many/b.pth", "org/file@v1"])
    def test_a_copy_serves_when_the_hub_does_not(
        self,
        server: HubServer,
        folder: dict[str, bytes],
        name: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server.repository("org/folder", folder)
        server.repository("org/many", {"a.pth": b"1", "b.pth": b"2"})
        server.repository("org/file").commit({"a.pth": b"1"}, "v1")
        before = hub.local_path(name)
        server.status = 503
        assert hub.local_path(name) == before
        server.stop()
        assert hub.local_path(name) == before
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2
        assert all(f"{name}: taken from the cache, for the hub did not answer" in text for text in said)
        caplog.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(socket, "socket", None)  # whoever opens one fails
        assert hub.local_path(name) == before
        assert caplog.records == []

    @pytest.mark.parametrize("name", ["org/absent", "org/name/b.pth", "org/name@v1", "org/parts"])
    def test_offline_what_was_not_fetched_whole_is_refused(
        self, server: HubServer, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        server.repository("org/name").commit({"a.pth": b"1", "b.pth": b"2"}, "v1")
        hub.local_path("org/name/a.pth")
        parts = {f"model-0000{part}-of-00002.safetensors": b"" for part in (1, 2)}
        server.repository("org/parts", parts | {"model.safetensors.index.json": b"{}", "config.json": b"{}"})
        (hub.local_path("org/parts") / "model-00002-of-00002.safetensors").unlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError) as refusal:
            hub.local_path(name)
        assert str(refusal.value) == (
            f"{name}: it is no path on this disk, the cache {tmp_path / 'cache'} does not hold it whole, and "
            "HF_HUB_OFFLINE keeps it from being fetched. Unset that once."
        )

    def test_a_cache_that_cannot_be_written_is_named(
        self, server: HubServer, tmp_path: Path, pth: bytes
    ) -> None:
        server.repository("org/name", {"a.pth": pth})
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(CheckpointError, match=r"cannot be kept in the cache .*cache: .*HF_HOME can name"):
            hub.local_path("org/name")


class TestWhatGoesWrong:
    """Each cause has an error that names it and says what to do."""

    def test_no_such_model(self, server: HubServer) -> None:
        with pytest.raises(CheckpointError) as refusal:
            load("org/name")
        assert str(refusal.value) == (
            f"org/name: it is no path on this disk, and {server.endpoint} has no such model, or not for "
            "everyone. Check the spelling; for a private model, log in with `hf auth login` or set HF_TOKEN."
        )

    def test_a_private_model_needs_the_token(
        self, server: HubServer, pth: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.repository("org/name", {"a.pth": pth}).token = "hf_secret"
        with pytest.raises(
            CheckpointError, match=r"or not for everyone.*log in with `hf auth login` or set HF_TOKEN"
        ):
            hub.local_path("org/name")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        assert hub.local_path("org/name").read_bytes() == pth

    def test_a_gated_model(self, server: HubServer, pth: bytes) -> None:
        server.repository("org/name", {"a.pth": pth}).is_gated = True
        with pytest.raises(
            CheckpointError, match=r"its owners hand it only to those they let in\. Ask"
        ) as refusal:
            hub.local_path("org/name")
        assert f"{server.endpoint}/org/name, then log in" in str(refusal.value)

    @pytest.mark.parametrize("status", [401, 403])
    def test_access_refused(self, server: HubServer, status: int, pth: bytes) -> None:
        server.repository("org/name", {"a.pth": pth})
        hub.local_path("org/name")  # a copy does not hide that the key is wrong
        server.status = status
        with pytest.raises(CheckpointError, match="log in with `hf auth login` or set HF_TOKEN"):
            hub.local_path("org/name")

    @pytest.mark.parametrize("status", [400, 404, 500, 503])
    def test_a_server_that_answers_otherwise(self, server: HubServer, status: int) -> None:
        server.status = status
        with pytest.raises(CheckpointError, match=rf"could not be fetched from {server.endpoint}.*{status}"):
            hub.local_path("org/name")

    @pytest.mark.parametrize(
        "answer", [[], {}, "page", 3, {"id": "org/name", "siblings": 3}, {"siblings": [{}]}]
    )
    def test_a_server_that_is_no_hub(self, server: HubServer, answer: object) -> None:
        server.repository("org/name", {"a.pth": b""}).information = answer
        with pytest.raises(CheckpointError, match=r"could not be fetched.*HF_ENDPOINT"):
            hub.local_path("org/name")

    def test_nobody_listens(self, server: HubServer) -> None:
        server.stop()
        with pytest.raises(
            CheckpointError, match=r"could not be fetched from http.*refused.*Check the connection"
        ):
            hub.local_path("org/name")

    def test_a_download_that_is_cut_off_goes_on_where_it_was(
        self, server: HubServer, pth: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        repository = server.repository("org/name", {"a.pth": pth})
        repository.cuts = 2
        assert hub.local_path("org/name").read_bytes() == pth
        ranges = [bytes_ for method, path, bytes_ in server.requests if path.startswith("/large/")]
        assert len(ranges) == 3
        assert ranges[0] is None
        assert all(bytes_ is not None and bytes_ > "bytes=0-" for bytes_ in ranges[1:])

    def test_a_download_that_is_cut_off_for_good_leaves_nothing_that_could_be_loaded(
        self, server: HubServer, folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        repository = server.repository("org/name", folder)
        repository.cuts = 1000
        with pytest.raises(CheckpointError, match=r"could not be fetched.*try again; whole files are kept"):
            hub.local_path("org/name")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="does not hold it whole"):
            hub.local_path("org/name")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        server.fetched()
        repository.cuts = 0
        assert_same_weights(load("org/name").model, random_model())
        assert server.fetched() == ["model.safetensors"]

    def test_a_size_that_is_a_lie(self, server: HubServer, pth: bytes, tmp_path: Path) -> None:
        server.repository("org/name", {"a.pth": pth}).says_longer_by = 7
        with pytest.raises(
            CheckpointError, match=f"should be of size {len(pth) + 7} but has size {len(pth)}"
        ):
            hub.local_path("org/name")
        assert not list((tmp_path / "cache").rglob("a.pth"))


class TestAsAUser:
    """Python and the command line know names alike, and obey the environment."""

    def test_commands_take_names(
        self, server: HubServer, folder: dict[str, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        server.repository("org/name").commit(folder, "v1")
        server.repositories["org/name"].commit({"a.pth": b"broken"})
        for command in (["info", "--json"], ["verify", "--json", "-n", "4"]):
            assert main([*command[:1], "org/name", "--revision", "v1", *command[1:]]) == 0
            assert json.loads(capsys.readouterr().out)
        assert main(["convert", "org/name@v1", str(tmp_path / "a.pth")]) == 0
        assert_same_weights(checkpoints.load(tmp_path / "a.pth").model, random_model())
        assert main(["generate", "org/name", "--revision", "v2", "-p", "a"]) == 1
        assert "error: org/name@v2: " in capsys.readouterr().err

    def test_the_environment_is_obeyed_and_nothing_is_printed(
        self, server: HubServer, folder: dict[str, bytes], tmp_path: Path
    ) -> None:
        server.repository("org/name", folder).token = "hf_secret"
        code = "import receptance; print(receptance.load('org/name').config.hidden_size)"

        def run(**others: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-W", "error::ResourceWarning", "-c", code],
                env=server.environment(tmp_path / "home", **others),
                capture_output=True,
                text=True,
                check=False,
            )

        fetched = run(HF_TOKEN="hf_secret")
        assert (fetched.stdout, fetched.stderr) == ("24\n", "")
        assert (tmp_path / "home" / "hub" / "models--org--name" / "snapshots").is_dir()
        server.stop()
        offline = run(HF_HUB_OFFLINE="1")
        assert (offline.stdout, offline.stderr) == ("24\n", "")

    def test_importing_does_not_import_the_library_of_the_hub(self) -> None:
        code = (
            "import sys, receptance.checkpoints.hub, receptance.cli.main; "
            "sys.exit('huggingface_hub' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
