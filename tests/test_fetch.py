"""Fetching data sets from a server on this machine, which breaks in every way that the network has."""

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import soundfile
import yaml
from filelock import FileLock

from training.data import fetch as fetching
from training.data.fetch import FetchError, blob_of, fetch, known_sets, main, sets_of
from training.data.originals import CONVERTERS, digest_of


SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = "All the world's a stage. " * 40
CLIPS = [f"{digit}_george_{index}" for digit in range(6) for index in (0, 3, 5, 8, 10, 11, 12, 13, 14, 15)]


class Server:
    r"""
    files (`dict`): content by path, `/OWNER/NAME/COMMIT/PATH` and `/OWNER/NAME/tar.gz/COMMIT`.
    faults (`list`): what happens to the next requests, in order: "break" after half of the content, "flip" a byte, "busy", "long", or "".
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.on_request = None
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, span = unquote(urlsplit(handler.path).path), handler.headers.get("Range")
        self.requests.append((path, span))
        if self.on_request is not None:
            self.on_request(path)
        fault = self.faults.pop(0) if self.faults else ""
        if path not in self.files or fault == "busy":
            handler.send_response(503 if fault == "busy" else 404)
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        content = self.files[path]
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
        body = content[start:] + (b"x" * 10_000_000 if fault == "long" else b"")
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        handler.send_response(206 if span else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if fault == "break" else body)
        handler.close_connection = True

    def asked(self) -> list[str]:
        return [path for path, _ in self.requests]


@pytest.fixture
def server(monkeypatch):
    """The server, and nobody waits for it."""
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    one = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            one.answer(self)

        def log_message(self, *arguments):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.handle_error = lambda *arguments: None  # a client that hangs up
    one.url = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield one
    listening.shutdown()
    listening.server_close()


def describe(folder: Path, name: str, originals: Path, files: dict[str, bytes], listed: bool) -> dict:
    """Writes the description of a set whose originals these are, as configuration/datasets has them."""
    for path, content in files.items():
        place = originals / "origin" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    origin = {"repository": "someone/set", "commit": COMMIT, "files": {}}
    if listed:
        lines = "".join(f"{path}\t{len(data)}\t{blob_of(data)[:10]}\n" for path, data in files.items())
        (folder / f"{name}.files.gz").write_bytes(gzip.compress(lines.encode()))
        full = "".join(f"{path}\t{blob_of(files[path])}\n" for path in sorted(files))
        origin["listed"] = {"digest": hashlib.sha256(full.encode()).hexdigest()}
    else:
        origin["files"] = {path: [len(data), blob_of(data)] for path, data in files.items()}
    converted = CONVERTERS[name](originals)
    description = {
        "about": "A small set.",
        "license": "cc0-1.0",
        "stated_in": "README",
        "terms": "None.",
        "origins": {"origin": origin},
        "decoded": True,
        "files": {
            file: {"samples": len(records), "sha256": digest_of(records, decoded=True)}
            for file, records in converted.items()
        },
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return description


def clip(number: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(50, number / 100), 8000, format="WAV")
    return buffer.getvalue()


def archive_of(files: dict[str, bytes]) -> bytes:
    """As GitHub makes them: all of the repository in one folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in {"README.md": b"hello", **files, "../../evil": b"evil"}.items():
            member = tarfile.TarInfo(f"set-{COMMIT}/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def sets(server, tmp_path, monkeypatch):
    """Two sets of the server: `tinyshakespeare`, one file, and `fsdd`, sixty of a list."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setattr(fetching, "DATASETS", folder)
    text = {"data/tinyshakespeare/input.txt": TEXT.encode()}
    clips = {f"recordings/{name}.wav": clip(number) for number, name in enumerate(CLIPS)}
    describe(folder, "tinyshakespeare", tmp_path / "text", text, listed=False)
    describe(folder, "fsdd", tmp_path / "clips", clips, listed=True)
    server.files = {f"/someone/set/{COMMIT}/{path}": data for path, data in (text | clips).items()}
    return folder


TEXT_PATH = f"/someone/set/{COMMIT}/data/tinyshakespeare/input.txt"
ARCHIVE_PATH = f"/someone/set/tar.gz/{COMMIT}"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestFile:
    def test_becomes_the_set_and_says_its_terms(self, server, sets, tmp_path, capsys):
        target = fetch("tinyshakespeare", tmp_path / "data", server.url)
        assert (target / "train.txt").read_text() + (target / "validation.txt").read_text() == TEXT
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["tinyshakespeare"], (
            "nothing is left beside it"
        )
        said = capsys.readouterr().out
        assert "licence: cc0-1.0. None." in said and "train.txt (1)" in said
        assert '"repository": "someone/set"' in (target / "ORIGIN.json").read_text()

    def test_that_is_there_is_not_fetched_again(self, server, sets, tmp_path):
        fetch("tinyshakespeare", tmp_path, server.url)
        server.requests.clear()
        fetch("tinyshakespeare", tmp_path, server.url)
        assert server.requests == []

    def test_goes_on_where_the_connection_broke(self, server, sets, tmp_path):
        server.faults = ["break", "break", "busy", "break"]
        fetch("tinyshakespeare", tmp_path, server.url)
        spans = [span for _, span in server.requests]
        assert spans == [None, "bytes=500-", "bytes=750-", "bytes=750-", "bytes=875-"]

    def test_is_given_up_after_attempts_without_a_byte_and_fetched_by_the_same_command(self, server, sets, tmp_path):
        server.faults = ["busy"] * fetching.ATTEMPTS
        with pytest.raises(
            FetchError, match=r"input\.txt: Busy: the server answers 503; 5 attempts.*same command goes on"
        ):
            fetch("tinyshakespeare", tmp_path, server.url)
        assert not (tmp_path / "tinyshakespeare").exists()
        fetch("tinyshakespeare", tmp_path, server.url)

    @pytest.mark.parametrize("fault", ["flip", "long"])
    def test_that_is_another_one_is_asked_for_again_once(self, server, sets, tmp_path, fault):
        server.faults = [fault]
        fetch("tinyshakespeare", tmp_path / "once", server.url)
        server.faults = [fault, fault]
        with pytest.raises(
            FetchError,
            match=r"input\.txt gave [\d,]+ bytes with checksum [0-9a-f]{40}; those of the data set are 1,000",
        ):
            fetch("tinyshakespeare", tmp_path / "twice", server.url)
        assert not (tmp_path / "twice" / "tinyshakespeare").exists()

    def test_that_the_server_lacks_names_the_way_out(self, server, sets, tmp_path):
        del server.files[TEXT_PATH]
        with pytest.raises(FetchError, match=r"input\.txt is not there: ask another --mirror"):
            fetch("tinyshakespeare", tmp_path, server.url)


class TestList:
    def test_comes_in_one_archive(self, server, sets, tmp_path):
        clips = {path.split("/", 4)[4]: data for path, data in server.files.items() if "recordings" in path}
        server.files[ARCHIVE_PATH] = archive_of(clips)
        fetch("fsdd", tmp_path / "data", server.url)
        assert server.asked() == [ARCHIVE_PATH]
        assert not list(tmp_path.rglob("*evil*"))

    def test_comes_file_by_file_where_there_is_no_archive(self, server, sets, tmp_path):
        fetch("fsdd", tmp_path, server.url)
        assert server.asked()[0] == ARCHIVE_PATH and len(server.requests) == 1 + len(CLIPS)

    def test_either_way_is_the_same_set(self, server, sets, tmp_path):
        one = contents(fetch("fsdd", tmp_path / "one", server.url))
        server.files[ARCHIVE_PATH] = archive_of({path.split("/", 4)[4]: data for path, data in server.files.items()})
        assert contents(fetch("fsdd", tmp_path / "other", server.url)) == one
        assert set(one) == {"train.parquet", "validation.parquet", "test.parquet", "ORIGIN.json"}

    def test_what_was_read_before_an_archive_broke_stays(self, server, sets, tmp_path):
        clips = {path.split("/", 4)[4]: data for path, data in server.files.items() if "recordings" in path}
        server.files = {ARCHIVE_PATH: archive_of(dict(clips, big=os.urandom(300_000)))}
        server.faults = ["break"] * fetching.ATTEMPTS
        fetch("fsdd", tmp_path, server.url)
        assert server.asked() == [ARCHIVE_PATH], "all clips came before the break"

    def test_one_that_is_damaged_in_the_archive_is_asked_for_alone(self, server, sets, tmp_path):
        clips = {path.split("/", 4)[4]: data for path, data in server.files.items() if "recordings" in path}
        first = next(iter(clips))
        server.files[ARCHIVE_PATH] = archive_of({**clips, first: clips[first][:-1] + b"x"})
        fetch("fsdd", tmp_path, server.url)
        assert server.asked() == [ARCHIVE_PATH, f"/someone/set/{COMMIT}/{first}"]

    def test_only_what_is_missing_or_damaged_is_asked_for_after_a_break(self, server, sets, tmp_path):
        last = f"/someone/set/{COMMIT}/recordings/{CLIPS[-1]}.wav"
        content = server.files.pop(last)
        with pytest.raises(FetchError, match="is not there"):
            fetch("fsdd", tmp_path, server.url)
        assert not (tmp_path / "fsdd").exists()
        server.files[last] = content
        damaged = tmp_path / ".fsdd.fetch" / "originals" / "origin" / "recordings" / f"{CLIPS[0]}.wav"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
        server.requests.clear()
        fetch("fsdd", tmp_path, server.url)
        assert {Path(path).stem for path in server.asked()} == {CLIPS[0], CLIPS[-1]}


class TestDisk:
    @pytest.fixture
    def small(self, tmp_path):
        """A disk of 64 KiB."""
        folder = tmp_path / "small"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        yield folder
        subprocess.run(["umount", folder], check=True)

    def test_without_room_is_refused_before_anything_is_fetched(self, server, sets, small):
        (small / "other").write_bytes(bytes(63 * 1024))
        with pytest.raises(FetchError, match=r"the disk of .*small is full: .* MB are needed"):
            fetch("tinyshakespeare", small, server.url)
        assert server.requests == []

    def test_that_fills_up_leaves_no_half_set_and_goes_on_when_there_is_room(self, server, sets, small):
        def fill(path):
            with (small / "other").open("wb") as file:
                try:
                    file.write(bytes(64 * 1024))
                except OSError:
                    return

        server.on_request = fill
        with pytest.raises(FetchError, match=r"is full: .* the same command goes on from here"):
            fetch("tinyshakespeare", small, server.url)
        assert not (small / "tinyshakespeare").exists()
        server.on_request = None
        (small / "other").unlink()
        assert (fetch("tinyshakespeare", small, server.url) / "train.txt").is_file()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_that_cannot_be_written_is_named(self, server, sets, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(FetchError, match="--root"):
            fetch("tinyshakespeare", tmp_path / "data", server.url)


class TestSamples:
    def test_that_come_out_otherwise_are_refused(self, server, sets, tmp_path):
        path = sets / "tinyshakespeare.yaml"
        description = yaml.safe_load(path.read_text())
        description["files"]["train.txt"]["sha256"] = "0" * 64
        path.write_text(yaml.safe_dump(description))
        with pytest.raises(
            FetchError, match=r"train\.txt of tinyshakespeare came out with 1 samples that are not the 1"
        ):
            fetch("tinyshakespeare", tmp_path, server.url)
        assert not (tmp_path / "tinyshakespeare").exists()

    def test_of_another_list_are_refused(self, server, sets, tmp_path):
        path = sets / "fsdd.yaml"
        description = yaml.safe_load(path.read_text())
        description["origins"]["origin"]["listed"]["digest"] = "0" * 64
        path.write_text(yaml.safe_dump(description))
        with pytest.raises(FetchError, match="the originals of fsdd have the digest"):
            fetch("fsdd", tmp_path, server.url)


def test_two_at_a_time_do_not_share_a_folder(server, sets, tmp_path):
    with FileLock(tmp_path / ".fsdd.lock"), pytest.raises(FetchError, match="another process is fetching fsdd"):
        fetch("fsdd", tmp_path, server.url)


def test_a_proxy_is_taken_from_the_environment(server, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "")
    fetch("tinyshakespeare", tmp_path, "http://mirror.invalid")
    assert server.asked() == [TEXT_PATH]


class TestCommandLine:
    def test_fetches_several(self, server, sets, tmp_path, monkeypatch):
        command = ["fetch", "tinyshakespeare", "fsdd", "--root", str(tmp_path / "data"), "--mirror", f"{server.url}/"]
        monkeypatch.setattr(sys, "argv", command)
        main()
        assert {path.name for path in (tmp_path / "data").iterdir()} == {"tinyshakespeare", "fsdd"}

    def test_a_recipe_is_all_that_it_reads(self):
        assert sets_of("joint") == ["fsdd", "easy_vqa", "sign_digits", "esc10", "tinyshakespeare"]
        assert sets_of("nlvr") == ["nlvr"] and sets_of("demo") == [] and sets_of("crows_pairs") == ["crows_pairs"]

    def test_ends_with_a_sentence(self, server, sets, tmp_path, monkeypatch):
        server.files.clear()
        monkeypatch.setattr(sys, "argv", ["fetch", "fsdd", "--root", str(tmp_path), "--mirror", server.url])
        with pytest.raises(SystemExit, match="is not there"):
            main()

    def test_an_unknown_set_names_the_nearest(self, tmp_path):
        with pytest.raises(FetchError, match=r"no data set 'fsd' to fetch, but crows_pairs, .*'fsdd'"):
            fetch("fsd", tmp_path)


@pytest.mark.parametrize(
    "name",
    ["tinyshakespeare", "gsm8k", "crows_pairs", "fashion_mnist_small", "opennmt_ende", "squad2_devhalf", "easy_vqa"],
)
def test_the_sets_whose_originals_are_at_hand_are_fetched_whole(name, server, tmp_path):
    originals = SHARED / "originals" / name
    if not originals.is_dir():
        pytest.skip(f"the originals of {name} are not in {SHARED}")
    assert name in known_sets()
    server.files = {
        f"/{path.relative_to(originals)}": path.read_bytes() for path in originals.rglob("*") if path.is_file()
    }
    repository = next(originals.glob("*/*/*"))
    if name == "easy_vqa":  # five thousand files
        owner, repo, commit = repository.relative_to(originals).parts
        files = {
            str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()
        }
        server.files = {f"/{owner}/{repo}/tar.gz/{commit}": archive_of(files)}
    target = fetch(name, tmp_path, server.url)
    for path in (SHARED / "data" / name).iterdir():
        assert (target / path.name).is_file()
    shutil.rmtree(target)
