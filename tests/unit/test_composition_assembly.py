"""Assembly in worker processes: everybody is accounted for, whatever a template does."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator, Sequence

import psutil
import pytest
from composition_campaigns import FACTS, KEYS, campaign, recipient

from mail_orchestration.composition.assembly import AssembledBatch, AssemblyPool, Limits
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.errors import FaultReason
from mail_orchestration.kernel.errors import AssemblyFailed, BadCampaign
from mail_orchestration.kernel.model import BodyFormat, Recipient
from mail_orchestration.kernel.pages import Page, PageRequest, PageUnavailable

QUICK = Limits(message_cpu_seconds=0.3)
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEXT = "Hi {{ name }}{% if endless %}" + LOOPS + "{% endif %}"
HUNGRY = "{% if hungry %}{{ 'x' | center(10 ** 9) }}{% endif %}Hi {{ name }}"


def batches(people: Sequence[Recipient], size: int) -> Iterator[Sequence[Recipient]]:
    for start in range(0, len(people), size):
        yield people[start : start + size]


def outcomes(results: Sequence[AssembledBatch]) -> dict[int, str]:
    found = {message.recipient_no: "assembled" for batch in results for message in batch.messages}
    assert not found.keys() & {bypass.recipient_no for batch in results for bypass in batch.bypasses}
    return found | {bypass.recipient_no: bypass.reason for batch in results for bypass in batch.bypasses}


def texts(results: Sequence[AssembledBatch], dictionary: bytes) -> dict[int, bytes]:
    """What each recipient's message says, read as it is stored: a batch's messages in its blocks."""
    compressor = Compressor(dictionary)
    found: dict[int, bytes] = {}
    for batch in results:
        blocks = iter(batch.blocks)
        for message in batch.messages:
            if message.place == 0:
                block = next(blocks)
            found[message.recipient_no], _ = compressor.read(block, message.place)
        assert not list(blocks)
    return found


@pytest.mark.rule("2.7")
def test_messages_come_in_order_and_as_one_process_composes_them() -> None:
    made = campaign(html="<p>Grüße, {{ name }}</p>")
    people = [recipient(number, name=f"N{number}") for number in range(1, 101)]
    people[41] = recipient(42)
    composer = Composer(made, FACTS, KEYS)
    with AssemblyPool(made, FACTS, KEYS, workers=2) as pool:
        results = list(pool.assemble(batches(people, 7)))
        again = list(pool.assemble(batches(people[:3], 2)))
        said = texts(results, pool.dictionary)
    assert [len(batch.messages) + len(batch.bypasses) for batch in results] == [7] * 14 + [2]
    assert [len(batch.blocks) for batch in results] == [1] * 15
    messages = [message for batch in results for message in batch.messages]
    assert [message.recipient_no for message in messages] == [n for n in range(1, 101) if n != 42]
    for message in messages:
        someone = people[message.recipient_no - 1]
        data = said[message.recipient_no]
        assert data == composer.compose(someone).data
        assert (message.contact_id, message.address, message.size) == (
            someone.contact_id,
            someone.address,
            len(data),
        )
    (bypass,) = [bypass for batch in results for bypass in batch.bypasses]
    assert (bypass.recipient_no, bypass.reason) == (42, FaultReason.TEMPLATE_ERROR)
    assert bypass.detail == "message.html.j2:1: 'name' is undefined"
    assert [len(batch.messages) for batch in again] == [2, 1]


@pytest.mark.rule("2.7")
def test_a_dictionary_without_imagined_messages_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with AssemblyPool(campaign(text="Hi there" + LOOPS), FACTS, KEYS, limits=QUICK) as pool:
        assert b"Hi there" in pool.dictionary
    assert "mail job 101: messages to imagined contacts took too much" in caplog.text


@pytest.mark.rule("7.1")
def test_single_mails_are_dated_also_after_a_page_was_fetched() -> None:
    made = campaign(yaml="content_url: 'https://pages.example/{{ released_at.year }}'\n")
    asked: list[str] = []

    def fetch(requests: Sequence[PageRequest]) -> list[Page | PageUnavailable]:
        asked.extend(each.url for each in requests)
        return [Page(url=each.url, html="<p>Hello</p>") for each in requests]

    moment = FACTS.released_at.replace(year=2030)
    with AssemblyPool(made, FACTS, KEYS, workers=1, fetch_pages=fetch) as pool:
        [batch] = pool.assemble([[recipient(1)]], dated=moment)
        data = texts([batch], pool.dictionary)[1]
    assert asked == ["https://pages.example/2030"]
    assert b"\r\nDate: Fri, 01 Nov 2030 09:30:00 +0000\r\n" in data


@pytest.mark.rule("2.7")
@pytest.mark.parametrize(("text", "switch"), [(TEXT, "endless"), (HUNGRY, "hungry")])
def test_who_breaks_the_limits_is_bypassed_alone(text: str, switch: str) -> None:
    people = [recipient(n, name="x", **{switch: n in (5, 12)}) for n in range(1, 31)]
    with AssemblyPool(campaign(text=text), FACTS, KEYS, workers=2, limits=QUICK) as pool:
        found = outcomes(list(pool.assemble(batches(people, 10))))
    assert found == {n: "template_limits" if n in (5, 12) else "assembled" for n in range(1, 31)}


@pytest.mark.rule("2.7")
def test_a_template_that_never_ends_fails_the_assembly_soon() -> None:
    people = [recipient(n, name="x", endless=True) for n in range(1, 5001)]
    with (
        AssemblyPool(campaign(text=TEXT), FACTS, KEYS, workers=2, limits=QUICK) as pool,
        pytest.raises(AssemblyFailed, match=r"the last: message\.txt\.j2:1: took more than 0\.3 s"),
    ):
        list(pool.assemble(batches(people, 500)))


@pytest.mark.rule("2.7")
def test_a_killed_worker_loses_nobody() -> None:
    people = [recipient(n, name="x") for n in range(1, 401)]
    made = campaign(html="<p>{{ name }}</p>")
    with AssemblyPool(made, FACTS, KEYS, workers=2) as pool:
        results = []
        for number, batch in enumerate(pool.assemble(batches(people, 20))):
            results.append(batch)
            if number in (1, 6):
                for child in workers():
                    os.kill(child, signal.SIGKILL)
    assert outcomes(results) == dict.fromkeys(range(1, 401), "assembled")
    assert [message.recipient_no for batch in results for message in batch.messages] == list(range(1, 401))
    composer = Composer(made, FACTS, KEYS)
    assert texts(results, pool.dictionary) == {
        each.recipient_no: composer.compose(each).data for each in people
    }


@pytest.mark.rule("7.1")
def test_single_mails_are_stored_each_by_itself() -> None:
    people = [recipient(n, name="x") for n in range(1, 4)]
    with AssemblyPool(campaign(html="<p>{{ name }}</p>"), FACTS, KEYS, workers=1) as pool:
        [batch] = pool.assemble([people], dated=FACTS.released_at)
    assert [message.place for message in batch.messages] == [0, 0, 0]
    assert len(batch.blocks) == 3


def workers() -> list[int]:
    """Process ids of the pool's workers: children of the fork server, which is a child of ours."""
    return [
        grandchild.pid
        for child in psutil.Process().children()
        for grandchild in child.children()
        if "forkserver" in " ".join(child.cmdline())
    ]


