"""Ratings: store, read and delete those of users; erase users."""

from typing import Annotated

from fastapi import Query, Request, Response, status

from api.body import validated_rows
from api.problems import BODY_RESPONSES, none_stored
from api.routing import ItemId, UserId, fast_route, router
from api.schemas import PostedRating, PostedRatings, UserRatingsParams
from api.security import Eraser, RatingWriter, check_rows
from api.state import AppState, CurrentState, in_thread, state_of
from recsys.database.engine import reading
from recsys.database.feedback import NewRating
from recsys.database.posts import Post, check_post
from recsys.database.ratings import delete_rating
from recsys.database.user_states import read_user_ratings
from recsys.database.users import ErasedUser
from recsys.errors import NotFoundError
from recsys.library.erasing import erase_person
from recsys.results import EraseReport, RateReport, UserRatings

THREAD_ROWS = 100
"""Posts of more rows are checked in a thread: it takes milliseconds."""

routes = router("ratings")
posting_routes = router("ratings", fast_route("ratings:write", of_rows=True))
reading_routes = router("ratings", fast_route("ratings:read"))


@posting_routes.post("/ratings", response_model=RateReport, responses=BODY_RESPONSES)
async def post_ratings(request: Request, body: PostedRatings) -> RateReport | Response:
    """Store up to 1,000 ratings or events. Rows that cannot be stored (of a wrong type, an unknown item, a rating
    outside the configured scale) are listed in `errors`, and the others are stored; 422 if none can be.

    Posting the same ratings again changes nothing, and an event counts once for each user, item and time. Acknowledged
    rows are in the database, and the user's next list respects them.
    """
    state = state_of(request)
    is_long = len(body.ratings) > THREAD_ROWS
    post = await in_thread(state, _checked, state, body) if is_long else _checked(state, body)
    check_rows(request, {row.user_id for _, row in post.rows})
    report = await state.posts.write(post)
    if report.rejected == len(body.ratings):
        return none_stored("rating", "ratings", report.errors)
    return report


def _checked(state: AppState, body: PostedRatings) -> Post:
    posted, errors = validated_rows(PostedRating, body.ratings)
    weights = state.settings.weights_of_events
    rows = {
        index: NewRating(row.user_id, row.item_id, row.rating, row.rated_at_ms, row.weight_of(weights))
        for index, row in posted
    }
    return check_post(rows, (state.settings.rating_min, state.settings.rating_max), errors)


@reading_routes.get("/users/{user_id}/ratings", response_model=UserRatings)
async def list_ratings(request: Request, user_id: UserId, query: Annotated[UserRatingsParams, Query()]) -> UserRatings:
    """Return the ratings of a user in pages, the latest first."""
    state = state_of(request)
    return await in_thread(state, _user_ratings, state, user_id, query)


def _user_ratings(state: AppState, user_id: str, query: UserRatingsParams) -> UserRatings:
    with reading(state.engine) as connection:
        return read_user_ratings(connection, user_id, query.limit, query.cursor)


@routes.delete("/users/{user_id}/ratings/{item_id}", name="delete_rating", status_code=status.HTTP_204_NO_CONTENT)
def delete(_: RatingWriter, user_id: UserId, item_id: ItemId, state: CurrentState) -> None:
    """Delete a rating. The user's next list is made without it, and may contain the item again."""
    with state.writers:
        change = delete_rating(state.engine, user_id, item_id)
    if change is None:
        raise NotFoundError(f"user {user_id[:80]!r} has no rating of item {item_id[:80]!r}: there is nothing to delete")
    state.live.users.forget([change.user_key], change.seq)


@routes.delete("/users/{user_id}", name="erase_user")
def erase(actor: Eraser, user_id: UserId, request: Request, state: CurrentState) -> EraseReport:
    """Erase a user: their ratings, their rows in every stored version, checkpoints, files that jobs made on this
    machine, and their state in memory. The answer is a receipt, which names what is out of reach; it gives files
    without their folders and machines."""

    def forget(erased: ErasedUser) -> None:
        request.scope["user_hash"] = erased.user_hash
        state.live.users.forget([erased.user_key], erased.seq)

    return erase_person(
        state.engine,
        user_id,
        state.settings,
        actor=actor,
        is_public=True,
        slot=state.writers,
        on_erased=forget,
    )
