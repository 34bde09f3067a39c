"""Requests in OpenAI's chat protocol, and answers read from what the server returns."""

import base64
import json
from dataclasses import replace

import pytest

from fusar_klip.errors import ProviderError, SettingsError
from fusar_klip.llm import MAX_ANSWER_CHARS, LlmSettings, Request, TryAgainError
from fusar_klip.llm.openai_chat import OpenAiChat, chat_body, read_completion, without_key
from misbehaving_server import KEY

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
REQUEST = Request("be an expert", (("user", "first"), ("assistant", "so")), "and then?", SCHEMA, None, True)


def settings(**changes: object) -> LlmSettings:
    return LlmSettings.model_validate({"model": "m"} | changes)


def body_of(**message: object) -> bytes:
    return json.dumps({"choices": [{"message": message}], "usage": {"prompt_tokens": 7}}).encode()


def test_the_image_goes_with_the_first_question() -> None:
    body = chat_body(REQUEST, b"\x89PNG", settings())
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    text, image = body["messages"][1]["content"]
    assert text == {"type": "text", "text": "first"}
    assert image["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert body["messages"][3]["content"] == "and then?"
    assert chat_body(REQUEST, None, settings())["messages"][1]["content"] == "first"


def test_the_environment_may_name_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    assert settings().base_url == "http://localhost:8000/v1"
    assert settings(base_url="http://x/v1").base_url == "http://x/v1"


def test_what_servers_differ_in() -> None:
    ours, theirs = (
        chat_body(REQUEST, None, settings()),
        chat_body(REQUEST, None, settings(base_url="http://x/v1")),
    )
    assert ours["max_completion_tokens"] == theirs["max_tokens"] == 2000
    by_address = chat_body(REQUEST, None, settings(base_url="https://api.openai.com/v1"))
    assert by_address == ours
    assert ours["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "temperature" not in ours
    assert chat_body(REQUEST, None, settings(temperature=0.0))["temperature"] == 0.0
    assert "response_format" not in chat_body(REQUEST, None, settings(structured=False))
    assert "response_format" not in chat_body(replace(REQUEST, schema=None), None, settings())


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "words"}, "words"),
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": None}, ""),
        ({"content": "half \ud83d a pair"}, "half ? a pair"),
        ({"content": f"my key is {KEY}."}, "my key is [key]."),
        ({"content": "w" * 100_000}, "w" * MAX_ANSWER_CHARS),
    ],
)
def test_answers_are_plain_text(message: dict[str, object], text: str) -> None:
    answer = read_completion(body_of(**message), 300, KEY)
    assert answer.text == text
    assert answer.input_tokens == 7
    assert answer.output_tokens >= len(answer.text) // 4  # not reported, so estimated


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"[" * 9999],
)
def test_what_is_no_completion_is_asked_for_again(content: bytes) -> None:
    with pytest.raises(TryAgainError):
        read_completion(content, 300, KEY)


@pytest.mark.parametrize("count", [-1, "12", 1.5, True, None, 1 << 40])
def test_counts_that_cannot_be(count: object) -> None:
    body = {"choices": [{"message": {"content": "abc"}}], "usage": {"prompt_tokens": count}}
    assert read_completion(json.dumps(body).encode(), 300, KEY).input_tokens == 100


def test_a_body_without_end_is_an_answer_too_long() -> None:
    assert len(read_completion(b" " * (5 << 20), 300, KEY).text) == MAX_ANSWER_CHARS


def test_keys_are_taken_out() -> None:
    assert without_key(f"Bearer {KEY}, sk-proj-abcdef0123456789**** and skyscraper-like", KEY) == (
        "Bearer [key], [key] and skyscraper-like"
    )


@pytest.mark.parametrize(
    ("address", "fix"),
    [
        ("http://user:secret@host/v1", "environment"),
        ("http://host/v1?key=secret", "environment"),
        ("ftp://host/v1", "http://localhost"),
        ("localhost:8000", "http://localhost"),
        ("http://localhost:port/v1", "http://localhost"),
        ("http://localhost:99999/v1", "http://localhost"),
        ("http://[localhost/v1", "http://localhost"),
        ("http://user:secret@host:port/v1", "environment"),
        ("http://local host/v1", "http://localhost"),
        ("http://localhost/v1\n", "http://localhost"),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, address: str, fix: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(SettingsError, match=fix) as caught:
        OpenAiChat(settings(base_url=address))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-secret\nsk-secret", "sk-secret\u00e9"])
def test_keys_that_no_request_can_carry(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ProviderError, match="OPENAI_API_KEY holds no API key") as caught:
        OpenAiChat(settings(base_url="http://localhost/v1"))
    assert "secret" not in str(caught.value)