@pytest.mark.rule("2.7")
def test_batches_are_drawn_no_faster_than_results_are_taken() -> None:
    drawn = 0

    def source() -> Iterator[Sequence[Recipient]]:
        nonlocal drawn
        for number in range(1, 101):
            drawn += 1
            yield [recipient(number, name="x")]

    with AssemblyPool(campaign(text="{{ name }}"), FACTS, KEYS, workers=2) as pool:
        results = pool.assemble(source())
        for taken in range(1, 11):
            next(results)
            assert drawn <= taken + 4


@pytest.mark.rule("2.3")
def test_pages_are_fetched_by_whoever_may_open_sockets() -> None:
    made = campaign(yaml="content_url: 'https://pages.example/{{ city }}'\n")
    people = [recipient(1, city="Wien"), recipient(2), recipient(3, city="gone"), recipient(4, city="Łódź")]

    def fetch(requests: Sequence[PageRequest]) -> list[Page | PageUnavailable]:
        return [
            PageUnavailable(reason="the page answers with status 404")
            if each.url.endswith("gone")
            else Page(url=each.url, html=f"<p>About {each.url.rpartition('/')[2]}</p>")
            for each in requests
        ]

    with AssemblyPool(made, FACTS, KEYS, workers=1, fetch_pages=fetch) as pool:
        results = list(pool.assemble(batches(people, 3)))
        said = texts(results, pool.dictionary)
    assert outcomes(results) == {1: "assembled", 2: "template_error", 3: "page_unavailable", 4: "assembled"}
    assert "About =C5=81=C3=B3d=C5=BA" in said[4].decode()


def test_a_template_that_does_not_compile_is_told_at_once() -> None:
    with pytest.raises(BadCampaign, match=r"message\.txt\.j2:1: "):
        AssemblyPool(campaign(text="{{ x"), FACTS, KEYS)


def test_a_recipient_comes_out_of_a_pipe_as_it_went_in() -> None:
    whole = Recipient(
        recipient_no=1,
        contact_id=2,
        address="zoë@x.example",
        body_format=BodyFormat.MHTML,
        locale="de",
        guid="g",
        url="https://x.example/",
        attributes={"name": "Zoë", "n": [1, None]},
    )
    for each in (whole, recipient()):
        assert pickle.loads(pickle.dumps(each)) == each
