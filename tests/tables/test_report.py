"""The report on a table: a complete HTML page, and what it finds."""

import html.parser

import numpy as np
import pandas
import polars
import pytest
from scipy import stats

from tf_resflow.tables import FlowDensity
from tf_resflow.tables.report import classifier_auc, distance, holm

SMALL = {"num_blocks": 1, "hidden": (8,), "max_steps": 60, "num_members": 1, "whiten": False, "random_state": 0}
VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """The elements of a page and their text. Fails if tags are not nested or URLs are external."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        ids = [element["id"] for element in self.elements if "id" in element]
        assert len(ids) == len(set(ids))
        for element in self.elements:
            assert element["tag"] not in ("script", "link", "iframe", "b")
            for name in ("src", "href", "aria-labelledby"):
                url = element.get(name, "#summary")
                assert url.startswith("data:image/png;base64,") or url.removeprefix("#") in ids, url
        assert all(element["alt"].strip() for element in self.all("img"))

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        assert "url(" not in data and "@import" not in data
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        found = [element for element in self.elements if element["tag"] == tag]
        return [element for element in found if attributes.items() <= element.items()]

    def summary(self):
        """Returns the text under each heading of the summary."""
        terms, texts = ([" ".join(part["text"].split()) for part in self.all(tag)] for tag in ("dt", "dd"))
        return dict(zip(terms, texts, strict=True))


def table(num, seed):
    """Returns rows with columns of all kinds, without dependence."""
    rng = np.random.default_rng(seed)
    columns = {
        "<b>a&b</b>": rng.normal(size=num).round(2),
        "rain $x$": np.where(rng.uniform(size=num) < 0.5, 0.0, rng.exponential(size=num)),
        "rooms": rng.integers(1, 5, num),
        "sold": pandas.Timestamp("2025-01-01") + pandas.to_timedelta(rng.integers(0, 200, num), unit="D"),
        "state": rng.choice(["poor", "good"], num),
    }
    rows = pandas.DataFrame(columns)
    rows.loc[rng.uniform(size=num) < 0.1, "rooms"] = None
    return rows


@pytest.fixture(scope="module")
def fitted():
    return FlowDensity(**SMALL, missing="condition").fit(table(400, 0))


@pytest.fixture(scope="module")
def page(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    fitted.report(table(200, 1), path, title="homes <1>")
    return Page(path)


def test_contents(page):
    """Each column has a section, in the order of the table, and its name is escaped."""
    names = [*table(1, 0)]
    assert [heading["text"] for heading in page.all("h3")][-5:] == names
    assert len(page.all("article")) == 5 and len(page.all("img")) == 1 + 2 + 5
    assert page.all("h1")[0]["text"] == page.all("title")[0]["text"] == "homes <1>"
    assert page.all("html", lang="en") and page.all("meta", name="viewport")
    assert len(page.all("caption")) == len(page.all("table")) == 2
    assert [image["alt"] for image in page.all("img") if "<b>a&b</b>. The rows" in image["alt"]]


def test_rows_like_those_of_the_fit(page):
    """There is no drift. All p-values hold with a probability of 99 %, and at most 9 of 200 rows are rare."""
    summary = page.summary()
    assert summary["Rows"] == "200 rows of the table, compared with 400 rows of the fit"
    assert summary["Columns that differ from the fit"].startswith("0 of 5 have")
    assert int(summary["Rare rows"].split()[0]) <= 9
    mean, _, stderr, *_ = summary["AUC of samples against rows of the table"].split()
    assert abs(float(mean) - 0.5) < 4 * float(stderr) < 0.3
    assert "They are not clearly less likely" in page.all("li")[-1]["text"]


def test_drift_and_rare_rows(fitted, tmp_path):
    """Only the columns that were changed are marked, and the report says what changed."""
    new = table(200, 1)
    new["rain $x$"] += np.where(new["rain $x$"] > 0, 2.0, 0.0)
    new.loc[:29, "state"] = "<i>new</i>"
    new.loc[50, "<b>a&b</b>"] = 1e4
    fitted.report(new, tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert [part["text"] for part in page.all("a")][:2] == ["rain $x$", "state"]
    assert page.summary()["Columns that differ from the fit"].startswith("2 of 5 have")
    text = " ".join(page.all("section", **{"aria-labelledby": "drift"})[0]["text"].split())
    assert "not a known level: 15 % of the values: <i>new</i> (30)" in text
    assert "1 above the largest value of the fit" in text and ": up to 1e+04" in text
    assert len(page.all("mark")) >= 4
    first, second = [part["text"] for part in page.all("th", scope="row")][5:7]
    assert (first, second) == ("0 and 29 more", "50")
    causes = [part["text"] for part in page.all("span") if " = " in part["text"]]
    assert causes[0] == "state = <i>new</i>: cannot occur" and causes[1].startswith("<b>a&b</b> = 1e+04: ")
    assert "They are less likely than held-out rows." in page.all("li")[-1]["text"]


def test_a_row_that_cannot_be_scored_is_no_error(fitted, tmp_path):
    new = table(30, 1).astype(object)
    new["sold"] = ["soon", None] * 15
    fitted.report(new, tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert page.summary()["Rows"].endswith("30 of them without a score")
    assert page.summary()["Rare rows"] == "none No row has a score."
    texts = [part["text"].replace("\N{NO-BREAK SPACE}", " ") for part in page.all("li")]
    assert "column 'sold': 15 of 30 values are not a date, such as 'soon'" in texts
    assert "not a date: 50 % of the values: soon (15)" in texts


def test_the_same_seed_gives_the_same_report(fitted, tmp_path):
    fitted.save(tmp_path / "density.npz")
    for name, density in (("a", fitted), ("b", FlowDensity.load(tmp_path / "density.npz"))):
        density.report(table(30, 1), tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def small_tables():
    x = np.random.default_rng(0).normal(size=[300, 30])
    frame = pandas.DataFrame({"x": x[:, 0], "k": ["a", "b", "c"] * 100, "t": pandas.Timestamp("2025-01-01")})
    frame["t"] += pandas.to_timedelta(np.abs(x[:, 1]), unit="D")
    frame["month"] = pandas.period_range("2020-01", periods=30, freq="M").repeat(10)
    yield "one column", x[:100, :1], x[100:101, :1], {}
    yield "ten rows", x[:10, :3], x[:10, :3], {}
    yield "equal rows", np.zeros([20, 3]), np.zeros([20, 3]), {}
    yield "many columns", x[:100], x[100:150], {"max_steps": 2}
    yield "conditions", frame, frame[:40], {"condition_columns": ["k", "t"]}
    yield "all conditions unknown", frame, frame[:40].assign(k="z"), {"condition_columns": ["k", "t"]}
    of_polars = polars.from_pandas(frame[["x", "k", "t"]])
    yield "polars", of_polars, of_polars[:40], {}
    yield "Arrow", of_polars, of_polars.to_arrow(), {}
    missing = frame.assign(x=frame["x"].where(frame["k"] != "a"))
    yield "dropped", missing, missing, {"missing": "drop"}


CASES = list(small_tables())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, rows, new, options", CASES, ids=[case[0] for case in CASES])
def test_small_and_large_tables(name, rows, new, options, tmp_path):
    density = FlowDensity(**SMALL | {"max_steps": 5} | options).fit(rows)
    density.report(new, tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert len(page.all("article")) == len(density.kinds_)
    assert (", a condition" in page.all("table")[0]["text"]) == bool(density.condition_columns)


def test_refusals(fitted, tmp_path, refused):
    rows = table(20, 1)
    refused("should end in .html", fitted.report, rows, tmp_path / "a.pdf")
    refused("cannot be written", fitted.report, rows, tmp_path / "none" / "a.html")
    refused("There are no rows of the table", fitted.report, rows[:0], tmp_path / "a.html")
    refused("feature names", fitted.report, rows.rename(columns={"rooms": "room"}), tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_distances():
    """Kolmogorov-Smirnov and total variation distances, with their p-values."""
    rng = np.random.default_rng(0)
    fit, new = rng.normal(size=200), rng.normal(0.4, size=150)
    found = distance(fit, new, True, 1000, rng)
    expected = stats.ks_2samp(fit, new, method="asymp")
    assert found.size == pytest.approx(expected.statistic) and found.p_value == pytest.approx(expected.pvalue)
    few = distance(fit.round(), new.round(), True, 1000, rng)
    assert few.size == pytest.approx(stats.ks_2samp(fit.round(), new.round()).statistic) and 0 < few.limit < 0.3
    levels = distance(np.array([0.0] * 6 + [1.0] * 2), np.array([0.0, 1.0, 2.0, np.inf]), False, 1000, rng)
    assert levels.size == pytest.approx(0.5)
    assert distance(np.zeros(9), np.zeros(4), False, 1000, rng) == (0.0, 0.0, 1.0)


def test_new_levels_and_missing_values_are_clear():
    """The share of new values has a p-value of about (100 / 500) ** 8 alone, but the distance is common."""
    rng = np.random.default_rng(0)
    fit, new = rng.integers(0, 20, 400).astype(float), rng.integers(0, 20, 100).astype(float)
    assert distance(fit, new, False, 10_000, rng).p_value > 0.01
    for value in (np.nan, np.inf):
        new[:8] = value
        assert distance(fit, new, False, 10_000, rng).p_value < 0.001


@pytest.mark.parametrize("is_ordered", [True, False])
def test_p_values_hold(is_ordered):
    """With 400 tables without drift, at most 5 % plus 4 standard errors (9.4 %) have p-values of at most 0.05."""
    rng = np.random.default_rng(0)

    def draw(num):
        return np.where(rng.uniform(size=num) < 0.1, np.nan, rng.integers(0, 6, num))

    p = [distance(draw(100), draw(40), is_ordered, 500, rng).p_value for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.094 and np.mean(np.array(p) <= 0.3) > 0.05


def test_holm():
    """The example of multiple tests in Holm (1979), with four p-values."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_classifier_auc():
    """For normal distributions at a distance d, the AUC of the best classifier is Phi(d / sqrt(2)) (1,000 rows)."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[1000, 2]) + [1.0, 0.0]
    samples = rng.normal(size=[1000, 2])
    auc = classifier_auc(rows, samples, [False, False], 0)
    best = stats.norm.cdf(1 / np.sqrt(2))
    assert best - 0.06 < auc.mean < best + 4 * auc.stderr and 0.005 < auc.stderr < 0.03
    null = classifier_auc(samples[:500], samples[500:], [False, False], 0)
    assert abs(null.mean - 0.5) < 4 * null.stderr
