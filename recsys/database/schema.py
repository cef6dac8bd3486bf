"""The tables, one definition for SQLite and PostgreSQL.

Every `…_at` is Unix milliseconds in UTC. External ids are text, kept byte for byte; keys are integers that
are never given twice. The schema is changed by migrations only (`migrations/`), and a test holds these
definitions against what the migrations build.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
)
from sqlalchemy.dialects.postgresql import JSONB

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING_CONVENTION)

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER primary keys by itself
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

users = Table(
    "users",
    metadata,
    Column("user_key", Key, primary_key=True, autoincrement=True),
    Column("user_id", Text, nullable=False, unique=True),
    Column("categories", Json, nullable=False, server_default="[]"),
    Column("attributes", Json, nullable=False, server_default="{}"),
    sqlite_autoincrement=True,
)

items = Table(
    "items",
    metadata,
    Column("item_key", Key, primary_key=True, autoincrement=True),
    Column("item_id", Text, nullable=False, unique=True),
    Column("title", Text),
    Column("categories", Json, nullable=False, server_default="[]"),
    Column("attributes", Json, nullable=False, server_default="{}"),
    Column("hidden", Boolean, nullable=False, server_default=false()),
    sqlite_autoincrement=True,
)

EXPLICIT, IMPLICIT = 0, 1
"""Kinds of feedback: a rating that says how much, and the sum of the weights of events."""

FEEDBACK_TABLES = ("ratings", "events")
"""Tables whose foreign keys of users are triggers on PostgreSQL, see migration 0012."""

ratings = Table(
    "ratings",
    metadata,
    Column("user_key", Key, ForeignKey(users.c.user_key, ondelete="CASCADE"), primary_key=True),
    # No foreign key: items are hidden, never deleted, and PostgreSQL takes 7 µs a row to check one.
    Column("item_key", Key, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False, server_default="0"),
    Column("rating", Double, nullable=False),
    Column("rated_at", BigInteger),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    # Events that came over HTTP: each is counted once, however often and in whatever order it is sent.
    Column("user_key", Key, ForeignKey(users.c.user_key, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("item_key", Key, primary_key=True, autoincrement=False),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

tombstones = Table(
    "tombstones",
    metadata,
    # Keyed hashes of an erased user (with an empty `pair_hash`), or of a pair whose rating was taken back.
    Column("user_hash", String(32), primary_key=True),
    Column("pair_hash", String(32), primary_key=True),
    Column("at", BigInteger, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

item_counts = Table(
    "item_counts",
    metadata,
    # Kept with the ratings, so that a server does not count them at its start. No foreign key, as for ratings.
    Column("item_key", Key, primary_key=True, autoincrement=False),
    Column("n_ratings", BigInteger, nullable=False),
    Column("rating_sum", Double, nullable=False),  # of the ratings that say how much
    Column("n_explicit", BigInteger, nullable=False, server_default="0"),  # of these
)

user_changes = Table(
    "user_changes",
    metadata,
    # The seq of the last change of a user's ratings: later than a version's, and the user is folded in.
    Column("user_key", Key, ForeignKey(users.c.user_key, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
)

change_counter = Table(
    "change_counter",
    metadata,
    Column("counter_key", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    CheckConstraint("counter_key = 1", name="one_row"),
)

changes = Table(
    "changes",
    metadata,
    Column("seq", Key, primary_key=True, autoincrement=False),
    Column("kind", String(8), primary_key=True),
    Column("key", BigInteger, primary_key=True, autoincrement=False, server_default="0"),
    CheckConstraint("kind IN ('user', 'item', 'all')", name="kind"),
)

models = Table(
    "models",
    metadata,
    # The twin of version n, trained without the held-out ratings, is kept for judging only: its number is −n.
    Column("number", Key, primary_key=True, autoincrement=True),
    Column("objective", String(16), nullable=False),
    Column("architecture", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("configuration", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("baselines", Json, nullable=False),
    Column("history", Json, nullable=False),
    Column("data_fingerprint", Text, nullable=False),
    Column("trained_seq", BigInteger, nullable=False),
    Column("n_users", BigInteger, nullable=False),
    Column("n_items", BigInteger, nullable=False),
    Column("n_ratings", BigInteger, nullable=False),
    Column("n_factors", Integer, nullable=False),
    Column("global_bias", Double, nullable=False),
    Column("rating_min", Double, nullable=False),
    Column("rating_max", Double, nullable=False),
    Column("weight_top", Double),  # the weight of events that maps to `rating_max`; none: trained without events
    Column("range_low", Double),
    Column("range_high", Double),
    Column("created_at", BigInteger, nullable=False),
    Column("training_seconds", Double, nullable=False),
    Column("gate_passed", Boolean, nullable=False),
    Column("gate_reason", Text, nullable=False),
    Column("checksum", String(64)),  # of the item side and the weights; none: stored by an earlier version
    Column("gate", Json, nullable=False, server_default="{}"),  # the comparison with the live version, and the slices
    Column("newest_rating_at", BigInteger),  # of all ratings that were there; none: they have no times
    Column("refit", Json),  # figures of the refit on all ratings; none: the version has not seen the held-out ratings
    CheckConstraint("objective IN ('rating', 'ranking')", name="objective"),
    CheckConstraint("status IN ('storing', 'ready')", name="status"),
    sqlite_autoincrement=True,
)

user_factors = Table(
    "user_factors",
    metadata,
    Column("number", Key, ForeignKey(models.c.number, ondelete="CASCADE"), primary_key=True),
    Column("user_key", Key, ForeignKey(users.c.user_key, ondelete="CASCADE"), primary_key=True),
    Column("bias", Float, nullable=False),
    Column("vector", LargeBinary, nullable=False),  # little-endian float32; of a twin float16, where that is finite
    # Of this row alone, so that erasing a user breaks no checksum; none: stored by an earlier version.
    Column("checksum", BigInteger),
    Index(None, "user_key"),  # erasing a user must not scan every version
)

item_factors = Table(
    "item_factors",
    metadata,
    Column("number", Key, ForeignKey(models.c.number, ondelete="CASCADE"), primary_key=True),
    Column("item_key", Key, ForeignKey(items.c.item_key, ondelete="CASCADE"), primary_key=True),
    Column("bias", Float, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("implicit", LargeBinary),  # what having the item adds to a user's row; none: nothing
)

model_weights = Table(
    "model_weights",
    metadata,
    Column("number", Key, ForeignKey(models.c.number, ondelete="CASCADE"), primary_key=True),
    Column("weights", LargeBinary, nullable=False),
)

item_weights = Table(
    "item_weights",
    metadata,
    Column("number", Key, ForeignKey(models.c.number, ondelete="CASCADE"), primary_key=True),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    # Some rows of the matrix as safetensors, in the order of the version's item keys.
    Column("weights", LargeBinary, nullable=False),
)

item_maps = Table(
    "item_maps",
    metadata,
    Column("number", Key, ForeignKey(models.c.number, ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("method", String(8), nullable=False),
    # (n_items, 2) float32 and (n_items,) int32, little-endian, in the order of the version's item keys.
    Column("xy", LargeBinary, nullable=False),
    Column("clusters", LargeBinary, nullable=False),
    Column("seconds", Double, nullable=False),
)

live_models = Table(
    "live_models",
    metadata,
    Column("objective", String(16), primary_key=True),
    Column("number", Key, ForeignKey(models.c.number), nullable=False),
)

publications = Table(
    "publications",
    metadata,
    Column("publication_key", Key, primary_key=True, autoincrement=True),
    Column("objective", String(16), nullable=False),
    Column("number", Key, nullable=False),
    Column("replaced_number", Key),
    Column("action", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("published_at", BigInteger, nullable=False),
    CheckConstraint("action IN ('publish', 'rollback')", name="action"),
    sqlite_autoincrement=True,
)

job_runs = Table(
    "job_runs",
    metadata,
    Column("run_key", Key, primary_key=True, autoincrement=True),
    Column("job", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Json, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("exit_code", Integer),
    CheckConstraint("status IN ('running', 'done', 'failed')", name="status"),
    sqlite_autoincrement=True,
)

job_steps = Table(
    "job_steps",
    metadata,
    Column("step_key", Key, primary_key=True, autoincrement=True),
    Column("run_key", Key, ForeignKey(job_runs.c.run_key, ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(16), nullable=False),
    Column("objective", String(16)),
    Column("fingerprint", Text, nullable=False),  # of the inputs
    Column("status", String(16), nullable=False),
    Column("figures", Json, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    CheckConstraint("status IN ('running', 'done', 'failed')", name="status"),
    sqlite_autoincrement=True,
)

job_leases = Table(
    "job_leases",
    metadata,
    Column("job", String(32), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("renewed_at", BigInteger, nullable=False, server_default="0"),
)

tuning_trials = Table(
    "tuning_trials",
    metadata,
    Column("trial_key", Key, primary_key=True, autoincrement=True),
    Column("study", Text, nullable=False),
    Column("objective", String(16), nullable=False),
    Column("architecture", String(16), nullable=False),
    Column("data_fingerprint", Text, nullable=False),
    Column("n_ratings", BigInteger, nullable=False),
    Column("parameters", Json, nullable=False),
    Column("metric", String(16), nullable=False),
    Column("value", Double),  # none: training diverged
    Column("seconds", Double, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    CheckConstraint("objective IN ('rating', 'ranking')", name="objective"),
    Index(None, "study"),
    sqlite_autoincrement=True,
)

tuned_configurations = Table(
    "tuned_configurations",
    metadata,
    Column("objective", String(16), primary_key=True),
    Column("architecture", String(16), primary_key=True),
    Column("study", Text, nullable=False),
    Column("parameters", Json, nullable=False),
    Column("metric", String(16), nullable=False),
    Column("value", Double, nullable=False),
    Column("default_value", Double),  # none: training with the defaults diverged
    Column("n_ratings", BigInteger, nullable=False),
    Column("tuned_at", BigInteger, nullable=False),
    CheckConstraint("objective IN ('rating', 'ranking')", name="objective"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_number", Key, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    sqlite_autoincrement=True,
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_key", Key, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),  # name of a key, or of a person on the command line
    Column("action", String(32), nullable=False),
    Column("detail", Json, nullable=False),
    # Of the entry before and of this one; none: written by an earlier version.
    Column("previous_hash", String(64)),
    Column("hash", String(64)),
    sqlite_autoincrement=True,
)

audit_head = Table(
    "audit_head",
    metadata,
    # The end of the chain of entries that have a hash, so that a missing last entry shows.
    Column("head_key", Integer, primary_key=True, autoincrement=False),
    Column("n_entries", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    CheckConstraint("head_key = 1", name="one_row"),
)

made_files = Table(
    "made_files",
    metadata,
    # Files with ids of users that jobs wrote: an erasure takes the user out of them.
    Column("machine", String(255), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("made_at", BigInteger, nullable=False),
)
