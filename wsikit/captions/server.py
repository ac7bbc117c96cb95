"""Captions from an OpenAI-compatible server (vLLM, llama.cpp, …), through the library `openai`.

Patches are sent to the given address only: no proxy, no redirect, and no API key unless its variable is named.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.captions.answer_limits import AnswerLimits
from wsikit.captions.base import Caption, check_patches
from wsikit.captions.calls import asking_of, check_images_per_call, joint_prompt, name_of_image, read_answers
from wsikit.captions.fields import Field
from wsikit.captions.filter import whole_sentences
from wsikit.errors import ModelError, RequestError, UnreachableError

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_VERSION = 1  # raise it when the same response of the server becomes another caption
_NO_KEY = "none"  # the library requires a key; this one is never sent
_HEADERS = ("host", "accept", "connection", "user-agent", "content-", "idempotency-key", "x-stainless-")
LONGEST_ANSWER = 65_536
"""Characters of an answer, beyond which it is no description."""

_PROBE_S = 10.0
_PER_THREAD = 4  # requests per thread and call, so that threads that finish early have more work

PROMPT = (
    "You are a specialised pathologist. Describe what is seen microscopically on this image of a neuroblastic tumour: "
    "cellularity, nuclei, neuropil, rosettes, ganglion cells, stroma, mitoses, necrosis, calcification, haemorrhage. "
    "Two or three plain sentences; say what is absent; no diagnosis."
)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding parameters of a request. Greedy by default, so that equal patches get equal captions."""

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not self.temperature >= 0:
            raise RequestError(
                f"{self.max_tokens} tokens at temperature {self.temperature}: expected 1 or more, 0 or more"
            )


