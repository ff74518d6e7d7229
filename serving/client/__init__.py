"""Clients of the endpoint, one that waits and one that awaits, and a client of TorchServe."""

from serving.client.asynchronous import AsyncScoringClient
from serving.client.sync import ScoringClient, TorchServeClient

__all__ = ["AsyncScoringClient", "ScoringClient", "TorchServeClient"]
