"""What the dashboard changes: sign-in and sign-out, publish and roll back. Plain forms, each answered by a redirect."""

from html import escape
from typing import cast
from urllib.parse import parse_qs, quote

from dash.exceptions import DependencyException
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.dashboard import PREFIX
from api.dashboard.session import (
    CSRF_COOKIE,
    CURRENT,
    SESSION_COOKIE,
    check_csrf,
    set_cookie,
    sign_in,
)
from api.problems import problem
from api.routes.models import audited
from api.state import AppState, in_thread
from recsys.database.models import publish, roll_back
from recsys.errors import ForbiddenError, InputError, RecsysError
from recsys.results import Objective

MAX_FORM_BYTES = 16_384
MAX_REASON = 500

SIGN_IN = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in: recsys</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="assets/dashboard.css">
</head>
<body>
<main class="sign-in">
<h1>recsys</h1>
{problem}
<form method="post" action="sign-in{next}" class="card">
<label class="control wide"><span>API key</span>
<input type="password" name="key" autocomplete="current-password" required autofocus></label>
<button type="submit">Sign in</button>
<p class="how">A key with the scope <code>read</code> sees everything, <code>admin</code> may publish and roll back.
<code>recsys keys create NAME --scope read</code> makes one.</p>
</form>
</main>
</body>
</html>
"""


def add_forms(server: FastAPI, state: AppState, base: str) -> None:
    """Add the routes that change something.

    Args:
        base: the address of the dashboard.
    """

    def sign_in_form(request: Request, message: str = "", status: int = 200) -> Response:
        query = request.url.query
        return HTMLResponse(SIGN_IN.format(problem=message, next=escape(f"?{query}" if query else "")), status)

    async def sign_in_page(request: Request) -> Response:
        return sign_in_form(request)

    async def signed_in(request: Request) -> Response:
        form = await read_form(request)
        try:
            origin = request.headers.get("origin")
            if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
                raise ForbiddenError("the form was sent from another site")
            session, cookie = sign_in(form.get("key", ""), state)
        except RecsysError as error:
            message = f'<p class="notice" role="alert">{escape(error.public)}</p>'
            return sign_in_form(request, message, error.status)
        answer = RedirectResponse(base + next_page(request), 303)
        set_cookie(answer, request, SESSION_COOKIE, cookie, base)
        set_cookie(answer, request, CSRF_COOKIE, session.csrf, base)
        return answer

    async def sign_out(request: Request) -> Response:
        form = await read_form(request)
        check_csrf(request, form.get("csrf", ""))
        answer = RedirectResponse(base + "sign-in", 303)
        answer.delete_cookie(SESSION_COOKIE, path=base)
        answer.delete_cookie(CSRF_COOKIE, path=base)
        return answer

    async def published(request: Request) -> Response:
        form, actor = await allowed_change(request)
        number, reason, force = number_of(form), reason_of(form), form.get("force") == "yes"
        detail: dict[str, object] = {"number": number, "reason": reason, "force": force}

        def change() -> None:
            with state.writers:
                publish(state.engine, number, reason, audited(actor, "publish", detail), force=force)
            state.live.refresh()

        await in_thread(state, change)
        return done(f"Version {number} is live.")

    async def rolled_back(request: Request) -> Response:
        form, actor = await allowed_change(request)
        objective, reason = form.get("objective", ""), reason_of(form)
        if objective not in ("ranking", "rating"):
            raise InputError(f"there is no objective {objective[:40]!r}: choose ranking or rating")
        detail: dict[str, object] = {"objective": objective, "reason": reason}

        def change() -> int:
            with state.writers:
                chosen = roll_back(state.engine, cast(Objective, objective), reason, audited(actor, "rollback", detail))
            state.live.refresh()
            return chosen.number

        return done(f"Version {await in_thread(state, change)} is live again.")

    def done(sentence: str) -> Response:
        return RedirectResponse(f"{base}?done={quote(sentence)}", 303)

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RecsysError)
        if isinstance(error, ForbiddenError):
            return problem(error.status, error.title, error.public)
        return done(f"Nothing was changed: {error.public}")

    async def unknown_file(request: Request, _error: Exception) -> Response:
        return problem(404, "Not found", f"there is no file {request.url.path[:200]}")

    server.add_exception_handler(RecsysError, refused)
    server.add_exception_handler(DependencyException, unknown_file)  # of Dash, for a script that it does not have
    server.add_api_route(PREFIX + "sign-in", sign_in_page, methods=["GET"])
    server.add_api_route(PREFIX + "sign-in", signed_in, methods=["POST"])
    for path, function in (("sign-out", sign_out), ("publish", published), ("rollback", rolled_back)):
        server.add_api_route(PREFIX + path, function, methods=["POST"])


def next_page(request: Request) -> str:
    """Return the page that was asked for before the sign-in, with its parameters; the overview if there is none."""
    page, _, params = request.query_params.get("next", "").partition("?")
    if not page.isascii() or not page.isalpha():
        return ""
    return f"{page}?{quote(params, safe='=&%+:')}" if params else page


async def allowed_change(request: Request) -> tuple[dict[str, str], str]:
    """Return the form of a change, and the actor, for those who may make it.

    Raises:
        ForbiddenError: they may not, or the form is not from a page of the dashboard.
    """
    form, session = await read_form(request), CURRENT.get()
    check_csrf(request, form.get("csrf", ""))
    if not session.may_change:
        raise ForbiddenError(f"the key {session.actor!r} may not publish or roll back: use one with the scope admin")
    return form, session.actor


def number_of(form: dict[str, str]) -> int:
    """Return the number of the version to publish.

    Raises:
        InputError: it is none.
    """
    number = form.get("number", "")
    if not (len(number) < 19 and number.isascii() and number.isdigit()):
        raise InputError(f"there is no version {number[:40]!r}: choose one of the list")
    return int(number)


def reason_of(form: dict[str, str]) -> str:
    """Return the reason that a change must have.

    Raises:
        InputError: there is none.
    """
    reason = " ".join(form.get("reason", "").split())[:MAX_REASON]
    if not reason:
        raise InputError("give a reason, which is recorded")
    return reason


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a posted form.

    Raises:
        InputError: it is too large, or no form.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise InputError("the form is too large")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise InputError("the form cannot be read") from error
    return {name: values[-1] for name, values in fields.items()}
