"""
These tests check where clients connect: bound when made, accepting when started, one line when
it cannot.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import _SystemdParser
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.systemd import ListenFDs

from llmux.config import Config, ConfigError, ModelConfig
from llmux.daemon.listener import Listener, describe_address


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    def configure(**keys: Any) -> Config:
        a = ModelConfig(port=1, wake="w", sleep="s", alive="l")
        if "listen" not in keys:
            keys.setdefault("port", free_port())
        return Config(models={"a": a}, directory=str(tmp_path), file="c.yaml", **keys)

    return configure


class Greeter(Protocol):
    """This protocol says hello and leaves."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Greeting(Factory):
    """This factory counts its clients."""

    noisy = False

    def __init__(self) -> None:
        self.clients = 0

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        self.clients += 1
        return Greeter()


def hear(client: socket.socket) -> bytes:
    """Read all that is sent; this is for a thread."""
    said = b""
    while data := client.recv(100):
        said += data
    return said


def connect(family: int, address: Any) -> socket.socket:
    client = socket.socket(family)
    client.settimeout(10)
    try:
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


async def starts_and_stops(
    listener: Listener, factory: Greeting, family: int, address: Any
) -> None:
    """
    Check that a client that comes before the start is served after it, and none after the stop.
    """
    with closing(connect(family, address)) as early:
        from twisted.internet import reactor

        await deferLater(cast(Any, reactor), 0.05)
        assert factory.clients == 0
        listener.privilegedStartService()
        listener.startService()
        assert listener.running
        assert await deferToThread(hear, early) == b"hello"
    await listener.stopService()
    assert not listener.running
    with pytest.raises(OSError):
        connect(family, address)


@pytest_twisted.ensureDeferred
async def test_a_listener_of_tcp_starts_and_stops(
    reactor: Any, configure: Callable[..., Config]
) -> None:
    config = configure()
    factory = Greeting()
    listener = Listener(config, reactor, factory)
    await starts_and_stops(listener, factory, socket.AF_INET, ("127.0.0.1", config.port))


@pytest_twisted.ensureDeferred
async def test_a_listener_of_ipv6_starts_and_stops(
    reactor: Any, configure: Callable[..., Config]
) -> None:
    config = configure(host="::1")
    factory = Greeting()
    listener = Listener(config, reactor, factory)
    await starts_and_stops(listener, factory, socket.AF_INET6, ("::1", config.port))


@pytest_twisted.ensureDeferred
async def test_a_listener_of_an_endpoint_starts_and_stops(
    reactor: Any, configure: Callable[..., Config]
) -> None:
    port = free_port()
    config = configure(listen=f"tcp:{port}:interface=127.0.0.1")
    factory = Greeting()
    listener = Listener(config, reactor, factory)
    await starts_and_stops(listener, factory, socket.AF_INET, ("127.0.0.1", port))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("listen", "mode"),
    [
        ("unix:s", 0o660),
        ("unix:address=s", 0o660),
        ("unix:s:lockfile=1", 0o660),
        ("unix:s:mode=666", 0o666),
        ("unix:s:mode=600:lockfile=0", 0o600),
    ],
)
async def test_a_unix_socket_is_closed_to_other_users(
    reactor: Any, configure: Callable[..., Config], tmp_path: Path, listen: str, mode: int
) -> None:
    listener = Listener(configure(listen=listen), reactor, Greeting())
    assert (tmp_path / "s").stat().st_mode & 0o777 == mode
    await listener.stopService()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest_twisted.ensureDeferred
