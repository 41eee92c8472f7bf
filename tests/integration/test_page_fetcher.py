"""Pages fetched for recipients: from where they may come, and nothing of one recipient to another."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from mail_orchestration.egress.page_fetcher import FetchLimits, PageFetcher
from mail_orchestration.kernel.pages import Page, PageRequest, PageUnavailable

LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def request_for(url: str, number: int = 1) -> PageRequest:
    return PageRequest(url=url, cookie_name="who", cookie_value=f"token{number}")


class Site:
    """A web site on loopback that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, request.headers.get("Cookie")))
        match request.path:
            case "/hello":
                return web.Response(
                    text=f"<p>Grüße {request.cookies.get('who')}</p>",
                    content_type="text/html",
                    headers={"Set-Cookie": "session=shared"},
                )
            case "/latin":
                return web.Response(
                    body="<p>Grüße</p>".encode("latin-1"),
                    headers={"Content-Type": "text/html; charset=latin-1"},
                )
            case "/meta":
                return web.Response(
                    body='<meta charset="latin-1">Grüße'.encode("latin-1"), content_type="text/html"
                )
            case "/lies":
                return web.Response(
                    body=b"\xff\xfe\xff", headers={"Content-Type": "text/html; charset=utf-8"}
                )
            case "/zip":
                return web.Response(body=b"x", content_type="text/html", headers={"Content-Encoding": "br"})
            case "/large":
                return web.Response(body=b"x" * 200_000, content_type="text/html")
            case "/slow":
                await asyncio.sleep(3)
                return web.Response(text="late", content_type="text/html")
            case "/pdf":
                return web.Response(body=b"x", content_type="application/pdf")
            case "/error":
                return web.Response(status=500)
            case "/near":
                return web.Response(status=302, headers={"Location": "/hello"})
            case "/round":
                return web.Response(status=302, headers={"Location": "/round"})
            case "/private":
                return web.Response(
                    status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"}
                )
            case "/file":
                return web.Response(status=302, headers={"Location": "file:///etc/passwd"})
            case "/far":
                return web.Response(status=302, headers={"Location": request.query["to"]})
        return web.Response(status=404)


async def serve(site: Site) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_get("/{tail:.*}", site.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


def fetched(path: str, limits: FetchLimits | None = None) -> tuple[Page | PageUnavailable, Site]:
    async def run() -> tuple[Page | PageUnavailable, Site]:
        site = Site()
        runner, base = await serve(site)
        try:
            async with PageFetcher(allowed=LOOPBACK, limits=limits) as fetcher:
                return await fetcher.fetch(request_for(base + path)), site
        finally:
            await runner.cleanup()

    return asyncio.run(run())


@pytest.mark.rule("2.3")
def test_each_recipient_has_a_cookie_of_their_own() -> None:
    async def run() -> tuple[list[Page | PageUnavailable], Site]:
        site = Site()
        runner, base = await serve(site)
        async with PageFetcher(allowed=LOOPBACK) as fetcher:
            pages = await fetcher.fetch_all([request_for(base + "/hello", number) for number in range(30)])
        await runner.cleanup()
        return pages, site

    pages, site = asyncio.run(run())
    assert [each.html for each in pages if isinstance(each, Page)] == [
        f"<p>Grüße token{n}</p>" for n in range(30)
    ]
    # No jar: the site's own Set-Cookie comes back with nobody.
    assert sorted(cookie or "" for _, cookie in site.asked) == sorted(f"who=token{n}" for n in range(30))


@pytest.mark.rule("2.3")
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
def test_private_addresses_are_refused(host: str) -> None:
    async def run() -> tuple[Page | PageUnavailable, bool]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            async with PageFetcher(limits=FetchLimits(seconds=5)) as fetcher:
                answer = await fetcher.fetch(request_for(f"http://{host}:{listener.getsockname()[1]}/hello"))
            try:
                listener.accept()
            except BlockingIOError:
                return answer, False
            return answer, True

    answer, connected = asyncio.run(run())
    assert isinstance(answer, PageUnavailable)
    assert not connected
    if host not in ("2130706433", "0x7f.1"):  # not every resolver reads these
        assert "private" in answer.reason or "could not be fetched" in answer.reason


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/lies", "the page is not in utf-8, as it says"),
        ("/zip", "the page is compressed"),
        ("/large", "the page has more than 100000 octets"),
        ("/slow", "the page took more than 1 s"),
        ("/pdf", "the page is application/pdf, not HTML"),
        ("/error", "the page answers with status 500"),
        ("/nothing", "the page answers with status 404"),
        ("/round", "the page redirects more than 3 times"),
        ("/private", "the page's address is private"),
        ("/file", "the page's URL is not http or https"),
    ],
)
def test_why_there_is_no_page(path: str, reason: str) -> None:
    answer, _ = fetched(path, FetchLimits(octets=100_000, seconds=1 if path == "/slow" else 30))
    assert isinstance(answer, PageUnavailable)
    assert answer.reason.startswith(reason)


@pytest.mark.parametrize("path", ["/latin", "/meta", "/hello"])
def test_character_sets(path: str) -> None:
    answer, _ = fetched(path)
    assert isinstance(answer, Page)
    assert "Grüße" in answer.html


@pytest.mark.rule("2.3")
def test_the_cookie_stays_with_its_origin() -> None:
    async def run() -> tuple[Page | PageUnavailable, Site, Site]:
        here, there = Site(), Site()
        (first, base), (second, other) = await serve(here), await serve(there)
        async with PageFetcher(allowed=LOOPBACK) as fetcher:
            answer = await fetcher.fetch(request_for(f"{base}/far?to={other}/hello"))
            near = await fetcher.fetch(request_for(f"{base}/near"))
        await first.cleanup()
        await second.cleanup()
        assert isinstance(near, Page)
        return answer, here, there

    answer, here, there = asyncio.run(run())
    assert isinstance(answer, Page)
    assert answer.html == "<p>Grüße None</p>"
    assert here.asked == [("/far", "who=token1"), ("/near", "who=token1"), ("/hello", "who=token1")]
    assert there.asked == [("/hello", None)]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "https://u:p@example.org/",
        "http://[::x/",
        "nonsense",
    ],
)
def test_urls_that_are_no_pages(url: str) -> None:
    async def run() -> Page | PageUnavailable:
        async with PageFetcher() as fetcher:
            return await fetcher.fetch(replace(request_for("http://x"), url=url))

    answer = asyncio.run(run())
    assert isinstance(answer, PageUnavailable)
    assert "u:p" not in answer.reason
