"""What tests of the API have in common: reading lists, checking problems, waiting."""

import time
from collections.abc import Callable
from typing import Any

import httpx


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def check_problem(answer: httpx.Response, status: int, said: str) -> dict[str, Any]:
    """It is a problem document of this status whose detail has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "errors"}
    assert body["status"] == status
    assert said in body["detail"]
    assert ("retry-after" in answer.headers) == (status == 503)
    assert ("www-authenticate" in answer.headers) == (status == 401)
    return body


def eventually(is_so: Callable[[], object], seconds: float = 3.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def as_json(content: str | bytes) -> dict[str, Any]:
    """Arguments to send text as it is, which a client would not write as JSON itself."""
    return {"content": content, "headers": {"content-type": "application/json"}}
