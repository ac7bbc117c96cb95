"""The server captioner against a real HTTP server on this machine with injected faults."""

from __future__ import annotations

import base64
import io
import json
import re
import resource
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wsikit.captions import Captioner, CaptionerOptions, load_captioner
from wsikit.captions.server import Decoding, ServerCaptioner
from wsikit.cli.main import main
from wsikit.errors import ModelError, RequestError, UnreachableError
from wsikit.inference.caption import caption
from wsikit.inference.caption_columns import read_captions, summarize_captions
from wsikit.slides.store import SlideStore
from wsikit.store import table as table_module
from wsikit.testing import check_captioner
from wsikit.tiling.tile import tile

Reply = Callable[["Handler", int, int], None]
"""Responds to a request: handler, shade of the image's first pixel, number of requests for that image (from 1)."""


class Handler(BaseHTTPRequestHandler):
    """Implements the part of OpenAI's protocol that captions need."""

    server: Server

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        self.send({"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pixels = _images(request)[0]
        with server.lock:
            server.headers.append(dict(self.headers))
            server.requests.append(request)
            server.pixels.append(pixels)
            shade = int(pixels[0, 0, 0])
            server.asked[shade] += 1
            times = server.asked[shade]
        server.reply(self, shade, times)

    def respond(self, text: object, *, ended: str = "stop") -> None:
        choice = {"index": 0, "finish_reason": ended, "message": {"role": "assistant", "content": text}}
        self.send({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    def send(self, body: object, status: int = 200) -> None:
        self.raw(json.dumps(body).encode(), status)

    def raw(self, body: bytes, status: int = 200, kind: str = "application/json", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if status == 429:
            self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return None


def _images(request: dict) -> list[npt.NDArray[np.uint8]]:
    """The images of a request, in order."""
    urls = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))) for url in urls]


def normal(handler: Handler, shade: int, times: int) -> None:
    handler.respond(f"Shade {shade} of neuropil.")


class Server(ThreadingHTTPServer):
    """Records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.reply: Reply = normal
        self.models = ["tissue-7b"]
        self.asked: Counter[int] = Counter()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.pixels: list[npt.NDArray[np.uint8]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        return None  # the client closed the connection, as some tests require

    def die(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.die()


@pytest.fixture(autouse=True)
def _short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits up to 8 s between retries; here it does not wait."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)


def shades(*values: int) -> npt.NDArray[np.uint8]:
    """One patch of 8 px per value."""
    return np.stack([np.full((8, 8, 3), value, np.uint8) for value in values])


def texts(captioner: Captioner, *values: int) -> list[str]:
    return [found.failure or found.text for found in captioner.caption(shades(*values), mpp=0.5)]


def test_it_conforms(server: Server) -> None:
    check_captioner(ServerCaptioner(server.url, concurrency=4))


def test_captions_come_in_the_order_of_the_patches_whatever_the_order_of_the_answers(server: Server) -> None:
    def late_first(handler: Handler, shade: int, times: int) -> None:
        time.sleep(0.2 if shade == 1 else 0.0)
        normal(handler, shade, times)

    server.reply = late_first
    found = texts(ServerCaptioner(server.url, concurrency=4), 1, 2, 3, 4, 5)
    assert found == [f"Shade {n} of neuropil." for n in (1, 2, 3, 4, 5)]


def test_concurrent_requests_are_limited(server: Server) -> None:
    under_way, seen = 0, []

    def slowly(handler: Handler, shade: int, times: int) -> None:
        nonlocal under_way
        with server.lock:
            under_way += 1
            seen.append(under_way)
        time.sleep(0.03)
        with server.lock:
            under_way -= 1  # before the answer: with that the client may send the next
        normal(handler, shade, times)

    server.reply = slowly
    texts(ServerCaptioner(server.url, concurrency=3), *range(15))
    assert max(seen) == 3
    assert len(server.requests) == 15


def test_the_exact_pixels_and_the_prompt_are_sent_and_decoding_is_greedy(server: Server) -> None:
    patch = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    ServerCaptioner(server.url, prompt="What is it?").caption(patch, mpp=0.5)
    (request,) = server.requests
    assert (server.pixels[0] == patch[0]).all()
    assert request["messages"][0]["content"][1] == {"type": "text", "text": "What is it?"}
    assert len(request["messages"]) == 1
    assert (request["temperature"], request["seed"], request["model"]) == (0, 0, "tissue-7b")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_temporary_errors_are_retried_and_counted(server: Server, status: int) -> None:
    def second_time(handler: Handler, shade: int, times: int) -> None:
        normal(handler, shade, times) if times > 2 else handler.send({"error": {"message": "busy"}}, status)

    server.reply = second_time
    captioner = ServerCaptioner(server.url, retries=3)
    assert texts(captioner, 7, 8) == ["Shade 7 of neuropil.", "Shade 8 of neuropil."]
    assert captioner.retried == 4
    assert server.asked == {7: 3, 8: 3}


def cut_mid_body(handler: Handler) -> None:
    handler.raw(b'{"choices": [{"ind', length=500)
    handler.close_connection = True


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda h: h.send({"error": {"message": "out of\nmemory"}}, 500), "status 500"),
        (lambda h: h.send({"error": {"message": "slow down"}}, 429), "status 429"),
        (lambda h: time.sleep(0.6), "no response within 0.2 s"),
        (cut_mid_body, "connection broken"),
        (lambda h: h.raw(b"{{{ not json"), "unreadable response"),
        (lambda h: h.raw(b"<html>hello</html>", kind="text/html"), "has no choice"),
        (lambda h: h.send({"id": "1", "choices": []}), "has no choice"),
        (lambda h: h.send([1, 2]), "unreadable response|has no choice"),
        (lambda h: h.respond("It shows", ended="length"), "cut off at 256 tokens"),
        (lambda h: h.respond("No.", ended="content_filter"), "content filter"),
        (lambda h: h.respond(["<b>tissue</b>"]), "is a list, not a text"),
        (lambda h: h.respond("x" * 70_000), "70,000 characters"),
    ],
    ids=["500", "429", "slow", "cut", "garbage", "html", "no choice", "list", "length", "filter", "no text", "poured"],
)
def test_a_permanent_failure_affects_its_own_patch_only(
    server: Server, fault: Callable[[Handler], None], reason: str
) -> None:
    server.reply = lambda handler, shade, times: fault(handler) if shade == 2 else normal(handler, shade, times)
    captioner = ServerCaptioner(server.url, retries=1, timeout_s=0.2)
    good, bad, also_good = captioner.caption(shades(1, 2, 3), mpp=0.5)
    assert (good.text, also_good.text) == ("Shade 1 of neuropil.", "Shade 3 of neuropil.")
    assert not good.failure
    assert re.search(reason, bad.failure)
    assert "\n" not in bad.failure


def drip_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    drip(handler, b" " * 1000)


def drip_headers(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nX-Much: " + b"x" * 1000)


def drip(handler: Handler, data: bytes) -> None:
    """A byte each 50 ms: no single read takes long."""
    handler.close_connection = True
    for byte in data:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def pour(handler: Handler) -> None:
    """Text without an end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(b" " * 2**16)


@cache
def packed_spaces() -> bytes:
    """200 MB of spaces in 900 kB."""
    packing = zlib.compressobj(1, wbits=31)
    return b"".join(packing.compress(b" " * 2_000_000) for _ in range(100)) + packing.flush()


def bomb(handler: Handler) -> None:
    body = packed_spaces()
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (drip_body, "no response within 0.4 s"),
        (drip_headers, "no response within 0.4 s"),
        (pour, "more than 4,194,304 bytes"),
        (bomb, "compressed"),
    ],
)
def test_an_answer_that_never_ends_is_cut_off(server: Server, fault: Callable[[Handler], None], reason: str) -> None:
    server.reply = lambda handler, shade, times: fault(handler) if shade == 2 else normal(handler, shade, times)
    captioner = ServerCaptioner(server.url, retries=0, timeout_s=0.4)
    packed_spaces()
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    good, bad = captioner.caption(shades(1, 2), mpp=0.5)
    assert time.perf_counter() - begun < 3  # a few times the limit, on a busy machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; the bomb has twice as much
    assert good.text == "Shade 1 of neuropil."
    assert reason in bad.failure


