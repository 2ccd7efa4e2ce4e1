"""What requests are made of: the origin they go to, the key they carry, the time they wait."""

import http.server
import socket
import ssl
import threading
import time

import pytest
import trustme
from tests.hostile.scene import KEY
from tests.hostile.server import HostileServer
from tests.hostile.server import http as answer

from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.http import HttpBackend
from hdev_memory.backends.http_transport import Clock, RequestFailed, Transport
from hdev_memory.errors import UsageError


@pytest.mark.parametrize("key", ["canary\nkey", "canary-ké", "canary\x00"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(UsageError) as caught:
        Transport(Where("http", "https://memory.example", Secret(key)))

    assert "canary" not in str(vars(caught.value))


@pytest.mark.parametrize("host", ["x" * 64 + "é.example", "é..example"])
def test_a_host_that_no_server_can_have_is_a_usage_error(host):
    with pytest.raises(UsageError):
        Transport(Where("http", f"https://{host}"))


def test_a_server_below_a_path_is_asked_below_that_path():
    with HostileServer(KEY) as server:
        asked = set()

        def below(exchange):
            asked.add(exchange.request.path.partition("/api")[0])
            exchange.request.path = exchange.request.path.removeprefix("/team%20one")
            exchange.send(exchange.honest())

        server.on("GET", "/team%20one/*", below, times=None)
        where = Where("http", f"{server.url}/team one", Secret(KEY))
        with HttpBackend(where) as backend:
            assert list(backend.keys()) == []
        assert asked == {"/team%20one"}
        assert {request.headers["host"] for request in server.seen} == {f"127.0.0.1:{server.port}"}


def test_closing_ends_a_wait_at_once():
    with HostileServer(KEY) as server:
        busy = answer(503, b"", {"Retry-After": "50"})
        waiting = threading.Event()

        def wait(closed, seconds):
            waiting.set()
            closed.wait(seconds)

        server.on("GET", "/x", lambda exchange: exchange.send(busy), times=None)
        transport = Transport(Where("http", server.url, Secret(KEY)), clock=Clock(wait=wait))
        found = []

        def read():
            found.extend(transport.map(transport.get, ["/x"]))

        reader = threading.Thread(target=read)
        reader.start()
        assert waiting.wait(20)
        transport.close()
        reader.join(20)

        assert not reader.is_alive()
        assert found[0].status == 503


def test_closing_ends_at_once_a_write_that_the_server_does_not_take():
    failures = []
    pieces = []

    def now():  # asked before each piece that is sent
        pieces.append(time.monotonic())
        return pieces[-1]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = Where("http", f"http://127.0.0.1:{listener.getsockname()[1]}", Secret(KEY))
        transport = Transport(where, clock=Clock(now=now))

        def put(path):
            return transport.request("PUT", path, body={"content": "x" * 50_000_000}, seconds=100)

        def write():
            with pytest.raises(RequestFailed) as caught:
                list(transport.map(put, ["/x"]))
            failures.append(caught.value)

        writer = threading.Thread(target=write)
        writer.start()
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1) == b"P"  # and never more
            while len(pieces) < 20 or time.monotonic() < pieces[-1] + 0.2:
                time.sleep(0)  # until nothing more goes in
            transport.close()
            writer.join(20)

            assert len(failures) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 with its key, and the authority that nobody trusts."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder


class Tls:
    """A TLS front on a loopback port, which counts the requests that it was able to read."""

    def __init__(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "server.pem")
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                front.heard.append(self.headers["Authorization"])
                self.wfile.write(answer(200, {"hello": True}, {"Connection": "close"}))

            def log_message(self, *words):
                pass

        self.heard = []
        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *words: None
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_server_whose_certificate_nobody_vouches_for_is_not_told_the_key(certificate):
    with Tls(certificate) as front:
        transport = Transport(Where("http", front.url, Secret(KEY)))
        with pytest.raises(RequestFailed, match="CERTIFICATE_VERIFY_FAILED"):
            transport.request("GET", "/api/health")
        transport.close()

        assert front.heard == []


def test_a_server_whose_certificate_the_system_trusts_is_asked_over_tls(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "authority.pem"))
    with Tls(certificate) as front:
        transport = Transport(Where("http", front.url, Secret(KEY)))
        found = transport.request("GET", "/api/health")
        transport.close()

        assert found.body == {"hello": True}
        assert front.heard == [f"Bearer {KEY}"]


def test_a_tls_handshake_that_never_ends_is_cut_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        transport = Transport(Where("http", url, Secret(KEY), timeout=0.2))
        with pytest.raises(RequestFailed, match="timed out"):
            transport.request("GET", "/api/health")
        transport.close()