async def test_a_unix_socket_belongs_to_the_user_that_llmux_becomes(
    reactor: Any, configure: Callable[..., Config], tmp_path: Path
) -> None:
    listener = Listener(configure(listen="unix:s"), reactor, Greeting(), owner=(65534, 65533))
    found = (tmp_path / "s").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65533)
    await listener.stopService()


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_lies_in_the_directory_of_the_configuration(
    reactor: Any, configure: Callable[..., Config], tmp_path: Path
) -> None:
    factory = Greeting()
    listener = Listener(configure(listen="unix:llmux.sock:mode=600"), reactor, factory)
    path = tmp_path / "llmux.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    await starts_and_stops(listener, factory, socket.AF_UNIX, str(path))
    assert os.listdir(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_may_be_named_by_its_address(
    reactor: Any, configure: Callable[..., Config], tmp_path: Path
) -> None:
    listener = Listener(configure(listen="unix:address=a\\:b"), reactor, Greeting())
    assert (tmp_path / "a:b").is_socket()
    await listener.stopService()


@pytest_twisted.ensureDeferred
async def test_lock_of_a_unix_socket_names_the_daemon(
    reactor: Any, configure: Callable[..., Config], tmp_path: Path
) -> None:
    listener = Listener(configure(listen="unix:llmux.sock"), reactor, Greeting())
    lock = tmp_path / "llmux.sock.lock"
    assert os.readlink(lock) == str(os.getpid())
    # After a fork, too, the lock was made by a process that is not this one.
    lock.unlink()
    lock.symlink_to("1")
    listener.privilegedStartService()
    assert os.readlink(lock) == str(os.getpid())
    await listener.stopService()
    assert os.listdir(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_of_systemd_stays_as_it_is(
    reactor: Any,
    configure: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The socket stays as it is and where it is, and goes on taking clients for the next start.
    """
    path = tmp_path / "theirs.sock"
    with closing(socket.socket(socket.AF_UNIX)) as theirs:
        theirs.bind(str(path))
        path.chmod(0o600)
        theirs.listen()
        passed = ListenFDs([os.dup(theirs.fileno())], ("llmux",))
        monkeypatch.setattr(_SystemdParser, "_sddaemon", passed)
        factory = Greeting()
        listener = Listener(
            configure(listen="systemd:domain=UNIX:name=llmux"), reactor, factory
        )
        listener.startService()
        with closing(connect(socket.AF_UNIX, str(path))) as client:
            assert await deferToThread(hear, client) == b"hello"
        assert path.stat().st_mode & 0o777 == 0o600
        await listener.stopService()
        connect(socket.AF_UNIX, str(path)).close()
        assert factory.clients == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("certificate")
    arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        ["openssl", *arguments.split(), "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    yield directory


@pytest_twisted.ensureDeferred
async def test_a_listener_of_ssl_speaks_tls(
    reactor: Any, configure: Callable[..., Config], certificate: Path, tmp_path: Path
) -> None:
    for name in "key.pem", "cert.pem":
        (tmp_path / name).write_bytes((certificate / name).read_bytes())
    port = free_port()
    listen = f"ssl:{port}:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"
    listener = Listener(configure(listen=listen), reactor, Greeting())
    listener.startService()

    def ask() -> bytes:
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        with (
            closing(connect(socket.AF_INET, ("127.0.0.1", port))) as client,
            context.wrap_socket(client, server_hostname="localhost") as encrypted,
        ):
            return hear(encrypted)

    assert await deferToThread(ask) == b"hello"
    await listener.stopService()


class TestRefused:
    def complaint(self, config: Config, reactor: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            Listener(config, reactor, Greeting())
        message = str(caught.value)
        assert message.isprintable()
        return message

    def test_a_busy_port_is_told(self, reactor: Any, configure: Callable[..., Config]) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            port = other.getsockname()[1]
            assert self.complaint(configure(port=port), reactor) == (
                f"c.yaml: port: 127.0.0.1:{port} is in use; "
                "stop what listens there, or choose another with port: or -p"
            )
            listen = f"tcp:{port}:interface=127.0.0.1"
            assert self.complaint(configure(listen=listen), reactor) == (
                f'c.yaml: listen: "{listen}" is in use; '
                "stop what listens there, or choose another place"
            )

    @pytest_twisted.ensureDeferred
    async def test_a_busy_unix_socket_is_told(
        self, reactor: Any, configure: Callable[..., Config]
    ) -> None:
        config = configure(listen="unix:llmux.sock")
        first = Listener(config, reactor, Greeting())
        assert self.complaint(config, reactor) == (
            'c.yaml: listen: "unix:llmux.sock" is in use; '
            "stop what listens there, or choose another place"
        )
        await first.stopService()

    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            (
                {"host": "192.0.2.1", "port": 3000},
                "host: 192.0.2.1:3000 is no address of this machine; "
                "give one that is, such as 127.0.0.1 or 0.0.0.0",
            ),
            (
                {"listen": "tpc:3000"},
                "listen: \"tpc:3000\" cannot be used: unknown endpoint type: 'tpc'; "
                "write it as in tcp:3000:interface=127.0.0.1 or unix:/run/llmux.sock",
            ),
            (
                {"listen": "unix:no/such/place"},
                'listen: cannot listen on "unix:no/such/place": no such file or directory: '
                "{directory}/no/such/place.lock; make its directory first, or choose another",
            ),
            (
                {"listen": "systemd:domain=INET:index=0"},
                "listen: systemd has passed no socket that fits "
                '"systemd:domain=INET:index=0"; write systemd:domain=INET:index=0, '
                "and let systemd's socket unit start llmux",
            ),
        ],
    )
    def test_a_place_that_cannot_be_listened_at_is_told(
        self,
        reactor: Any,
        configure: Callable[..., Config],
        tmp_path: Path,
        keys: dict[str, Any],
        expected: str,
    ) -> None:
        assert self.complaint(configure(**keys), reactor) == "c.yaml: " + expected.replace(
            "{directory}", str(tmp_path)
        )

    def test_a_host_without_an_address_is_told(
        self, reactor: Any, configure: Callable[..., Config]
    ) -> None:
        config = configure(host="no-such-host.invalid", port=3000)
        message = self.complaint(config, reactor)
        assert message.startswith("c.yaml: host: cannot listen on no-such-host.invalid:3000: ")
        assert message.endswith(
            "; give an address of this machine, such as 127.0.0.1 or 0.0.0.0"
        )

    def test_a_missing_key_is_told(
        self, reactor: Any, configure: Callable[..., Config], tmp_path: Path
    ) -> None:
        assert self.complaint(configure(listen="ssl:3000:privateKey=k.pem"), reactor) == (
            'c.yaml: listen: "ssl:3000:privateKey=k.pem" cannot be used: '
            f"no such file or directory: {tmp_path}/k.pem; "
            "write ssl:3000:privateKey=KEY.pem:certKey=CERT.pem, with files that exist"
        )

    def test_a_port_that_is_not_permitted_is_told(
        self, configure: Callable[..., Config]
    ) -> None:
        class Guarded:
            def listenTCP(self, port: int, *args: object, **more: object) -> None:
                reason = PermissionError(13, "Permission denied")
                raise CannotListenError("127.0.0.1", port, reason)

        assert self.complaint(configure(port=80), Guarded()) == (
            "c.yaml: port: not permitted to listen on 127.0.0.1:80; choose a port from 1024 "
            "up, or start as root with twistd's --uid"
        )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (IPv4Address("TCP", "127.0.0.1", 3000), "http://127.0.0.1:3000"),
        (IPv6Address("TCP", "::1", 3000), "http://[::1]:3000"),
        (UNIXAddress(b"/run/llmux.sock"), "unix:/run/llmux.sock"),
        (HostnameAddress(b"x", 1), "x"),
    ],
)
def test_an_address_is_described(address: object, expected: str) -> None:
    assert expected in describe_address(address)


class LatePort:
    """This port notes whether it has been closed."""

    is_closed = False

    def getHost(self) -> IAddress:
        return IPv4Address("TCP", "127.0.0.1", 3000)

    def stopListening(self) -> None:
        self.is_closed = True


def test_an_endpoint_that_answers_after_the_stop_is_closed_and_not_reported(
    reactor: Any, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Deferred[Any] = Deferred()

    class Late:
        def listen(self, factory: object) -> Deferred[Any]:
            return answer

    monkeypatch.setattr("llmux.daemon.listener.make_endpoint", lambda config, reactor: Late())
    reported: list[IAddress] = []
    listener = Listener(configure(listen="late:"), reactor, Greeting(), bound=reported.append)
    listener.stopService()
    port = LatePort()
    answer.callback(port)
    assert port.is_closed and listener.port is None
    assert reported == []
