"""The engine: guards whose model runs in this process. Importing this room does not import torch."""

from guardproxy.engine.open import open_engine

__all__ = ["open_engine"]