def test_a_server_that_drips_its_list_of_models_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_GET", drip_body)
    begun = time.perf_counter()
    with pytest.raises(UnreachableError, match="no server responds at this address"):
        ServerCaptioner(server.url, retries=0, timeout_s=0.4)
    assert time.perf_counter() - begun < 3


HOSTILE_ANSWERS = [
    b"[" * 200_000,
    b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"\xff\xfe\x00",
    b"",
    b"null",
    b"1e999",
    b'"text"',
    b'{"choices": {}}',
    b'{"choices": {"0": 1}}',
    b'{"choices": "text"}',
    b'{"choices": 7}',
    b'{"choices": [null]}',
    b'{"choices": [7]}',
    b'{"choices": [[]]}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": [{"message": []}]}',
    b'{"choices": [{"message": {"content": {"a": 1}}}]}',
    b'{"choices": [{"message": {"content": 7}}]}',
    b'{"choices": [{"finish_reason": {}, "message": {"content": true}}]}',
]


@pytest.mark.parametrize("images_per_call", [1, 2])
def test_answers_of_any_other_structure_are_failures_in_one_line(server: Server, images_per_call: int) -> None:
    for number, answer in enumerate(HOSTILE_ANSWERS):
        server.reply = lambda handler, shade, times, answer=answer: handler.raw(answer)  # type: ignore[misc]
        captioner = ServerCaptioner(server.url, retries=0, images_per_call=images_per_call)
        for found in captioner.caption(shades(1, 2), mpp=0.5):
            assert found.failure or not found.text, number
            assert isinstance(found.text, str), number
            assert "\n" not in found.failure
            assert len(found.failure) < 300