class ServerCaptioner:
    """Captioner that sends patches to a server, several concurrently, and returns captions in the order of the patches.

    A request that still fails after the library's retries (with exponential back-off) gives a `Caption` with `failure`.
    If the server no longer responds at all, the call raises `UnreachableError`.

    Parameters
    ----------
    url
        Address up to and including the version, e.g. http://localhost:8000/v1.
    model
        Name of the model on the server. Default: the only one that it serves.
    prompt
        Text that accompanies each patch. Default: `PROMPT`.
    decoding
        Default: greedy, at most 256 tokens.
    concurrency
        Maximum number of concurrent requests.
    timeout_s
        Maximum time for one response, from the request to its last byte, seconds.
    retries
        Maximum number of retries after status 408, 409, 429 or 5xx, a timeout or a broken connection.
    image_format
        "png" sends the exact pixels; "jpeg" (quality 95) is for servers that accept nothing else.
    api_key_env
        Name of the environment variable that holds the API key of this server. Default: no key is sent.
    field
        Describe fields of this size instead of single patches: see `wsikit.captions.fields`.
    images_per_call
        Number of images in one request. Where an answer does not have exactly one text for each, its images are sent
        one by one.

    Examples
    --------
    >>> captioner = ServerCaptioner("http://localhost:8000/v1", model="my-model", concurrency=4)
    >>> captioner.batch, captioner.fingerprint()["model"]
    (16, 'my-model')
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
        field: Field | None = None,
        images_per_call: int = 1,
    ) -> None:
        if not re.match(r"https?://[^/\s]+", url):
            raise RequestError(f"captioner {url!r}: expected an address such as http://localhost:8000/v1")
        if concurrency < 1 or retries < 0 or not timeout_s > 0:
            raise RequestError(
                f"captioning server: concurrency {concurrency}, retries {retries}, timeout {timeout_s} s; "
                "expected concurrency ≥ 1, retries ≥ 0 and a timeout above 0 s"
            )
        self.url = url.rstrip("/")
        self.prompt = (prompt or PROMPT).strip()
        self.decoding = decoding or Decoding()
        self.concurrency, self.timeout_s, self.retries = concurrency, timeout_s, retries
        self.image_format = image_format
        self.field, self.images_per_call = field, check_images_per_call(images_per_call)
        self.batch = images_per_call * max(concurrency, _PER_THREAD * concurrency // images_per_call)
        self._client = _client(self.url, _key(api_key_env), timeout_s, retries)
        self.model = model or self._only_model()
        self.retried = 0
        """Number of retries so far."""
        self.split = 0
        """Number of requests with several images whose images were then sent one by one."""
        self._has_responded = False
        self._lock = threading.Lock()

    def fingerprint(self) -> dict[str, Any]:
        """Model, prompt, decoding and image format; field and images per call where they are not the default. Not the
        address, which does not decide a caption."""
        fingerprint = {
            "captioner": self.name,
            "version": _VERSION,
            "model": self.model,
            "prompt": self.prompt,
            "decoding": asdict(self.decoding),
            "image": self.image_format,
        }
        return {**fingerprint, **asking_of(self.field, self.images_per_call)}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Captions of patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in the same order.

        Raises
        ------
        UnreachableError
            The server no longer responds.
        ModelError
            The server refuses the requests: unknown model, no permission, images not supported.
        """
        check_patches(images, mpp)
        if not len(images):
            return []
        calls = [images[first : first + self.images_per_call] for first in range(0, len(images), self.images_per_call)]
        with ThreadPoolExecutor(min(self.concurrency, len(calls)), thread_name_prefix="wsikit-caption") as threads:
            futures = [threads.submit(self._call, call) for call in calls]
            try:
                return [caption for future in futures for caption in future.result()]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _call(self, images: npt.NDArray[np.uint8]) -> list[Caption]:
        """Captions of the images of one request; if they cannot be assigned, of one request per image."""
        if len(images) > 1:
            found = self._ask(images, lambda answer: self._read_several(answer, len(images)))
            if isinstance(found, list):
                return found
            with self._lock:
                self.split += 1
                first = self.split == 1
            if first:
                reason = f" ({found.failure})" if found is not None else ""
                logger.warning(
                    "%s: no answer with exactly one text for each of %d images%s. These, and the images of other such "
                    "answers, are sent one by one.",
                    self.model,
                    len(images),
                    reason,
                )
        return [self._ask(image[None], self._read) for image in images]

    def _ask(self, images: npt.NDArray[np.uint8], read: Callable[[Any], Answer]) -> Answer | Caption:
        """What `read` makes of the response to a request; a caption with `failure` if there is no usable response."""
        import openai

        try:
            raw = self._client.chat.completions.with_raw_response.create(**self._request(images))
        except openai.APIConnectionError as error:
            with self._lock:
                self.retried += self.retries
            return self._on_connection_error(error)
        except openai.APIStatusError as error:
            return self._on_status_error(error, several=len(images) > 1)
        with self._lock:
            self._has_responded = True
            self.retried += raw.retries_taken
        try:
            return read(raw.parse())
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # instead of a completion, a server may send anything; the library parses it into objects of any structure
            return Caption("", source=self.name, failure=f"unreadable response: {_line(error)}")

    def _request(self, images: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]) -> dict[str, Any]:
        """One user turn: the image, then the prompt; of several images each after its number."""
        content: list[dict[str, Any]] = []
        for index, image in enumerate(images):
            if len(images) > 1:
                content.append({"type": "text", "text": name_of_image(index)})
            content.append({"type": "image_url", "image_url": {"url": data_url(image, self.image_format)}})
        prompt = self.prompt if len(images) == 1 else joint_prompt(self.prompt, len(images))
        content.append({"type": "text", "text": prompt})
        decoding = {**asdict(self.decoding), "max_tokens": self.decoding.max_tokens * len(images)}
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **decoding}

    def _read_several(self, answer: Any, images: int) -> list[Caption] | None:
        """The captions in a response on several images; None if they cannot be assigned."""
        choices = getattr(answer, "choices", None)
        if not choices or choices[0].finish_reason in ("content_filter", "length"):
            return None
        text = choices[0].message.content or ""
        if _fault_of(text) is not None:
            return None
        texts = read_answers(text, images)
        return None if texts is None else [Caption(text, source=self.name) for text in texts]

    def _read(self, answer: Any) -> Caption:
        """The caption in a response; if the token limit truncated it, its complete sentences."""
        choices = getattr(answer, "choices", None)
        if not choices:
            return Caption("", source=self.name, failure="the response has no choice")
        text, ended = choices[0].message.content or "", choices[0].finish_reason
        if (fault := _fault_of(text)) is not None:
            return Caption("", source=self.name, failure=fault)
        if ended == "content_filter":
            return Caption(text, source=self.name, failure="the server's content filter")
        if ended != "length":
            return Caption(text, source=self.name)
        whole = whole_sentences(text)
        failure = "" if whole else f"cut off at {self.decoding.max_tokens} tokens"
        return Caption(whole or text, source=self.name, failure=failure)

    def _on_connection_error(self, error: Exception) -> Caption:
        """The failure of one request, if the server still responds; otherwise raises."""
        import openai

        try:
            self._client.with_options(timeout=_PROBE_S, max_retries=0).models.list()
        except openai.APIConnectionError:
            raise UnreachableError(
                f"{self.url}: the captioning server no longer responds ({_line(error)}). Finished captions are kept. "
                "Start the server again and repeat the command."
            ) from error
        except openai.OpenAIError:
            pass  # it responds, even if with an error
        timed_out = isinstance(error, openai.APITimeoutError)
        reason = f"no response within {self.timeout_s:g} s" if timed_out else f"connection broken: {_line(error)}"
        return Caption("", source=self.name, failure=reason)

    def _on_status_error(self, error: Any, *, several: bool) -> Caption:
        """The failure of one request; raises if every other request would fail as well.

        A server may refuse `several` images in one request, and accept each of them.
        """
        status = error.status_code
        with self._lock:
            self.retried += self.retries if status in (408, 409, 429) or status >= 500 else 0
            has_responded = self._has_responded
        all_fail = status < 500 and status not in (408, 409, 429) and not has_responded and not several
        if status in (401, 403, 404, 405) or all_fail:
            hint = " Name the variable that holds its API key: --api-key-env NAME." if status in (401, 403) else ""
            raise ModelError(f"{self.url}: the server refuses to caption with {self.model}: {_line(error)}.{hint}")
        return Caption("", source=self.name, failure=f"the server responded with status {status}: {_line(error)}")

    def _only_model(self) -> str:
        import openai

        try:
            names = [str(model.id) for model in self._client.models.list().data or []]
        except openai.APIConnectionError as error:
            raise UnreachableError(
                f"{self.url}: no server responds at this address ({_line(error)}). Start it, or correct the address."
            ) from error
        except openai.APIStatusError as error:
            raise ModelError(
                f"{self.url}/models: {_line(error)}. Pass the address up to /v1, e.g. http://host:8000/v1."
            ) from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{self.url}/models: not an OpenAI-compatible server ({_line(error)}). Pass the address of one."
            ) from error
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise RequestError(f"{self.url} serves the models {found}: name one of them, as in {self.url}#MODEL")
        return str(names[0])


