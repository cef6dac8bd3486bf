"""Ratings: posted by application teams, read back by user, taken back; and users erased."""

from fastapi import Request
from starlette.responses import Response

from api.problems import BODY_RESPONSES, Where, problem
from api.routing import ItemId, UserId, needs, router
from api.schemas import PostedRatings
from api.security import actor_of
from api.state import State, Turn, aside, state_of
from recsys.database.engine import reading
from recsys.database.feedback import NewRating, rate
from recsys.database.ratings import delete_rating
from recsys.database.users import erase_user
from recsys.errors import NotFoundError
from recsys.results import RateReport, UserRatings
from recsys.serving.users import read_user_ratings

routes = router("ratings")

GONE = 204


@routes.post("/ratings", response_model=RateReport, openapi_extra=needs("write"), responses=BODY_RESPONSES)
async def post_ratings(request: Request, body: PostedRatings) -> RateReport | Response:
    """Store up to 1,000 ratings. Rows that cannot be kept (an unknown item, a rating off the scale) are
    named in `errors` and the others stored; 422 if none can be.

    Posting the same ratings again changes nothing. What is acknowledged here is in the database, and the
    next list for the user is made from it.
    """
    state = state_of(request)
    rows = [NewRating(row.user_id, row.item_id, row.rating, row.rated_at_ms) for row in body.ratings]
    report = await aside(state, _rate, state, rows)
    if report.rejected == len(rows):
        errors = [Where(where=f"body.ratings.{error.index}", message=error.message) for error in report.errors]
        return problem(422, "No rating could be stored", errors[0].message, errors)
    return report


def _rate(state: State, rows: list[NewRating]) -> RateReport:
    scale = state.live.current.rating_scale or state.settings.rating_scale
    with Turn(state):
        return rate(state.engine, rows, scale, on_change=state.live.users.forget)


@routes.get("/users/{user_id}/ratings", response_model=UserRatings)
async def user_ratings(request: Request, user_id: UserId) -> UserRatings:
    """What a user has rated, the latest first."""
    state = state_of(request)
    return await aside(state, _user_ratings, state, user_id)


def _user_ratings(state: State, user_id: str) -> UserRatings:
    with reading(state.engine) as connection:
        return read_user_ratings(connection, user_id)


@routes.delete("/users/{user_id}/ratings/{item_id}", status_code=GONE, openapi_extra=needs("write"))
async def delete(request: Request, user_id: UserId, item_id: ItemId) -> Response:
    """Take a rating back. The next list for the user is made without it, and may show the item again."""
    state = state_of(request)
    await aside(state, _delete, state, user_id, item_id)
    return Response(status_code=GONE)


def _delete(state: State, user_id: str, item_id: str) -> None:
    with Turn(state):
        change = delete_rating(state.engine, user_id, item_id)
    if change is None:
        raise NotFoundError(
            f"user {user_id[:80]!r} has no rating of item {item_id[:80]!r}: there is nothing to take back"
        )
    state.live.users.forget([change.user_key], change.seq)


@routes.delete("/users/{user_id}", status_code=GONE, openapi_extra=needs("admin"))
async def erase(request: Request, user_id: UserId) -> Response:
    """Erase a user: their ratings, their rows in every stored version, and what is held in memory."""
    state = state_of(request)
    await aside(state, _erase, state, user_id, actor_of(request))
    return Response(status_code=GONE)


def _erase(state: State, user_id: str, actor: str) -> None:
    with Turn(state):
        change = erase_user(state.engine, user_id, actor=actor)
    if change is None:
        raise NotFoundError(f"there is no user {user_id[:80]!r}: nothing is stored of them")
    state.live.users.forget([change.user_key], change.seq)