def test_a_text_cut_by_the_limit_keeps_its_whole_sentences(server: Server) -> None:
    server.reply = lambda handler, shade, times: handler.respond("Much neuropil. No ros", ended="length")
    assert texts(ServerCaptioner(server.url), 1) == ["Much neuropil."]


def test_an_empty_response_is_left_to_the_filter(server: Server) -> None:
    server.reply = lambda handler, shade, times: handler.respond(None)
    assert texts(ServerCaptioner(server.url), 1) == [""]


@pytest.mark.parametrize(("status", "reason"), [(401, "--api-key-env"), (404, "refuses"), (400, "refuses")])
def test_an_error_that_affects_every_patch_ends_the_run(server: Server, status: int, reason: str) -> None:
    server.reply = lambda handler, shade, times: handler.send({"error": {"message": "no such thing"}}, status)
    with pytest.raises(ModelError, match=reason) as caught:
        texts(ServerCaptioner(server.url), 1, 2)
    assert "\n" not in str(caught.value)


def test_a_lost_server_ends_the_run_with_one_line(server: Server) -> None:
    captioner = ServerCaptioner(server.url, retries=1)
    server.die()
    with pytest.raises(UnreachableError, match="repeat the command") as caught:
        texts(captioner, 1, 2)
    assert "\n" not in str(caught.value)


def test_a_missing_server_is_reported_before_any_work(server: Server) -> None:
    server.die()
    with pytest.raises(UnreachableError, match="no server responds"):
        load_captioner(server.url, CaptionerOptions(retries=0))


def test_one_of_several_models_must_be_named(server: Server) -> None:
    server.models = ["a", "b"]
    with pytest.raises(RequestError, match="models a, b"):
        load_captioner(server.url)
    assert load_captioner(f"{server.url}#b").fingerprint()["model"] == "b"


def test_no_secret_of_the_environment_is_sent_unless_it_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "MY_KEY"):
        monkeypatch.setenv(name, f"secret-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Leak: secret-header")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    texts(load_captioner(server.url), 1)
    assert "secret" not in json.dumps(server.headers)
    assert not any("Authorization" in headers for headers in server.headers)
    server.headers.clear()
    texts(load_captioner(server.url, CaptionerOptions(api_key_env="MY_KEY")), 1)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret-MY_KEY"}
    with pytest.raises(RequestError, match="environment variable is not set"):
        load_captioner(server.url, CaptionerOptions(api_key_env="NOT_SET_ANYWHERE"))


def test_a_redirect_to_another_host_is_not_followed(server: Server) -> None:
    other = Server()

    def elsewhere(handler: Handler, shade: int, times: int) -> None:
        handler.send_response(307)
        handler.send_header("Location", f"{other.url}/chat/completions")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.reply = elsewhere
    with pytest.raises(ModelError, match="refuses"):
        texts(ServerCaptioner(server.url), 1)
    assert not other.requests
    other.die()


