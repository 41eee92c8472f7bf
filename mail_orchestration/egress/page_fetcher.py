"""Fetches the pages that become messages, and nothing else: no page of ours, no neighbour's, no endless one.

The address is looked at when the socket is made, after all resolving, so that no name that resolves twice, no
number in disguise and no redirect leads to a private network (design §6). No cookie jar: each request carries
one recipient's own cookie, and to its own origin only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from mail_orchestration.kernel.pages import Page, PageRequest, PageUnavailable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HTML = frozenset({"text/html", "application/xhtml+xml"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one page may take."""

    octets: int = 2_000_000
    seconds: float = 15.0
    redirects: int = 3
    at_once: int = 20


class _ForbiddenAddress(OSError):
    """The address is not one that pages may come from."""


class _Refused(Exception):
    """Why there is no page."""


class PageFetcher:
    """Fetches pages. Use as an async context manager.

    `allowed`: networks that pages may come from although they are not public, as the installation lists them.
    """

    def __init__(self, *, allowed: Sequence[Network] = (), limits: FetchLimits | None = None) -> None:
        self._allowed = tuple(allowed)
        self._limits = limits or FetchLimits()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            socket_factory=self._guarded_socket, use_dns_cache=False, limit=self._limits.at_once
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._limits.seconds),
            # A compressed page can be a thousand times what came; so none is asked for, and none is unpacked.
            auto_decompress=False,
            headers={
                "Accept": "text/html",
                "Accept-Encoding": "identity",
                "User-Agent": "mail-orchestration",
            },
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch_all(self, requests: Sequence[PageRequest]) -> list[Page | PageUnavailable]:
        """An answer for each request, in order, `at_once` at a time."""
        gate = asyncio.Semaphore(self._limits.at_once)

        async def fetch(request: PageRequest) -> Page | PageUnavailable:
            async with gate:
                return await self.fetch(request)

        return list(await asyncio.gather(*map(fetch, requests)))

    async def fetch(self, request: PageRequest) -> Page | PageUnavailable:
        """The page, or why there is none. Reasons name no recipient and no URL, which may hold one."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._follow(request)
        except _Refused as refusal:
            return PageUnavailable(reason=str(refusal))
        except TimeoutError:
            return PageUnavailable(reason=f"the page took more than {self._limits.seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            if _caused_by_guard(fault):
                return PageUnavailable(
                    reason="the page's address is private, and not among the allowed networks (fetch_allowed_networks)"
                )
            return PageUnavailable(reason=f"the page could not be fetched ({type(fault).__name__})")

    async def _follow(self, request: PageRequest) -> Page:
        if self._session is None:
            raise RuntimeError("use PageFetcher as an async context manager")
        origin = url = _checked(request.url)
        for _ in range(self._limits.redirects + 1):
            # A redirect to another origin does not get to know whom the page is for.
            same = url.origin() == origin.origin()
            cookie = {"Cookie": f"{request.cookie_name}={request.cookie_value}"} if same else {}
            async with self._session.get(url, headers=cookie, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return Page(url=str(response.url), html=await self._read(response))
                location = response.headers.get("Location")
                if location is None:
                    raise _Refused("the page redirects to nowhere")
                url = _checked(str(url.join(URL(location))))
        raise _Refused(f"the page redirects more than {self._limits.redirects} times")

    async def _read(self, response: aiohttp.ClientResponse) -> str:
        if response.status != 200:
            raise _Refused(f"the page answers with status {response.status}")
        if response.content_type not in _HTML:
            raise _Refused(f"the page is {response.content_type[:50]}, not HTML")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Refused("the page is compressed although that was not asked for")
        octets = bytearray()
        async for chunk in response.content.iter_chunked(65_536):
            octets += chunk
            if len(octets) > self._limits.octets:
                raise _Refused(f"the page has more than {self._limits.octets} octets")
        return _decoded(bytes(octets), response.charset)

    def _guarded_socket(self, address: Any) -> socket.socket:
        """A socket for `address`, which getaddrinfo gave and which is connected to as it is."""
        family, kind, protocol, _, where = address
        if not self._may_reach(ipaddress.ip_address(where[0].partition("%")[0])):
            raise _ForbiddenAddress
        return socket.socket(family, kind, protocol)

    def _may_reach(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        real = _unwrapped(address)
        if any(real in network for network in self._allowed if network.version == real.version):
            return True
        return real.is_global and not real.is_multicast and not real.is_reserved


@contextlib.contextmanager
def fetching(
    allowed: Sequence[Network] = (),
) -> Iterator[Callable[[Sequence[PageRequest]], list[Page | PageUnavailable]]]:
    """A function that fetches pages for whoever runs no event loop: it has one of its own, for as long as the block."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        fetcher = runner.run(stack.enter_async_context(PageFetcher(allowed=allowed)))
        try:
            yield lambda requests: runner.run(fetcher.fetch_all(requests))
        finally:
            runner.run(stack.aclose())


def _unwrapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address inside a mapped, 6to4, Teredo or NAT64 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


def _checked(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        raise _Refused("the page's URL cannot be read") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise _Refused("the page's URL is not http or https")
    if url.user is not None or url.password is not None:
        raise _Refused("the page's URL holds a user name or password")
    return url


def _decoded(octets: bytes, charset: str | None) -> str:
    if octets.startswith(b"\xef\xbb\xbf"):
        charset = "utf-8-sig"
    if charset is None:
        found = _META_CHARSET.search(octets[:2048])
        charset = found[1].decode("ascii") if found else "utf-8"
    try:
        return octets.decode(charset)
    except (LookupError, UnicodeDecodeError):
        raise _Refused(f"the page is not in {charset[:40]}, as it says") from None


def _caused_by_guard(fault: BaseException) -> bool:
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, _ForbiddenAddress) or isinstance(
            getattr(seen, "os_error", None), _ForbiddenAddress
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
