"""Captions from an OpenAI-compatible server (vLLM, llama.cpp, …), by the library `openai`.

Patches go to the given address and nowhere else: no proxy, no redirect, no key but one that is named.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches
from wsikit.captions.filter import whole_sentences
from wsikit.errors import ModelError, RequestError, UnreachableError

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

_VERSION = 1  # raise it when the same answer of the server becomes another caption
_NO_KEY = "none"  # the library wants one; it is not sent
_HEADERS = ("host", "accept", "connection", "user-agent", "content-", "idempotency-key", "x-stainless-")
_PROBE_S = 10.0
_PER_LANE = 4  # requests per lane and call: a lane that is done early finds more to do

PROMPT = (
    "You are a specialised pathologist. Describe what is seen microscopically on this image of a neuroblastic tumour: "
    "cellularity, nuclei, neuropil, rosettes, ganglion cells, stroma, mitoses, necrosis, calcification, haemorrhage. "
    "Two or three plain sentences; say what is absent; no diagnosis."
)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the server is asked to write. Greedy by default, so that the same patch gets the same words."""

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not self.temperature >= 0:
            raise RequestError(
                f"{self.max_tokens} tokens at temperature {self.temperature}: expected 1 or more, 0 or more"
            )


class ServerCaptioner:
    """Captioner that asks a server, several patches at once, and keeps their order.

    A request that fails for good (after the library's retries with exponential back-off) is a `Caption` with
    `failure`; a server that no longer answers at all ends the call with `UnreachableError`.

    Parameters
    ----------
    url
        Up to and including the version, e.g. http://localhost:8000/v1.
    model
        As the server names it; by default the only one that it has.
    concurrency
        Requests under way at once, at most.
    timeout_s
        Seconds for one answer.
    retries
        How often a request is tried again after 408, 409, 429, 5xx, a time-out or a broken connection.
    image_format
        "png" sends the very pixels; "jpeg" (quality 95) is for servers that take nothing else.
    api_key_env
        Name of the environment variable that holds the key for this server; by default no key is sent.
    """

    name = "server"
    fact_names: tuple[str, ...] = ()

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        prompt: str | None = None,
        decoding: Decoding | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        retries: int = 4,
        image_format: Literal["png", "jpeg"] = "png",
        api_key_env: str | None = None,
    ) -> None:
        if not re.match(r"https?://[^/\s]+", url):
            raise RequestError(f"captioner {url!r}: expected an address such as http://localhost:8000/v1")
        if concurrency < 1 or retries < 0 or not timeout_s > 0:
            raise RequestError("a captioning server needs concurrency ≥ 1, retries ≥ 0 and a time-out above 0 s")
        self.url = url.rstrip("/")
        self.prompt = (prompt or PROMPT).strip()
        self.decoding = decoding or Decoding()
        self.concurrency, self.timeout_s, self.retries = concurrency, timeout_s, retries
        self.image_format = image_format
        self.batch = _PER_LANE * concurrency
        self._client = _client(self.url, _key(api_key_env), timeout_s, retries)
        self.model = model or self._only_model()
        self.retried = 0
        """Requests that were sent again, so far."""
        self._answered = False
        self._lock = threading.Lock()

    def fingerprint(self) -> dict[str, Any]:
        """Model, prompt and decoding. Not the address: the same model says the same elsewhere."""
        return {
            "captioner": self.name,
            "version": _VERSION,
            "model": self.model,
            "prompt": self.prompt,
            "decoding": asdict(self.decoding),
            "image": self.image_format,
        }

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Describe patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in their order.

        Raises
        ------
        UnreachableError
            The server does not answer any more.
        ModelError
            It refuses what is asked: no such model, no right, no images.
        """
        check_patches(images, mpp)
        if not len(images):
            return []
        with ThreadPoolExecutor(min(self.concurrency, len(images)), thread_name_prefix="wsikit-caption") as lanes:
            futures = [lanes.submit(self._one, image) for image in images]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _one(self, image: npt.NDArray[np.uint8]) -> Caption:
        import openai

        try:
            raw = self._client.chat.completions.with_raw_response.create(**self._request(image))
        except openai.APIConnectionError as error:
            with self._lock:
                self.retried += self.retries
            return self._unanswered(error)
        except openai.APIStatusError as error:
            return self._refused(error)
        with self._lock:
            self._answered = True
            self.retried += raw.retries_taken
        try:
            return self._read(raw.parse())
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, IndexError) as error:
            # whatever a server may send instead of a completion: the library reads it into objects of any shape
            return Caption("", source=self.name, failure=f"unreadable answer: {_line(error)}")

    def _request(self, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """One user turn: the image, then the prompt."""
        picture = {"type": "image_url", "image_url": {"url": data_url(image, self.image_format)}}
        content = [picture, {"type": "text", "text": self.prompt}]
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **asdict(self.decoding)}

    def _read(self, answer: Any) -> Caption:
        """The caption in an answer; of a text that the token limit cut, its whole sentences."""
        choices = getattr(answer, "choices", None)
        if not choices:
            return Caption("", source=self.name, failure="the answer holds no choice")
        text, ended = choices[0].message.content or "", choices[0].finish_reason
        if ended == "content_filter":
            return Caption(text, source=self.name, failure="the server's content filter")
        if ended != "length":
            return Caption(text, source=self.name)
        whole = whole_sentences(text)
        failure = "" if whole else f"cut off at {self.decoding.max_tokens} tokens"
        return Caption(whole or text, source=self.name, failure=failure)

    def _unanswered(self, error: Exception) -> Caption:
        """A failure of one request, if the server still lives; else the end."""
        import openai

        try:
            self._client.with_options(timeout=_PROBE_S, max_retries=0).models.list()
        except openai.APIConnectionError:
            raise UnreachableError(
                f"{self.url}: the captioning server does not answer any more ({_line(error)}). Finished captions are "
                "kept: start it again and run the same command."
            ) from error
        except openai.OpenAIError:
            pass  # it answers, if only to say no
        timed_out = isinstance(error, openai.APITimeoutError)
        reason = f"no answer within {self.timeout_s:g} s" if timed_out else f"connection broken: {_line(error)}"
        return Caption("", source=self.name, failure=reason)

    def _refused(self, error: Any) -> Caption:
        """A failure of one request; what would fail for every patch ends the work instead."""
        status = error.status_code
        with self._lock:
            self.retried += self.retries if status in (408, 409, 429) or status >= 500 else 0
            answered = self._answered
        if status in (401, 403, 404, 405) or (status < 500 and status not in (408, 409, 429) and not answered):
            hint = " Name the environment variable of its key with --api-key-env." if status in (401, 403) else ""
            raise ModelError(f"{self.url}: the server refuses to caption with {self.model}: {_line(error)}.{hint}")
        return Caption("", source=self.name, failure=f"the server answered {status}: {_line(error)}")

    def _only_model(self) -> str:
        import openai

        try:
            names = [model.id for model in self._client.models.list().data or []]
        except openai.APIConnectionError as error:
            raise UnreachableError(f"{self.url}: no captioning server answers there ({_line(error)}).") from error
        except openai.APIStatusError as error:
            raise ModelError(
                f"{self.url}/models: {_line(error)}. Give the address up to /v1, e.g. http://host:8000/v1."
            ) from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{self.url}/models: no OpenAI-compatible server ({_line(error)}).") from error
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise RequestError(f"{self.url} has the models {found}: name one, as {self.url}#MODEL")
        return str(names[0])


def data_url(image: npt.NDArray[np.uint8], image_format: str) -> str:
    """The pixels, uint8 (H, W, 3), as a data URL; PNG keeps each of them."""
    from PIL import Image

    stream = io.BytesIO()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if image_format == "jpeg" else {"compress_level": 1}
    Image.fromarray(np.ascontiguousarray(image)).save(stream, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _client(url: str, key: str | None, timeout_s: float, retries: int) -> OpenAI:
    try:
        import openai
    except ImportError as error:
        raise RequestError(
            f"captioner {url}: the library openai is not installed. Install it with: pip install 'wsikit[server]'"
        ) from error

    def only_what_is_meant(request: Any) -> None:
        # the library adds keys, organisations and headers of the environment, which are meant for another host
        for name in [name for name in request.headers if not name.lower().startswith(_HEADERS)]:
            del request.headers[name]
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"

    # no proxy and no .netrc from the environment, no redirect: patients' images stay with the named host
    hooks: Any = {"request": [only_what_is_meant]}
    http = openai.DefaultHttpxClient(trust_env=False, follow_redirects=False, event_hooks=hooks)
    return openai.OpenAI(base_url=url, api_key=key or _NO_KEY, timeout=timeout_s, max_retries=retries, http_client=http)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RequestError(f"--api-key-env {variable}: there is no such environment variable, or it is empty")
    return key


def _line(error: BaseException) -> str:
    """An error as one short line; of the library's own "Connection error." its cause."""
    cause = error.__cause__ if type(error).__name__ == "APIConnectionError" and error.__cause__ else error
    return " ".join(str(cause).split())[:200] or type(cause).__name__
