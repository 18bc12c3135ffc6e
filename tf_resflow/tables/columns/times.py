"""Columns of times, and of times that are whole days apart."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tf_resflow._internal.extras import LazyPackage
from tf_resflow.tables.columns.cells import Points
from tf_resflow.tables.columns.column import MOST_LEVELS, Column
from tf_resflow.tables.columns.grid import NO_ROUNDING, GridCells, snap
from tf_resflow.tables.columns.values import check_faults

pandas: Any = LazyPackage("pandas", "data")

_TIME = "datetime64[us]"
_DAY = np.timedelta64(1, "D")
_MICROSECONDS_A_DAY = 86_400_000_000
_NO_CYCLES = "none"


class Cycle(NamedTuple):
    """The period of a cycle in days, and the number of harmonics that describe the phase."""

    days: float
    num_harmonics: int


CYCLES = {"day": Cycle(1.0, 3), "week": Cycle(7.0, 3), "year": Cycle(365.2425, 2)}
"""The cycles that a time column can have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeColumn(Column):
    """Times in UTC, as days since the first one.

    Attributes:
      start: The first time, which has the number 0.
      resolution: Divides all times of day, in microseconds.
    """

    json_kind: ClassVar[str] = "date"
    cells_class: ClassVar[Any] = Points
    start: Any
    resolution: int = 1000

    @classmethod
    def fit(cls, series, kind, base):
        return cls(**base, **cls._fit_times(series, base["name"], "UTC"), **cls._named_cycles(base["name"], kind))

    @staticmethod
    def _fit_times(series, name, zone):
        """Returns the start and the resolution of times, after checking that all can be read."""
        times, faults = read_times(series, zone)
        check_faults(name, series, faults)
        times_of_day = np.unique((times - times.astype("M8[D]")).astype(int))
        return {"start": times.min(), "resolution": math.gcd(_MICROSECONDS_A_DAY, *times_of_day.tolist())}

    @classmethod
    def _named_cycles(cls, name, kind):
        """Returns the cycles that a kind such as "date + week" names."""
        _, *words = (word.strip() for word in kind.split("+"))
        allowed = cls._allowed_cycles()
        if words != [_NO_CYCLES] and not set(words) <= set(allowed):
            raise ValueError(
                f"Column {name!r} has the kind {kind!r}. After the +, a kind of times can name the cycles "
                f"{', '.join(allowed)}, or {_NO_CYCLES} alone, such as 'date + year'."
            )
        cycles = tuple(cycle for cycle in allowed if cycle in words)
        return {"cycles": cycles, "has_named_cycles": bool(words)}

    @classmethod
    def _allowed_cycles(cls):
        return tuple(CYCLES)

    @property
    def kind(self):
        words = self.cycles or ((_NO_CYCLES,) if self.has_named_cycles else ())
        return " + ".join([self._base_kind, *words])

    @property
    def _base_kind(self):
        return "date"

    @property
    def possible_cycles(self):
        has_times_of_day = self.resolution < _MICROSECONDS_A_DAY
        return tuple(cycle for cycle in self._allowed_cycles() if cycle != "day" or has_times_of_day)

    @property
    def most_ticks(self):
        return 2

    @property
    def _zone(self):
        """The time zone in which days are counted."""
        return "UTC"

    def to_numbers(self, series, date_format=None):
        times, faults = read_times(series, self._zone, date_format)
        return np.where(np.isnat(times), np.nan, (times - self.start) / _DAY), faults

    def to_values(self, numbers):
        midnight = self.start.astype("M8[D]").astype(_TIME)
        days = (self.start - midnight) / _DAY + numbers
        units = np.round(days * (_MICROSECONDS_A_DAY / self.resolution)).astype(int)
        times = pandas.DatetimeIndex(midnight + units * np.timedelta64(self.resolution, "us"))
        times = times.tz_localize(self._zone, ambiguous=np.ones(len(times), bool), nonexistent="shift_forward")
        return times.tz_convert(getattr(self.dtype, "tz", None))

    def is_singleton(self, series):
        """The only time of day that differs from all others is alone, unless the kind was given."""
        times, _ = read_times(series, zone_of(self.dtype))
        _, indices, counts = np.unique(times - times.astype("M8[D]"), return_inverse=True, return_counts=True)
        return (counts[indices] == 1) & (len(counts) == 2 and not self.is_given) & ~np.isnat(times)

    def description(self):
        return f"days since {str(self.start).removesuffix('T00:00:00.000000')}"

    def to_json(self):
        return super().to_json() | {"start": str(self.start)}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]):
        start = np.datetime64(description["start"]).astype(_TIME)
        cycles = tuple(description.get("cycles", ()))
        return super().from_json({**description, "start": start, "cycles": cycles})

    def tick_format(self):
        return lambda days: str(self.start + np.timedelta64(round(days), "D"))[:10]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DayColumn(TimeColumn):
    """Times that are whole days apart in their own time zone. They have cells of one day.

    Attributes:
      num: The number of days from the first to the last time.
    """

    cells_class: ClassVar[Any] = GridCells
    has_cells: ClassVar[bool] = True

    num: int

    @classmethod
    def fit(cls, series, kind, base):
        zone = zone_of(series.dtype)
        times, _ = read_times(series, zone)
        fields = cls._fit_times(series, base["name"], zone) | cls._named_cycles(base["name"], kind)
        return cls(**base, **fields, num=math.floor(np.ptp(times) / _DAY) + 1)

    @classmethod
    def _allowed_cycles(cls):
        return "week", "year"

    @property
    def _base_kind(self):
        return "day"

    @property
    def _zone(self):
        return zone_of(self.dtype)

    @property
    def cell_width(self):
        return 1

    @property
    def num_cells(self):
        return self.num

    @property
    def ends(self):
        """The first and the last day, or infinity if the days continue on both sides."""
        return (0.0, self.num - 1.0) if self.num <= MOST_LEVELS else (-math.inf, math.inf)

    def rounding_error(self) -> tuple[float, float]:
        """See `GridColumn.rounding_error`."""
        return NO_ROUNDING

    def to_numbers(self, series, date_format=None):
        days, faults = super().to_numbers(series, date_format)
        days, is_between = snap(days, *self.rounding_error())
        return days, np.where(is_between, "not a whole day", faults)

    def is_singleton(self, series):
        return np.zeros(len(series), bool)

    def to_json(self):
        return super().to_json() | {"step": self.cell_width}


def are_whole_days(series: Any) -> bool:
    """Returns whether times are whole days apart in their own time zone."""
    times, _ = read_times(series, zone_of(series.dtype))
    days = (times - times.min()) / _DAY
    return bool((days == np.floor(days)).all())


def zone_of(dtype: Any) -> Any:
    """Returns the time zone of a type, UTC if it has none."""
    return getattr(dtype, "tz", None) or "UTC"


def read_times(series: Any, zone: Any, date_format: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns times in a zone, NaT if they are missing or cannot be read, and the faults of values."""
    if series.dtype.kind in "iufcbm":
        times = pandas.Series(np.datetime64("NaT", "us"), series.index)
    else:
        times = pandas.to_datetime(series, format=date_format or "ISO8601", errors="coerce", utc=True)
        times = times.dt.tz_convert(zone).dt.tz_localize(None)
    return times.to_numpy(_TIME), np.where(times.isna() & series.notna(), "not a date", "")
