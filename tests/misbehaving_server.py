"""A local server that speaks the OpenAI protocol, and misbehaves on demand.

What it answers depends on the question alone (its first message and its picture), never on the order of
requests or on faults: the same tile gets the same text from any run. Runs in a thread of a test, or by
itself:

    python tests/misbehaving_server.py --latency 0.1        prints its port
"""

import argparse
import asyncio
import email.utils
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-test-0123456789abcdef"

# What a fault does to the reply to a chat request.
STATUS = {
    "401": (401, {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}),
    "404": (404, {"message": "The model does not exist", "code": "model_not_found"}),
    "quota": (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
    "429": (429, {"message": "Rate limit reached", "code": "rate_limit_exceeded"}),
    "429-date": (429, {"message": "Rate limit reached", "code": "rate_limit_exceeded"}),
    "400": (400, {"message": f"Blocked by the content filter, key {KEY}", "code": "content_filter"}),
    "500": (500, {"message": "The server had an error", "code": None}),
    "503": (503, {"message": "Overloaded", "code": None}),
}
CONTENT: dict[str, Callable[[str], str]] = {
    "not-json": lambda _: "Let me think about this picture for a while",
    "wrong-schema": lambda _: '{"caption": ["a", "b"], "score": 3}',
    "empty": lambda _: "",
    "enormous": lambda text: text.replace("seen", "seen " * 500_000),
    "other-language": lambda text: re.sub(
        r'"The [^"]*"', '"Hier ist nur das Meer, und es ist nicht ruhig."', text
    ),
    "control-characters": lambda text: "\x00\x1b[2J\u202e" + text.replace("seen", "\x07"),
    "surrogate": lambda text: "\ud83d" + text[: len(text) // 2],
    "refusal": lambda _: "I'm sorry, but I can't assist with that request.",
}
BROKEN = ("cut", "page", "hang", "drip", "no-choices", "endless")
FAULTS = (*(f for f in STATUS if f not in ("401", "404", "quota", "400")), *CONTENT, *BROKEN)
"""Faults after which a second request gets a usable answer."""


@dataclass
class Exchange:
    """One chat request as the server saw it."""

    question: str  # the first user message: what the tile is asked about
    text: str  # all messages
    image: str  # digest of the picture
    fault: str | None
    answer: str
    began: float
    ended: float = float("inf")


@dataclass
class Server:
    """What the server is to do, and what was done to it."""

    latency_s: float = 0.0
    faults: list[str] = field(default_factory=list)  # one for each of the first requests
    fault_of: Callable[[int, str], str | None] | None = None  # by number and question of a request
    answer: Callable[[str], str] = lambda text: text
    retry_after_s: float = 0.05
    keep_log: bool = True
    log: list[Exchange] = field(default_factory=list)
    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    authorizations: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_polls: int = 1  # looks at a batch before it is done
    batch_answers: bool = True
    url: str = ""

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve in a thread."""
        started, loop = threading.Event(), asyncio.new_event_loop()

        def serve() -> None:
            asyncio.set_event_loop(loop)
            listening = loop.run_until_complete(self.listen())
            started.set()
            loop.run_forever()
            listening.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)

    async def listen(self, port: int = 0) -> asyncio.Server:
        listening = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=1 << 20)
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        return listening

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and await self._request(head, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.authorizations.add(headers.get("authorization", ""))
        path = path.split("?")[0]
        if path.endswith("/chat/completions"):
            return await self._chat(json.loads(body), writer)
        reply = self._batch_api(method, path, headers, body)
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        await _send(writer, 200 if reply is not None else 404, content)
        return True

    async def _chat(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        question, everything, image = _asked(request)
        number, self.requests = self.requests, self.requests + 1
        fault = self.faults[number] if number < len(self.faults) else None
        if self.fault_of is not None:
            fault = self.fault_of(number, question)
        text = self.answer(_answer(request, question, image))
        exchange = Exchange(question, everything, image, fault, text, time.monotonic())
        if self.keep_log:
            self.log.append(exchange)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            return await self._reply(fault, text, everything, writer)
        finally:
            self.in_flight -= 1
            exchange.ended = time.monotonic()

    async def _reply(
        self, fault: str | None, text: str, everything: str, writer: asyncio.StreamWriter
    ) -> bool:
        if fault in STATUS:
            status, error = STATUS[fault]
            headers = {"Retry-After": f"{self.retry_after_s:g}"} if fault in ("429", "503") else {}
            if fault == "429-date":  # the server's clock is a day ahead of ours
                now = time.time() + 86_400
                headers["Date"] = email.utils.formatdate(now, usegmt=True)
                headers["Retry-After"] = email.utils.formatdate(now + 1, usegmt=True)
            await _send(writer, status, json.dumps({"error": error}).encode(), headers)
            return True
        if fault in CONTENT:
            text = CONTENT[fault](text)
        content = json.dumps(completion(text, everything)).encode()
        if fault == "cut":
            writer.write(_head(200, len(content), {}) + content[: len(content) // 2])
            await writer.drain()
            return False
        if fault == "hang":
            writer.write(_head(200, len(content), {}) + content[: len(content) // 2])
            await writer.drain()
            await asyncio.sleep(30)
            return False
        if fault == "drip":
            writer.write(_head(200, len(content), {}))
            for _ in range(300):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        if fault == "endless":
            writer.write(_head(200, 1 << 40, {}))
            while True:
                writer.write(b" " * (1 << 16))
                await writer.drain()
        if fault == "page":
            content = b"<html><body>Bad gateway, said the proxy</body></html>"
        if fault == "no-choices":
            content = b'{"object": "chat.completion", "choices": []}'
        await _send(writer, 200, content)
        return True

    def _batch_api(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        *_, last = path.split("/")
        if path.endswith("/files") and method == "POST":
            boundary = headers["content-type"].partition("boundary=")[2].encode()
            parts = [part for part in body.split(b"--" + boundary) if b"filename=" in part]
            number = f"file-{len(self.files)}"
            self.files[number] = parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            return {
                "id": number,
                "object": "file",
                "bytes": 1,
                "created_at": 0,
                "filename": "f",
                "purpose": "batch",
            }
        if path.endswith("/content"):
            return self.files.get(path.split("/")[-2])
        if path.endswith("/batches") and method == "POST":
            return self._start_batch(json.loads(body))
        if path.endswith("/batches"):
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}
        if (batch := self.batches.get(last)) is not None:
            batch["polls"] += 1
            if batch["polls"] > self.batch_polls and batch["status"] == "in_progress":
                self._finish_batch(batch)
        return batch

    def _start_batch(self, request: dict[str, Any]) -> dict[str, Any]:
        number = f"batch-{len(self.batches)}"
        self.batches[number] = {
            "id": number,
            "object": "batch",
            "status": "in_progress",
            "created_at": 0,
            "polls": 0,
            **request,
        }
        return self.batches[number]

    def _finish_batch(self, batch: dict[str, Any]) -> None:
        batch["status"] = "completed"
        results = []
        for line in self.files[batch["input_file_id"]].splitlines():
            request = json.loads(line)
            number, self.requests = self.requests, self.requests + 1
            question, everything, image = _asked(request["body"])
            text = self.answer(_answer(request["body"], question, image))
            fault = self.faults[number] if number < len(self.faults) else None
            self.log.append(
                Exchange(question, everything, image, fault, text, time.monotonic(), time.monotonic())
            )
            response = {"status_code": 200, "body": completion(text, everything)}
            if fault in STATUS:
                status, error = STATUS[fault]
                response = {"status_code": status, "body": {"error": error}}
            elif fault in CONTENT:
                response["body"] = completion(CONTENT[fault](text), everything)
            results.append({"custom_id": request["custom_id"], "response": response, "error": None})
        results.reverse()  # the API promises no order
        if self.batch_answers:
            batch["output_file_id"] = f"file-{len(self.files)}"
            self.files[batch["output_file_id"]] = b"\n".join(json.dumps(r).encode() for r in results)


def completion(text: str, everything: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "test-model",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": 100 + len(everything) // 4,
            "completion_tokens": 1 + len(text) // 4,
            "total_tokens": 101 + (len(everything) + len(text)) // 4,
        },
    }


def _asked(request: dict[str, Any]) -> tuple[str, str, str]:
    """Return the first user message, all messages, and the picture's digest."""
    texts, image, question = [], "", None
    for message in request["messages"]:
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        for part in parts:
            if part["type"] == "image_url":
                image = hashlib.sha256(part["image_url"]["url"].encode()).hexdigest()[:16]
            else:
                texts.append(part["text"])
                if message["role"] == "user" and question is None:
                    question = part["text"]
    return question or "", "\n".join(texts), image


def _answer(request: dict[str, Any], question: str, image: str) -> str:
    """Fill the wanted schema with sentences that carry a mark of the question."""
    mark = hashlib.sha256(f"{question}{image}".encode()).hexdigest()[:8]
    schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema is None:
        return f"What is seen here in plain words has the mark {mark}."
    return json.dumps(_fill(schema, "answer", mark))


def _fill(schema: dict[str, Any], name: str, mark: str) -> Any:
    if schema["type"] == "object":
        return {inner: _fill(value, inner, mark) for inner, value in schema["properties"].items()}
    return f"The {name.replace('_', ' ').lower()} is seen here in plain words, with the mark {mark}."


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _send(
    writer: asyncio.StreamWriter, status: int, content: bytes, headers: dict[str, str] | None = None
) -> None:
    writer.write(_head(status, len(content), headers or {}) + content)
    await writer.drain()


async def _serve(latency_s: float) -> None:
    server = Server(latency_s=latency_s, keep_log=False)
    listening = await server.listen()
    print(server.url, flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds before every answer")
    asyncio.run(_serve(parser.parse_args().latency))
