"""The audit store in a database: SQLite in a file by default, or PostgreSQL."""

from guardproxy.sinks.database.chain import ChainProblem, Head
from guardproxy.sinks.database.check import Verification
from guardproxy.sinks.database.counting import FACETS, TREND_FIELDS, Facets, Period, Trends
from guardproxy.sinks.database.erasing import Erased, Keep
from guardproxy.sinks.database.exclusions import excluded_categories, new_exclusion_id
from guardproxy.sinks.database.filters import KEYS, Filter, FilterError, parse_bound, parse_moment
from guardproxy.sinks.database.followed import FollowedStore
from guardproxy.sinks.database.keys import ChainKey, PartsCipher, StoreKeys
from guardproxy.sinks.database.queries import COUNT_BY, AuditStats, CountBy, Counts, StoredRecord
from guardproxy.sinks.database.review import ReviewStore
from guardproxy.sinks.database.same_texts import SameText
from guardproxy.sinks.database.schema import data_folder, default_store_url
from guardproxy.sinks.database.selections import CountSample
from guardproxy.sinks.database.sheet import SHEET_HEAD, sheet_row
from guardproxy.sinks.database.store import AuditStore
from guardproxy.sinks.database.text_keys import judged_hash

DATABASES = ("postgresql", "sqlite")  # the kinds of addresses of an `AuditStore`

__all__ = [
    "COUNT_BY",
    "DATABASES",
    "FACETS",
    "KEYS",
    "SHEET_HEAD",
    "TREND_FIELDS",
    "AuditStats",
    "AuditStore",
    "ChainKey",
    "ChainProblem",
    "CountBy",
    "CountSample",
    "Counts",
    "Erased",
    "Facets",
    "Filter",
    "FilterError",
    "FollowedStore",
    "Head",
    "Keep",
    "PartsCipher",
    "Period",
    "ReviewStore",
    "SameText",
    "StoreKeys",
    "StoredRecord",
    "Trends",
    "Verification",
    "data_folder",
    "default_store_url",
    "excluded_categories",
    "judged_hash",
    "new_exclusion_id",
    "open_sink",
    "parse_bound",
    "parse_moment",
    "sheet_row",
]


def open_sink(address: str | None = None, keys: StoreKeys | None = None) -> AuditStore:
    """Open the store at `sqlite:////path` or `postgresql://user:password@host/db`; by default, the embedded store.

    Raises ConfigError for any other address or a malformed key, or if the driver is not installed.
    """
    return AuditStore(address or default_store_url(), keys=keys)