def test_the_fingerprint_depends_on_model_prompt_and_decoding_and_not_on_the_address(server: Server) -> None:
    here = ServerCaptioner(server.url).fingerprint()
    other = Server()
    assert ServerCaptioner(other.url, concurrency=2, timeout_s=5).fingerprint() == here
    for changed in (
        ServerCaptioner(server.url, prompt="Why?"),
        ServerCaptioner(server.url, decoding=Decoding(seed=3, temperature=0.5)),
        ServerCaptioner(server.url, decoding=Decoding(max_tokens=9)),
        ServerCaptioner(server.url, model="another"),
        ServerCaptioner(server.url, image_format="jpeg"),
    ):
        assert changed.fingerprint() != here
    json.dumps(here)
    other.die()


# ---- several images in one request


def shade_texts(server: Server) -> list[str]:
    """A text for each image of the last request, by its shade."""
    return [f"Shade {image[0, 0, 0]} of neuropil." for image in _images(server.requests[-1])]


def in_json(handler: Handler, shade: int, times: int) -> None:
    with handler.server.lock:
        found = shade_texts(handler.server)
    if len(found) == 1:
        normal(handler, shade, times)
    else:  # by number, in another order than that of the images
        handler.respond(json.dumps({str(n + 1): found[n] for n in reversed(range(len(found)))}))


def test_several_images_are_described_in_one_request_each_by_its_own_text(server: Server) -> None:
    server.reply = in_json
    captioner = ServerCaptioner(server.url, images_per_call=3, concurrency=1)
    assert texts(captioner, *range(1, 9)) == [f"Shade {n} of neuropil." for n in range(1, 9)]
    assert [len(_images(request)) for request in server.requests] == [3, 3, 2]
    content = server.requests[0]["messages"][0]["content"]
    assert [part["text"] for part in content if part["type"] == "text"][:3] == ["Image 1:", "Image 2:", "Image 3:"]
    assert server.requests[0]["max_tokens"] == 3 * Decoding().max_tokens
    assert captioner.split == 0
    assert captioner.batch % 3 == 0


@pytest.mark.parametrize("fault", ["one less", "one more", "one text", "refusal", "cut", "filtered", "status"])
def test_an_answer_with_another_number_of_texts_is_not_used(server: Server, fault: str) -> None:
    def wrong(handler: Handler, shade: int, times: int) -> None:
        with handler.server.lock:
            found = shade_texts(handler.server)
        if len(found) == 1:
            normal(handler, shade, times)
        elif fault == "status":
            handler.send({"error": {"message": "at most 1 image"}}, 400)
        else:
            answers = {
                "one less": (json.dumps(found[1:]), "stop"),
                "one more": (json.dumps([*found, "Blood."]), "stop"),
                "one text": ("Abundant neuropil.", "stop"),
                "refusal": ("I'm sorry, I cannot help with these images.", "stop"),
                "cut": (json.dumps(found), "length"),
                "filtered": (json.dumps(found), "content_filter"),
            }
            handler.respond(answers[fault][0], ended=answers[fault][1])

    server.reply = wrong
    captioner = ServerCaptioner(server.url, images_per_call=3, concurrency=1, retries=0)
    assert texts(captioner, 1, 2, 3, 4) == [f"Shade {n} of neuropil." for n in (1, 2, 3, 4)]
    assert [len(_images(request)) for request in server.requests] == [3, 1, 1, 1, 1]
    assert captioner.split == 1


def test_a_server_that_refuses_single_images_too_ends_the_run(server: Server) -> None:
    server.reply = lambda handler, shade, times: handler.send({"error": {"message": "no images"}}, 400)
    with pytest.raises(ModelError, match="refuses"):
        texts(ServerCaptioner(server.url, images_per_call=2, retries=0), 1, 2)


def test_field_and_images_per_call_are_part_of_the_fingerprint_where_they_are_not_the_default(server: Server) -> None:
    def of(**options: int | float) -> dict:
        return load_captioner(server.url, CaptionerOptions(**options)).fingerprint()

    assert set(of()) == {"captioner", "version", "model", "prompt", "decoding", "image"}
    assert of(images_per_call=1) == of()
    assert of(caption_field=896) == of(caption_field=896, caption_mpp=2.0)
    different = [of(), of(caption_field=896), of(caption_field=896, caption_mpp=1.0), of(images_per_call=4)]
    assert all(a != b for i, a in enumerate(different) for b in different[:i])


# ---- in a store


