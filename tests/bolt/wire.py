"""A client that sends exactly the bytes it is told, and certificates for servers."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 15.0


@dataclass
class Answer:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Wire:
    """A connection on which anything may be sent."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.peer.settimeout(PATIENCE)
        self.received = b""

    def send(self, data: bytes | str) -> Wire:
        """Send, as far as the other side still listens."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.peer.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def half_close(self) -> Wire:
        self.peer.shutdown(socket.SHUT_WR)
        return self

    def answer(self) -> Answer:
        """One answer, which must state its length."""
        while b"\r\n\r\n" not in self.received:
            self._more()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        length = int(headers.get("content-length", "0"))
        while len(self.received) < length:
            self._more()
        body, self.received = self.received[:length], self.received[length:]
        return Answer(int(first.split(" ")[1]), headers, body)

    def rest(self) -> bytes:
        """Everything until the other side closes, in whatever way."""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.peer.recv(65_536):
                self.received += chunk
        found, self.received = self.received, b""
        return found

    def _more(self) -> None:
        chunk = self.peer.recv(65_536)
        if not chunk:
            raise EOFError(f"closed after {self.received[:200]!r}")
        self.received += chunk


@contextlib.contextmanager
def wire(url: str) -> Iterator[Wire]:
    """A plain connection to the server at ``url``."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=PATIENCE) as peer:
        yield Wire(peer)


def get(path: str, extra: str = "") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n"


def post(path: str, body: str, extra: str = "") -> str:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n{body}"


def certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """A new self-signed certificate for localhost, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = (folder / f"{name}.pem", folder / f"{name}.key")
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    paths[1].write_bytes(private)
    return paths


def trusting(certificate: Path) -> ssl.SSLContext:
    """A client's side of TLS that trusts that certificate alone."""
    return ssl.create_default_context(cafile=str(certificate))
