"""Captioners by name: which captioner each name gives, which options it refuses, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wsikit.captions import CaptionerOptions, load_captioner
from wsikit.captions.registry import captioner_for, name_of
from wsikit.errors import ModelError, RequestError


def test_measuring_loads_neither_torch_nor_transformers_nor_a_client() -> None:
    code = "import sys; from wsikit.captions import load_captioner; load_captioner('morphometry'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "openai", "sklearn"} & set(loaded)


def test_an_unknown_name_lists_the_known_ones_in_one_line() -> None:
    with pytest.raises(RequestError, match="'morphometry'.*folder.*http") as caught:
        load_captioner("oracle")
    assert "\n" not in str(caught.value)


def test_a_hub_id_that_is_not_on_this_disk_is_not_fetched() -> None:
    with pytest.raises(ModelError, match="not on this disk"):
        load_captioner("no-organisation/no-such-model")


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load_captioner(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("morphometry", CaptionerOptions(prompt="What?")),
        ("morphometry", CaptionerOptions(seed=1)),
        ("http://127.0.0.1:1/v1#m", CaptionerOptions(adapter="x")),
        ("http://127.0.0.1:1/v1#m", CaptionerOptions(batch=4)),
        ("some/model", CaptionerOptions(retries=3)),
        ("some/model", CaptionerOptions(api_key_env="KEY")),
    ],
)
def test_an_option_that_does_not_apply_is_refused_not_ignored(spec: str, options: CaptionerOptions) -> None:
    with pytest.raises(RequestError, match="does not apply"):
        load_captioner(spec, options)


def test_a_server_whose_model_is_named_is_not_contacted_before_the_first_patch() -> None:
    captioner = load_captioner("http://127.0.0.1:1/v1#tissue-7b", CaptionerOptions(seed=5, max_new_tokens=9))
    found = captioner.fingerprint()
    assert found["model"] == "tissue-7b"
    assert found["decoding"] == {"max_tokens": 9, "temperature": 0.7, "seed": 5}


def test_the_name_of_a_captioner_is_known_without_loading_it() -> None:
    named = {spec: name_of(spec) for spec in ("morphometry", "http://h:1/v1#m", "models/tiny#adapter", "org/model")}
    assert list(named.values()) == ["morphometry", "server", "tiny", "model"]


def test_a_second_adapter_is_refused() -> None:
    with pytest.raises(RequestError, match="names an adapter already"):
        load_captioner("some/model#here", CaptionerOptions(adapter="there"))


def test_a_model_gets_the_captioner_it_was_trained_with_if_that_is_packaged():
    assert captioner_for("morphometry-in-slide") == "morphometry-in-slide"
    assert captioner_for("phantom-captioner") == "phantom-captioner"
    assert captioner_for("table") == captioner_for("Qwen/Qwen2.5-VL-7B-Instruct") == "morphometry"
