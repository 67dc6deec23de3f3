"""The clients against a fake server: every operation, adaptation, order, files, memory, threads."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagonalflip import AsyncClient, Client, errors
from diagonalflip.client import _endpoint
from diagonalflip.client._answers import _seconds, rejection
from diagonalflip.client._endpoint import Reply
from diagonalflip.errors import ClientError, ConnectionFailed, DeadlineExceeded, InvalidAnswer
from diagonalflip.wire import OCTETS, pack, to_pixels
from diagonalflip.wire import PACKED as PACKED_TYPE
from tests.faults.conftest import Call, call, unused_url, within
from tests.faults.fake_server import (
    INFO,
    TABLE,
    FakeServer,
    expected_flips,
    listening,
    read_request,
    response,
)

__all__ = ["call", "unused_url"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = np.random.default_rng(1).integers(0, 16, 5001)
PACKED = bytes(pack(NUMBERS).packed)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def url(server: FakeServer) -> Iterator[str]:
    with listening(server.serve) as url:
        yield url


@pytest.mark.parametrize("chunk", [1, 2, 3, 999, 5000, 5001, 65536])
def test_every_operation_in_every_chunk_size(url: str, call: Call, chunk: int) -> None:
    numbers = NUMBERS[: 7 if chunk < 4 else 5001]
    packed = pack(numbers)
    of_bytes = "predict_packed", packed.packed, packed.count
    for operation, *arguments in (("predict", numbers), ("predict", packed), of_bytes):
        got = call(url, operation, *arguments, images_per_request=chunk)
        assert got.dtype == np.float32
        assert got.flags.writeable
        assert np.array_equal(got, TABLE[numbers])
    flipped = call(url, "flip", to_pixels(numbers), images_per_request=chunk)
    assert flipped.dtype == np.uint8
    assert np.array_equal(flipped, expected_flips(numbers))


@pytest.mark.parametrize("publishes", [True, False], ids=["published", "unpublished"])
@pytest.mark.parametrize("limit", [1, 2, 7, 100, 4999])
def test_the_chunk_adapts_to_the_server(
    call: Call, server: FakeServer, url: str, limit: int, publishes: bool
) -> None:
    server.max_images, server.publishes = limit, publishes
    numbers = NUMBERS[: 65 if limit < 3 else 5001]
    got = call(url, "predict", numbers, connections=1)
    assert np.array_equal(got, TABLE[numbers])
    rejected = [count for count in server.counts if count > limit]
    assert len(rejected) <= (1 if publishes else 13)
    assert server.counts[-1] <= limit
    assert np.array_equal(call(url, "flip", numbers), expected_flips(numbers))


def test_a_server_that_takes_nothing_is_an_invalid_answer(call: Call) -> None:
    with listening(FakeServer(0).serve) as url, pytest.raises(InvalidAnswer):
        call(url, "predict", NUMBERS)


def test_headers_of_a_request(server: FakeServer, url: str, call: Call) -> None:
    call(url, "predict", [1, 2, 3], token="secret", model_digest="ab")  # noqa: S106
    call(url, "flip", [1, 2], cert="/nothing")  # which nobody reads without TLS
    first, second = server.headers
    names = "authorization", "if-match", "content-type", "accept", "accept-encoding"
    told = [[headers.get(name) for name in names] for headers in (first, second)]
    one, two = told
    assert one == ["Bearer secret", '"ab"', f"{OCTETS}; padding=4", OCTETS, "identity"]
    assert two == [None, None, OCTETS, PACKED_TYPE, "identity"]


def test_cookies_are_not_sent_back(
    server: FakeServer, url: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(INFO, "Set-Cookie", "a=b")
    call(url.replace("127.0.0.1", "localhost"), "wait_until_ready", 10)
    assert len(server.headers) == 17
    assert not any("cookie" in headers for headers in server.headers)


def test_a_name_of_any_characters_is_sent(server: FakeServer, url: str, call: Call) -> None:
    with pytest.raises(InvalidAnswer, match="Expected version"):
        call(url, "predict", [1], version="\udcff/..")
    assert len(server.counts) == 1


@pytest.mark.parametrize(
    ("loopback", "told"), [(True, ["Basic YTpiIA==", None]), (False, 2 * ["Basic Yzpk"])]
)
def test_a_token_counts_more_than_the_url_and_netrc(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loopback: bool, told: Any
) -> None:
    (tmp_path / "netrc").write_text("default login c password d\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(_endpoint, "is_loopback", lambda _: loopback)
    server = FakeServer()
    with listening(server.serve) as url:
        named = url.replace("//", "//a:b%20@")
        call(named, "predict", [1], token="secret")  # noqa: S106
        call(named, "predict", [1])
        call(url, "predict", [1])
    sent = [headers.get("authorization") for headers in server.headers]
    assert sent == ["Bearer secret", *told]


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_both_clients_ask_the_proxy_that_the_environment_names(
    url: str, call: Call, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, scheme + url.removeprefix("http://"))
    assert np.array_equal(call("http://flip.invalid", "predict", [1]), TABLE[[1]])
    for unusable in ("nothing://{}a", "http://{}[::1", "http://{}:80", "http://{}", "{}a:b"):
        monkeypatch.setenv(variable, unusable.format("someone:se/cr#et@"))
        with pytest.raises(ClientError) as caught:
            call("http://flip.invalid", "predict", [1])
        assert type(caught.value) is ClientError
        assert "cr#et" not in str(caught.value)


def test_an_error_names_the_proxy_without_its_password(
    unused_url: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", unused_url.replace("//", "//someone:secret@"))
    with pytest.raises(ConnectionFailed) as caught:
        call("http://flip.invalid", "predict", [1])
    assert f"http://flip.invalid by proxy {unused_url}" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        *({"url": "localhost:8080"}, {"url": "ftp://a"}, {"url": "http://"}),
        *({"url": "http://[::1"}, {"url": "http://[a]"}, {"url": "http://a:99999"}),
        *({"url": "http://a/?b"}, {"url": "http://a/#b"}, {"url": "http://a b"}),
        *({"url": "https://a", "verify": ""}, {"url": "https://a", "verify": __file__}),
        *({"url": "https://a", "cert": ""}, {"url": "https://a", "cert": (__file__, "/nothing")}),
        *({"deadline_s": 0}, {"connections": 0}, {"images_per_request": 0}),
        *({"deadline_s": "9"}, {"connections": 4.0}, {"images_per_request": 1e6}),
        *({"version": ""}, {"version": 2.0}),
        *({"token": ""}, {"token": "a\n"}, {"token": "a b"}, {"token": "a\x7f"}, {"token": "ä"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_settings_that_cannot_be(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ClientError):
        kind(**settings)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("wrong", ["http://host?x", "host"])
@pytest.mark.parametrize("password", ["secret", "se/cret", "se?cret", "se#cret", "se@cret"])
def test_a_wrong_url_is_told_without_its_password(kind: Any, wrong: str, password: str) -> None:
    scheme, mark, rest = wrong.rpartition("//")
    with pytest.raises(ClientError, match=re.escape(f"'{wrong}'")):
        kind(f"{scheme}{mark}someone:{password}@{rest}")


@pytest.mark.parametrize(
    ("named", "base"),
    [
        (" http://a:b@host:1", "http://host:1"),
        ("HTTP://host/", "http://host"),
        ("http://host/a//b@c", "http://host/a//b@c"),
    ],
)
def test_a_url_may_be_written_in_many_ways(named: str, base: str) -> None:
    assert _endpoint.Endpoint(named, "model", None).url == f"{base}/predictions/model"


@pytest.mark.parametrize("zone", ["%25eth0", "%eth0"])
def test_an_address_may_have_a_zone(call: Call, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    asked: set[str] = set()

    def resolve(host: str, *_: Any, **__: Any) -> None:
        asked.add(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises((ConnectionFailed, DeadlineExceeded)):
        call(f"http://[fe80::1{zone}]:1", "predict", [1], deadline_s=0.2)
    assert asked == {"fe80::1%eth0"}


def test_a_closed_client_says_so(url: str) -> None:
    client, async_client = Client(url), AsyncClient(url)
    client.close()
    asyncio.run(async_client.close())
    with pytest.raises(ClientError, match="closed"):
        client.predict([1])
    with pytest.raises(ClientError, match="closed"):
        asyncio.run(async_client.predict([1]))


@pytest.mark.parametrize("count", [1, 5000, 5001])
def test_answers_are_read_into_memory_of_the_caller(url: str, count: int) -> None:
    out = np.full((count, 4), np.nan, np.float32)
    with Client(url, images_per_request=1000) as client:
        assert client.predict(NUMBERS[:count], out=out) is out
        assert np.array_equal(out, TABLE[NUMBERS[:count]])
        out[:] = np.nan
        assert client.predict_packed(pack(NUMBERS[:count]).packed, count, out=out) is out
        assert np.array_equal(out, TABLE[NUMBERS[:count]])


@pytest.mark.parametrize(
    "out",
    [
        *(np.empty((2, 4)), np.empty((3, 4), np.float32), np.empty((2, 2, 2), np.float32)),
        *(np.empty((4, 4), np.float32)[::2], np.empty((2, 4), np.float32, order="F"), [0.0] * 8),
        np.frombuffer(bytes(32), np.float32).reshape(2, 4),  # read-only
    ],
)
def test_memory_that_takes_no_answers_is_rejected(server: FakeServer, url: str, out: Any) -> None:
    with Client(url) as client, pytest.raises(ClientError, match="Out is"):
        client.predict([1, 2], out=out)
    assert not server.counts


def test_a_job_ends_with_its_first_failure() -> None:
    """Nothing else begins, and the chunk that is in flight is not waited for."""
    asked: list[int] = []

    async def fail_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append(len((await read_request(reader))[1]))
            if len(asked) > 1:
                writer.write(response(400, {}, b'{"code": "invalid_image"}'))

    with (
        listening(fail_the_second) as url,
        Client(url, images_per_request=2, connections=2) as client,
        within(30),
        pytest.raises(errors.InvalidImage),
    ):
        client.predict([1] * 10_000)
    assert len(asked) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_copy_has_the_settings_and_connections_of_its_own(url: str, kind: Any) -> None:
    settings = {"token": "t", "deadline_s": 7.0, "version": "1.0", "images_per_request": 3}
    client = kind(url, **settings)
    pickled = pickle.loads(pickle.dumps(client))  # noqa: S301 - our own
    for copied in (pickled, copy.deepcopy(client), copy.copy(client)):
        assert copied._made_with == client._made_with
        assert copied._transport is not client._transport
        if kind is Client:
            with copied:
                assert len(copied.predict([1, 2, 3, 4])) == 4


@pytest.mark.parametrize("job", ["predict", "chunks", "retries", "info", "ready"])
def test_calls_that_run_when_the_client_closes_end_at_once(job: str) -> None:
    reached: list[Any] = []  # the loop and the event that say so

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if job == "retries":
            writer.write(response(503, {"Retry-After": "50"}, b""))
        loop, event = reached
        loop.call_soon_threadsafe(event.set)
        await reader.read()

    async def take(client: AsyncClient) -> None:
        async for _ in client.predict_chunks([bytes(10)]):
            pass

    async def close_while_running(url: str) -> None:
        reached.extend((asyncio.get_running_loop(), asyncio.Event()))
        client = AsyncClient(url, connections=2, images_per_request=2)
        calls = {
            "chunks": lambda: take(client),
            "info": client.info,
            "ready": lambda: client.wait_until_ready(50),
        }
        begin = calls.get(job, lambda: client.predict([1]))
        tasks = [asyncio.create_task(begin()) for _ in range(5)]  # more than connections
        await reached[1].wait()
        await client.close()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [(type(end), "closed" in str(end)) for end in ends] == 5 * [(ClientError, True)]

    with listening(silent) as url:
        asyncio.run(close_while_running(url))


AT_EXIT = """
import asyncio, atexit, sys
import numpy as np
from diagonalflip import AsyncClient, Client