@pytest.fixture
def store(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlideStore:
    """Some 60 patches of 96 px, in chunks of 20 rows."""
    monkeypatch.setattr(table_module, "ROWS_PER_CHUNK", 20)
    return tile(slide_path, tmp_path / "s.zarr", patch_px=96)


def test_after_a_restart_of_the_server_finished_captions_are_not_requested_again(store: SlideStore) -> None:
    first = Server()
    limit = 37

    def until(handler: Handler, shade: int, times: int) -> None:
        if len(first.requests) > limit:
            handler.close_connection = True
            threading.Thread(target=first.die, daemon=True).start()
            time.sleep(0.05)
            return
        handler.respond(f"Neuropil, answer {len(first.requests)}.")

    first.reply = until
    with pytest.raises(UnreachableError):
        caption(store, captioner=ServerCaptioner(first.url, concurrency=2, retries=1))
    table = store.patches()
    assert "caption" not in table.columns()
    second = Server()
    second.reply = lambda handler, shade, times: handler.respond("Neuropil, second server.")
    caption(store, captioner=ServerCaptioner(second.url, concurrency=2, retries=1))
    found = read_captions(table)
    kept = [text for text in found.texts if "second" not in text]
    assert len(kept) >= limit - 2 * 8  # less than two calls' worth is asked for again
    assert len(kept) + len(second.requests) == len(table)
    assert (found.rows == np.arange(len(table))).all()
    second.requests.clear()
    caption(store, captioner=ServerCaptioner(second.url, concurrency=2))
    assert not second.requests
    second.die()


def test_failed_requests_are_rows_with_a_reason_and_are_asked_again_on_demand(store: SlideStore) -> None:
    running = Server()
    broken = True

    def every_third(handler: Handler, shade: int, times: int) -> None:
        if broken and len(running.requests) % 3 == 0:
            handler.send({"error": {"message": "out of memory"}}, 500)
        else:
            handler.respond("Some neuropil.")

    running.reply = every_third
    captioner = ServerCaptioner(running.url, concurrency=1, retries=0)
    table = caption(store, captioner=captioner)
    found = read_captions(table)
    failed = found.failures != ""
    assert failed.sum() == len(table) // 3
    assert (found.rows[failed] == -1).all()
    assert not any(found.texts[failed])
    assert all("500" in reason for reason in found.failures[failed])
    assert sum(summarize_captions(table).failures.values()) == failed.sum()
    before = table.receipt("caption").digest
    running.requests.clear()
    caption(store, captioner=captioner)
    assert not running.requests
    broken = False
    caption(store, captioner=captioner, retry_failed=True)
    assert len(running.requests) == failed.sum()
    assert not summarize_captions(table).failures
    assert table.receipt("caption").digest != before  # what was predicted from the old captions is out of date
    caption(store, captioner=captioner)
    caption(store, captioner=captioner, retry_failed=True)
    assert len(running.requests) == failed.sum()
    running.die()


def test_the_command_line_says_who_described_and_stops_in_one_line(
    store: SlideStore, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0)

    assert call("caption", store.folder, "--captioner", server.url, "--prompt", "What?", "--concurrency", 4) == 0
    assert f"{len(store.patches())} of {len(store.patches())} patches described by server" in capsys.readouterr().out
    assert {r["messages"][0]["content"][1]["text"] for r in server.requests} == {"What?"}
    assert call("caption", store.folder, "--captioner", server.url, "--adapter", "x") == 2
    server.die()
    assert call("caption", store.folder, "--captioner", server.url, "--prompt", "Why?", "--retries", 0) == 1
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("verb", ["caption", "run"])
def test_fields_are_sent_by_caption_and_by_run(
    server: Server, store: SlideStore, slide_path: Path, tmp_path: Path, verb: str
) -> None:
    server.reply = in_json
    options = ["--captioner", server.url, "--caption-field", 120, "--caption-mpp", 2, "--images-per-call", 2]
    where = [store.folder] if verb == "caption" else [slide_path, "-o", tmp_path / "out"]
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in (verb, *where, *options)])
    assert not ended.value.code
    table = store.patches()
    if verb == "run":
        table = SlideStore(next((tmp_path / "out").rglob("*.zarr"))).patches()
    sent = [image for request in server.requests for image in _images(request)]
    assert all(image.shape == (120, 120, 3) for image in sent)
    assert len(sent) < len(table)
    assert max(len(_images(request)) for request in server.requests) == 2
    made = table.attributes("caption")["made"]
    assert (made["field"]["px"], made["field"]["mpp"], made["call"]["images"]) == (120, 2.0, 2)
    assert all("of the field.)" in text for text in table.read("caption"))
