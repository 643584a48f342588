"""Opening URLs that strangers chose: no private addresses, only allowed domains, at every redirect, and all of it within a time.

Names are looked up once, and what was looked up is connected to: a name that leads elsewhere the second time leads nowhere. Proxies
are not used, since they would look names up themselves.
"""

import functools
import http.client
import ipaddress
import socket
import threading
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress


NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses behind a translator (RFC 6052)


def is_public(address: str) -> bool:
    """Whether an address is out in the internet: neither of this machine nor of its networks, also where IPv6 wraps it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        teredo = ip.teredo[1] if ip.teredo else None
        translated = ipaddress.ip_address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or teredo or translated or ip
    return ip.is_global and not ip.is_multicast


def is_named(host: str, port: int, domains: tuple[str, ...]) -> bool:
    """Whether one of `domains`, each `example.org`, which holds for what is below it too, or `example.org:8000`, is `host`."""
    host = host.lower().rstrip(".")
    for domain in domains:
        parts = urllib.parse.urlsplit(f"//{domain}")
        if parts.port in (None, port) and (host == parts.hostname or host.endswith(f".{parts.hostname}")):
            return True
    return False


def check_url(url: str, policy) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is no address of the web (http or https)")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if policy.domains is not None and not is_named(parts.hostname, port, policy.domains):
        raise ValueError(f"it is not on one of the allowed domains ({parts.hostname})")


def connect(address: tuple[str, int], timeout: float, source, policy, opened: list) -> socket.socket:
    """A connection to an address that the policy allows; a copy of it for whoever has to end it is added to `opened`."""
    host, port = address
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    is_private = not all(map(is_public, found))
    if is_private and not policy.private_addresses and not is_named(host, port, policy.domains or ()):
        raise ValueError(f"it is on a private network ({host})")
    for number, ip in enumerate(found):
        try:
            connection = socket.create_connection((ip, port), timeout, source)
        except OSError:
            if number == len(found) - 1:
                raise
        else:
            opened.append(connection.dup())
            return connection


class Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, policy):
        self.policy = policy

    def redirect_request(self, request, answer, code, message, headers, url):
        check_url(url, self.policy)
        return super().redirect_request(request, answer, code, message, headers, url)


def opener(policy, opened: list) -> urllib.request.OpenerDirector:
    """As `urllib.request.build_opener`, but for the web alone, and with `connect` under it."""

    def connecting(connection_class):
        def build(*args, **kwargs):
            connection = connection_class(*args, **kwargs)
            connection._create_connection = functools.partial(connect, policy=policy, opened=opened)
            return connection

        return build

    class Web(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(connecting(http.client.HTTPConnection), request)

    class SecureWeb(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(connecting(http.client.HTTPSConnection), request, context=self._context)

    director = urllib.request.OpenerDirector()
    errors = (urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor())
    for handler in (Web(), SecureWeb(), Redirects(policy), urllib.request.UnknownHandler(), *errors):
        director.add_handler(handler)
    return director


@contextmanager
def open_url(url: str, policy, seconds: float):
    """The answer to a request, open for reading as of `urlopen`, for at most so many `seconds`, however slowly it comes."""
    if policy.domains is None and policy.private_addresses:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            yield answer
        return
    check_url(url, policy)
    opened: list[socket.socket] = []

    def shut():
        for connection in list(opened):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        with opener(policy, opened).open(url, timeout=seconds) as answer:
            yield answer
    finally:
        timer.cancel()
        for connection in opened:
            connection.close()
