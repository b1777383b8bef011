"""State that several processes share: a store in Redis or Valkey behind `ports.SharedState`."""

from guardproxy.sharing.redis_state import RedisState, StateOptions
from guardproxy.sharing.sealing import Sealer

__all__ = ["RedisState", "Sealer", "StateOptions"]
