"""Ratings: posted by application teams, read back by user."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.paths import UserId
from api.problems import Where, problem
from api.schemas import PostedRatings
from api.state import EngineOf, RecommenderOf, SettingsOf, TurnToWrite
from recsys.data.database import reading
from recsys.results import RateReport, UserRatings
from recsys.serving.feedback import NewRating, rate
from recsys.serving.users import read_user_ratings

router = APIRouter(tags=["ratings"])


@router.post("/ratings", response_model=RateReport, dependencies=[TurnToWrite])
def post_ratings(
    posted: PostedRatings, recommender: RecommenderOf, engine: EngineOf, settings: SettingsOf
) -> RateReport | JSONResponse:
    """Store up to 1,000 ratings. Rows that cannot be kept (an unknown item, a rating off the scale) are
    named in `errors` and the others stored; 422 if none can be.

    Posting the same ratings again changes nothing. What is acknowledged here is in the database, and the
    next list for the user leaves the item out.
    """
    rows = [NewRating(row.user_id, row.item_id, row.rating, row.rated_at_ms) for row in posted.ratings]
    report = rate(engine, rows, recommender.rating_scale or settings.rating_scale)
    if report.rejected == len(rows):
        errors = [Where(where=f"body.ratings.{error.index}", message=error.message) for error in report.errors]
        return problem(422, "No rating could be stored", errors[0].message, errors)
    return report


@router.get("/users/{user_id}/ratings")
def user_ratings(user_id: UserId, engine: EngineOf) -> UserRatings:
    """What a user has rated, the latest first."""
    with reading(engine) as connection:
        return read_user_ratings(connection, user_id)
