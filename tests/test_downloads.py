"""Where strangers may have media fetched from: real servers on addresses of this machine, of which one stands for the internet."""

import http.server
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from modeling_mmgpt import downloads_mmgpt
from modeling_mmgpt.downloads_mmgpt import is_named, is_public
from modeling_mmgpt.media_sources_mmgpt import LIMITS, STRANGERS, Limits, MediaPolicy, naming, read_bytes


PUBLIC = "127.0.0.2"  # what stands for an address of the internet


class Places(http.server.BaseHTTPRequestHandler):
    """/to/URL leads to another address, /slow sends its headers a letter at a time, /large more than was allowed; all else is the
    server's `content`."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/slow":
            with suppress(OSError):
                for letter in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000:
                    self.wfile.write(bytes([letter]))
                    time.sleep(0.05)
            return
        content = b"x" * 5000 if self.path == "/large" else self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(address: str):
    server = http.server.ThreadingHTTPServer((address, 0), Places)
    server.daemon_threads, server.asked, server.content = True, [], b"x" * 50
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def internet(monkeypatch):
    monkeypatch.setattr(downloads_mmgpt, "is_public", lambda address: address == PUBLIC)
    with serving(PUBLIC) as server:
        yield server


@pytest.fixture
def inside():
    with serving("127.0.0.1") as server:
        yield server


def read(source, policy: MediaPolicy, limits: Limits = LIMITS) -> bytes:
    with naming("image 0"):
        return read_bytes(source, policy, limits)


def url(server, path="/a.png") -> str:
    return f"http://{server.server_address[0]}:{server.server_port}{path}"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # where clouds keep credentials
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_of_this_machine_and_its_networks_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


def test_a_domain_is_allowed_with_what_is_below_it_and_a_port_alone_where_it_is_named():
    assert is_named("img.Example.org.", 443, ("example.org",)) and is_named("example.org", 80, ("example.org",))
    assert not is_named("badexample.org", 443, ("example.org",)) and not is_named("org", 443, ("example.org",))
    assert is_named("example.org", 8000, ("example.org:8000",))
    assert not is_named("example.org", 80, ("example.org:8000",))
    assert is_named("::1", 80, ("[::1]",))


class TestStrangers:
    def test_what_is_public_is_fetched(self, internet):
        assert read(url(internet), STRANGERS) == b"x" * 50
        assert read(url(internet, f"/to/{url(internet)}"), STRANGERS) == b"x" * 50

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
    def test_private_addresses_are_not_asked_however_they_are_written(self, inside, host):
        with pytest.raises(ValueError, match=r"image 0: cannot download .*: it is on a private network"):
            read(f"http://{host}:{inside.server_port}/a.png", STRANGERS)
        assert inside.asked == []

    def test_a_redirect_to_a_private_address_is_not_followed(self, internet, inside):
        with pytest.raises(ValueError, match="it is on a private network"):
            read(url(internet, f"/to/{url(inside)}"), STRANGERS)
        assert inside.asked == [] and len(internet.asked) == 1

    @pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://example.org/a.png", "gopher://example.org/"])
    def test_a_redirect_out_of_the_web_is_not_followed(self, internet, target):
        with pytest.raises(ValueError, match=r"no address of the web|unknown url type|is not all"):
            read(url(internet, f"/to/{target}"), STRANGERS)

    def test_a_name_that_leads_elsewhere_the_second_time_leads_nowhere(self, internet, inside, monkeypatch):
        """DNS rebinding: what was looked up and allowed is what is connected to."""
        real, answers = socket.getaddrinfo, [PUBLIC, "127.0.0.1", "127.0.0.1"]
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **k: real(answers.pop(0) if host == "evil.test" else host, *a, **k)
        )
        assert read(f"http://evil.test:{internet.server_port}/a.png", STRANGERS) == b"x" * 50
        assert inside.asked == []

    def test_paths_are_not_opened(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"secret")
        for source in (str(tmp_path / "a.png"), tmp_path / "a.png", f"file://{tmp_path}/a.png", "FILE:///etc/passwd"):
            with pytest.raises(ValueError, match="image 0: files are not opened by path here"):
                read(source, STRANGERS)

    def test_a_slow_answer_ends_when_its_time_is_over(self, internet):
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"it takes longer than 0.5 s"):
            read(url(internet, "/slow"), STRANGERS, Limits(download_seconds=0.5))
        assert time.monotonic() - started < 5

    def test_a_large_answer_ends_at_the_limit(self, internet):
        with pytest.raises(ValueError, match="more than 1,000 bytes"):
            read(url(internet, "/large"), STRANGERS, Limits(download_bytes=1000))

    def test_no_proxy_is_asked(self, internet, inside, monkeypatch):
        monkeypatch.setenv("http_proxy", url(inside, ""))
        assert read(url(internet), STRANGERS) == b"x" * 50 and inside.asked == []


class TestAllowLists:
    def test_domains_are_checked_at_every_redirect(self, internet, inside):
        policy = MediaPolicy(paths=False, private_addresses=False, domains=(f"{PUBLIC}:{internet.server_port}",))
        assert read(url(internet), policy) == b"x" * 50
        for target in (url(inside), "http://example.org/a.png"):
            with pytest.raises(ValueError, match="not on one of the allowed domains"):
                read(url(internet, f"/to/{target}"), policy)
        assert inside.asked == []

    def test_a_private_address_that_the_operator_names_is_asked(self, inside):
        policy = MediaPolicy(private_addresses=False, domains=(f"127.0.0.1:{inside.server_port}",))
        assert read(url(inside), policy) == b"x" * 50

    def test_folders_hold_back_what_is_outside_of_them(self, tmp_path):
        allowed, other = tmp_path / "media", tmp_path / "media-of-others"
        for folder in (allowed, other):
            folder.mkdir()
            (folder / "a.png").write_bytes(b"pixels")
        os.symlink(other / "a.png", allowed / "link.png")
        os.symlink(other, allowed / "links")
        policy = MediaPolicy(folders=(str(allowed),))
        assert read(str(allowed / "a.png"), policy) == b"pixels"
        assert read(f"file://{allowed}/a.png", policy) == b"pixels"
        for path in ("link.png", "links/a.png", "../media-of-others/a.png", "..", "\0.png"):
            with pytest.raises(ValueError, match="files outside the allowed folders are not opened by path"):
                read(str(allowed / path), policy)
