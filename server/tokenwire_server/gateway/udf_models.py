"""What TradingView's charting library is answered with, for the description of the API."""

from typing import Literal

from pydantic import BaseModel, Field

__all__ = ["UdfConfig", "UdfError", "UdfFound", "UdfHistory", "UdfNoData", "UdfSymbol"]


class UdfError(BaseModel):
    """What went wrong."""

    s: Literal["error"]
    errmsg: str


class UdfConfig(BaseModel):
    """What there is."""

    supported_resolutions: list[str] = Field(examples=[["1S", "1", "5", "15", "60"]])
    supports_search: bool
    supports_group_request: bool
    supports_marks: bool
    supports_timescale_marks: bool
    supports_time: bool
    exchanges: list[dict[str, str]]
    symbols_types: list[dict[str, str]]


class UdfSymbol(BaseModel):
    """One token."""

    name: str = Field(examples=["DOGE"])
    ticker: str = Field(description="its address: the name to ask with")
    description: str
    type: str
    session: str
    timezone: str
    exchange: str = Field(description="its source")
    listed_exchange: str
    format: str
    minmov: int
    pricescale: int = Field(description="10 to the number of digits that are shown", examples=[1000000])
    has_intraday: bool
    has_seconds: bool
    has_daily: bool
    has_weekly_and_monthly: bool
    seconds_multipliers: list[str]
    intraday_multipliers: list[str]
    daily_multipliers: list[str]
    weekly_multipliers: list[str]
    supported_resolutions: list[str]
    volume_precision: int
    data_status: str


class UdfFound(BaseModel):
    """One token of a search."""

    symbol: str = Field(examples=["DOGE"])
    full_name: str
    description: str
    exchange: str
    ticker: str
    type: str


class UdfHistory(BaseModel):
    """Bars, as columns."""

    s: Literal["ok"]
    t: list[int] = Field(description="beginnings, Unix time in s", examples=[[1774089000]])
    o: list[float] = Field(examples=[[0.172801]])
    h: list[float] = Field(examples=[[0.172839]])
    l: list[float] = Field(examples=[[0.172801]])  # noqa: E741 - the library's name
    c: list[float] = Field(examples=[[0.172839]])
    v: list[float] = Field(examples=[[28461.5]])


class UdfNoData(BaseModel):
    """No bars in this range."""

    s: Literal["no_data"]
    nextTime: int | None = Field(None, description="where the newest bar before it begins; absent: there is none")  # noqa: N815
