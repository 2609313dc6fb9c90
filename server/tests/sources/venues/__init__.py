"""Exchanges on loopback, scripted: what they send is as documented or captured, byte for byte where nothing varies.

They check what a client sends, and never import the normalisers that are tested against them.
"""

from .base import Script, Venue
from .binance import BinanceVenue
from .bybit import BybitVenue
from .coinbase import CoinbaseVenue
from .kraken import KrakenVenue
from .okx import OkxVenue

__all__ = [
    "ALL",
    "BinanceVenue",
    "BybitVenue",
    "CoinbaseVenue",
    "KrakenVenue",
    "OkxVenue",
    "Script",
    "Venue",
]

ALL: tuple[type[Venue], ...] = (BinanceVenue, CoinbaseVenue, KrakenVenue, BybitVenue, OkxVenue)
