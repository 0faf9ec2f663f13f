"""One HTTP exchange: bounded in bytes and in seconds, and never led elsewhere.

The standard library's client, as the bounds are on the socket: a server that drips, and one that never ends, are both cut.
"""

import http.client
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Timer
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

_PIECE: Final = 2**18
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Reply:
    """``headers``: by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Broken(Exception):
    """No whole reply. ``sent``: whether the server may have worked, and charged, for it."""

    def __init__(self, why: str, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Endless(Exception):
    """The reply is larger than any sound one."""


def exchange(url: str, headers: Mapping[str, str], body: bytes | None, *, timeout: float, most: int) -> Reply:
    """Sends ``body`` (None: a GET) and reads a reply of at most ``most`` bytes within ``timeout`` seconds.

    Redirects are not followed.

    Raises:
        Broken: there is no connection, it ended early, or time was up.
        Endless: there are more bytes.
    """
    parts = urlsplit(url)
    connection, target = _connection(parts, timeout)
    over, line = Event(), list[socket.socket]()

    def cut() -> None:
        over.set()
        for one in line:
            with suppress(
                OSError
            ):  # of the plain socket: an encrypted one would take its parts from under whoever reads
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    watch = Timer(timeout, cut)
    watch.daemon = True
    watch.start()
    sent = False
    try:
        connection.connect()
        line.append(connection.sock)  # the library forgets it once an answer has begun
        sent = True
        connection.request("GET" if body is None else "POST", target, body, dict(headers))
        with connection.getresponse() as response:
            content = _content(response, most)
            if over.is_set():  # headers, and a body of no stated length, just end where the line was cut
                raise TimeoutError
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, content)
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = over.is_set() or isinstance(error, TimeoutError)
        why = f"no whole answer within {timeout:g} seconds" if late else f"{type(error).__name__}: {error}"
        raise Broken(why, sent) from None
    finally:
        watch.cancel()
        connection.close()


def _content(response: http.client.HTTPResponse, most: int) -> bytes:
    pieces, size = list[bytes](), 0
    if response.length is not None and response.length > most:
        raise Endless(f"an answer of {response.length} bytes")
    while piece := response.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise Endless(f"an answer of more than {most} bytes")
    return b"".join(pieces)


def _connection(parts: SplitResult, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection, through the environment's proxy if there is one, and what to ask it for."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    direct = host in _LOOPBACK or bool(proxy_bypass(host))
    proxy = None if direct else getproxies().get(parts.scheme)
    at = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else parts
    near = (at.hostname or host, at.port or port)
    if secure:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            *near, timeout=timeout, context=ssl.create_default_context()
        )
        if proxy:
            connection.set_tunnel(host, port)
        return connection, parts.path
    return http.client.HTTPConnection(*near, timeout=timeout), parts.geturl() if proxy else parts.path