def sync():
    with Client(sys.argv[1], images_per_request=2) as client:
        print(len(client.predict([1] * 9)), flush=True)

async def asynchronous():
    async with AsyncClient(sys.argv[1], images_per_request=2) as client:
        print(len(await client.predict([1] * 9)), flush=True)

atexit.register(sync)
atexit.register(lambda: asyncio.run(asynchronous()))
"""


def test_work_at_the_interpreters_exit_is_done(url: str) -> None:
    words = [sys.executable, "-c", AT_EXIT, url]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("9\n9\n", "")


CLOSED_AFTER_A_FORK = """
import asyncio, os, sys
from diagonalflip import AsyncClient

client, loop = AsyncClient(sys.argv[1], deadline_s=10), asyncio.new_event_loop()
loop.run_until_complete(client.predict([1]))
child = os.fork()
if not child:
    asyncio.run(client.close())
    os._exit(0)
os.waitpid(child, 0)
print(len(loop.run_until_complete(client.predict([1]))))
loop.run_until_complete(client.close())
"""


def test_a_child_that_closes_a_client_leaves_its_parent_the_connections(url: str) -> None:
    words = [sys.executable, "-c", CLOSED_AFTER_A_FORK, url]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("seconds", [float("inf"), 1e10, 1e300])
def test_a_deadline_may_have_any_length(url: str, call: Call, seconds: float) -> None:
    assert len(call(url, "predict", [1], deadline_s=seconds)) == 1
    assert len(call(url, "predict", [1] * 9, deadline_s=seconds, images_per_request=2)) == 9
    call(url, "wait_until_ready", seconds)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        *(("", 0, 0), ("soon", 0, 0), ("-1", 0, 0), ("0", 0, 0), ("7", 7, 7)),
        *(("0.5", 0.5, 0.5), ("nan", 0, 0), ("inf", 0, 0)),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", 0, 0),
        *(("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Wed, 21 Oct 2093 07:28:00 GMT", 1e8, 1e11)),
    ],
)
def test_retry_after(text: str, low: float, high: float) -> None:
    assert low <= _seconds(text) <= high


@pytest.mark.parametrize(("told", "limit"), [("3", 3), ("4", 2), ("-1", 2), ("9" * 5000, 2)])
def test_a_senseless_limit_is_half(told: str, limit: int) -> None:
    rejected = rejection(Reply(413, {"Flip-Max-Images": told}, b""), 4)
    assert isinstance(rejected, errors.TooManyImages)
    assert rejected.limit == limit


def test_the_package_is_light() -> None:
    code = (
        "import json, sys, diagonalflip.wire, diagonalflip; before = set(sys.modules);"
        "diagonalflip.Client; print(json.dumps([sorted(before), sorted(sys.modules)]))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    before, after = json.loads(run.stdout)
    assert not {"requests", "aiohttp"} & set(before)
    assert not {"aiohttp", "torch"} & set(after)