def data_url(image: npt.NDArray[np.uint8], image_format: str) -> str:
    """An image, uint8 (H, W, 3), as a data URL; lossless with "png".

    Examples
    --------
    >>> data_url(np.zeros((1, 1, 3), np.uint8), "png")[:30]
    'data:image/png;base64,iVBORw0K'
    """
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

    def keep_intended_headers(request: Any) -> None:
        # the library adds keys, organisations and headers from the environment, which belong to another host
        for name in [name for name in request.headers if not name.lower().startswith(_HEADERS)]:
            del request.headers[name]
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"

    # no proxy, no .netrc, no redirect: images of patients are sent to the named host only
    hooks: Any = {"request": [keep_intended_headers]}
    http = openai.DefaultHttpxClient(trust_env=False, follow_redirects=False, event_hooks=hooks)
    try:
        AnswerLimits(http)
    except AttributeError as error:
        raise RequestError(
            f"captioner {url}: answers of the installed version of openai ({openai.__version__}) cannot be limited in "
            f"time and size ({error}). Install the one that wsikit was tested with: pip install 'openai==3.57.*'"
        ) from error
    return openai.OpenAI(base_url=url, api_key=key or _NO_KEY, timeout=timeout_s, max_retries=retries, http_client=http)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RequestError(
            f"--api-key-env {variable}: this environment variable is not set, or empty. Set it to the key"
        )
    return key


def _line(error: BaseException) -> str:
    """An error as one short line; for the library's generic "Connection error." its cause."""
    cause = error.__cause__ if type(error).__name__ == "APIConnectionError" and error.__cause__ else error
    return " ".join(str(cause).split())[:200] or type(cause).__name__


def _fault_of(text: object) -> str | None:
    """What is wrong with the content of an answer; None if it can be a description of a patch."""
    if not isinstance(text, str):
        return f"the response is a {type(text).__name__}, not a text"
    if len(text) > LONGEST_ANSWER:
        return f"the response has {len(text):,} characters; a description has at most {LONGEST_ANSWER:,}"
    return None
