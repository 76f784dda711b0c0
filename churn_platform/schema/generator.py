"""Customers made by chance from a seed, that behave like the real bank's, and the CSV file they are written to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from churn_platform.schema.columns import COLUMN_NAMES, COLUMNS
from churn_platform.schema.defaults import MAX_ROWS
from churn_platform.schema.draws import Draws, deviations, pick
from churn_platform.schema.latent import churn_probability

FIRST_CUSTOMER_ID = 15_565_701
LAST_CUSTOMER_ID = 99_999_999
CUSTOMER_ID_STRIDE = 25  # one number in 25 is a customer, as in the bank's file; in a very large file one in fewer

# Shares of the bank's 10,000 customers.
COUNTRIES = ("France", "Germany", "Spain")
COUNTRY_COUNTS = (5014, 2509, 2477)
WOMEN_SHARE = (0.451, 0.475, 0.441)  # by country
EMPTY_BALANCE_SHARE = (2418 / 5014, 0.0, 1199 / 2477)  # by country: every German account holds money
PRODUCT_COUNTS = (4179, 1990, 168, 46)  # customers with one to four products who have a balance
PRODUCT_COUNTS_WHEN_EMPTY = (905, 2600, 98, 14)
PRODUCT_AGES = (25, 35, 42, 47, 52, 57, 65, 75)  # linear between these ages
ONE_PRODUCT_SHARE = (0.645, 0.641, 0.645, 0.683, 0.709, 0.704, 0.676, 0.690)
ONE_PRODUCT_SHARE_WHEN_EMPTY = (0.160, 0.212, 0.265, 0.365, 0.475, 0.372, 0.270, 0.235)
MANY_PRODUCTS_SHARE = (0.011, 0.019, 0.046, 0.065, 0.075, 0.059, 0.052, 0.005)  # three or four
MANY_PRODUCTS_SHARE_WHEN_EMPTY = (0.018, 0.017, 0.042, 0.047, 0.075, 0.079, 0.035, 0.014)
MANY_PRODUCTS_BY_SEX = (0.79, 1.25)  # times as often, men and women
TENURE_COUNTS = (413, 1035, 1048, 1009, 989, 1012, 967, 1028, 1025, 984, 490)  # 0 to 10 years
CARD_SHARE = 0.7055
ACTIVE_AGES = (40, 46, 52, 58, 65, 75)  # linear between these ages
ACTIVE_SHARE = (0.503, 0.454, 0.5, 0.63, 0.77, 0.89)

# Value at each number of standard deviations from the median; linear between them.
DEVIATIONS = (-3.3, -2.9, -2.326, -1.645, -0.674, 0.0, 0.674, 1.282, 1.645, 2.326, 3.0, 3.9)
AGE_AT_DEVIATION = (18.0, 18.5, 21.4, 25.5, 32.5, 37.6, 44.6, 53.6, 60.6, 72.8, 81.0, 92.0)
CREDIT_AT_DEVIATION = (350.0, 400.0, 430.0, 488.0, 583.0, 652.0, 719.0, 779.0, 816.0, 882.0, 949.0, 1037.0)
AGE_BY_COUNTRY = (-0.6, 0.55, -0.2)  # years added
BALANCE_MEAN, BALANCE_DEVIATION = 119_828.0, 30_095.0

AGE_RANGE = (18, 92)
CREDIT_RANGE = (350, 850)
UNCAPPED_CREDIT_SHARE = 0.9767
BALANCE_RANGE = (3_768.69, 250_898.09)
SALARY_RANGE = (11.58, 199_992.48)
# A file of this size or more has the extremes in it, so that min-max scaling is that of the bank's file.
ROWS_THAT_REACH_BOUNDS = 1_000

EXITED = 2037  # in 10,000 rows

# Missing values in 10,000 rows
MISSING_GENDERS = 108
MISSING_AGES = 600
MISSING_GENDERS_AND_AGES = 55
MISSING_FIRST_NAMES = 7
MISSING_LAST_NAMES = 6
MISSING_BOTH_NAMES = 3

WOMEN = {
    "France": ("Camille", "Chloe", "Elise", "Juliette", "Manon", "Margaux", "Odile", "Solene"),
    "Germany": ("Anke", "Birgit", "Frieda", "Greta", "Heike", "Johanna", "Lena", "Wiebke"),
    "Spain": ("Alba", "Carmen", "Ines", "Lucia", "Marisol", "Nuria", "Pilar", "Rocio"),
}
MEN = {
    "France": ("Antoine", "Bastien", "Etienne", "Gaspard", "Hugo", "Luc", "Mathieu", "Thierry"),
    "Germany": ("Anton", "Dieter", "Emil", "Jonas", "Karl", "Lukas", "Moritz", "Till"),
    "Spain": ("Alvaro", "Diego", "Javier", "Mateo", "Pablo", "Raul", "Sergio", "Tomas"),
}
LAST_NAMES = {
    "France": ("Bernard", "Dubois", "Fontaine", "Girard", "Lambert", "Mercier", "Moreau", "Perrin", "Roussel", "Vidal"),
    "Germany": ("Becker", "Fischer", "Hartmann", "Keller", "Lange", "Neumann", "Richter", "Schulz", "Vogel", "Winkler"),
    "Spain": ("Alonso", "Blanco", "Castro", "Delgado", "Herrera", "Molina", "Navarro", "Ortega", "Romero", "Vega"),
}

ROWS_PER_WRITE = 50_000


def generate_customers(rows: int, seed: int) -> pd.DataFrame:
    """Customers that behave like the bank's: the same shares, ranges and gaps, and leaving for the same reasons.

    The same rows and seed give the same customers on every machine.

    Args:
        rows: how many, 1..10,000,000.
        seed: 0 or more.

    Returns:
        rows x 15, columns and dtypes as `read_customers` returns them; money in whole cents.

    Raises:
        ValueError: rows or seed out of range.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"rows is {rows:,}; it must be from 1 to {MAX_ROWS:,}.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more.")
    draws = Draws(rows, seed)
    no_gender, no_age = _missing(
        draws, "missing Gender and Age", MISSING_GENDERS, MISSING_AGES, MISSING_GENDERS_AND_AGES
    )

    country = pick(COUNTRY_COUNTS, draws.even("Geography"))
    woman = draws.even("Gender", country) < np.take(WOMEN_SHARE, country)
    age = _ages(draws, country, known=~no_age)
    empty = draws.even("empty balance", country) < np.take(EMPTY_BALANCE_SHARE, country)
    products = _products(draws, age, empty=empty, woman=woman)
    active = draws.even("IsActiveMember", age) < np.interp(age, ACTIVE_AGES, ACTIVE_SHARE)
    customers = pd.DataFrame(
        {
            "RowNumber": np.arange(1, rows + 1),
            "CustomerId": _customer_ids(draws),
            "CreditScore": _credit_scores(draws),
            "Geography": np.array(COUNTRIES, dtype=object)[country],
            "Gender": np.where(woman, "Female", "Male").astype(object),
            "Age": age,
            "Tenure": pick(TENURE_COUNTS, draws.even("Tenure")),
            "Balance": _balances(draws, empty),
            "NumOfProducts": products,
            "HasCrCard": (draws.even("HasCrCard") < CARD_SHARE).astype(np.int64),
            "IsActiveMember": active.astype(np.int64),
            "EstimatedSalary": _salaries(draws),
        }
    )
    exited = _exited(draws, customers, likeness=(products, country, active, woman, age))
    customers["Exited"] = exited.astype(np.int64)
    customers["Firstname"], customers["Lastname"] = _names(draws, country, woman)
    customers.loc[no_gender, "Gender"] = None
    customers.loc[no_age, "Age"] = np.nan
    return customers[list(COLUMN_NAMES)]


def write_customers(
    customers: pd.DataFrame, path: str | Path, on_rows: Callable[[int], None] = lambda _rows: None
) -> None:
    r"""Write customers as the bank's file has them.

    Whole numbers stand without `.0`, money with at most two decimals, gaps are empty. UTF-8, lines end in `\n`. The
    file appears at once and whole: it is written beside its place and moved there.

    Args:
        customers: n x 15, as `generate_customers` or `read_customers` return them.
        path: the file to write; its folder is made when missing.
        on_rows: called after each part with the number of rows in it.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(f"{','.join(COLUMN_NAMES)}\n".encode())
            for start in range(0, len(customers), ROWS_PER_WRITE):
                part = customers.iloc[start : start + ROWS_PER_WRITE]
                _as_text(part).write_csv(file, include_header=False)
                on_rows(len(part))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_cents(money: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(money * 100) / 100


def _scaled(count: int, rows: int) -> int:
    """A count among the bank's 10,000 rows, for this many rows; halves round up."""
    return (count * rows + 5_000) // 10_000


def _customer_ids(draws: Draws) -> NDArray[np.int64]:
    """Unique numbers of eight digits: one by chance from each stretch of `stride` numbers, shuffled."""
    stride = min(CUSTOMER_ID_STRIDE, (LAST_CUSTOMER_ID - FIRST_CUSTOMER_ID + 1) // draws.rows)
    offset = (draws.integers("CustomerId") % np.uint64(stride)).astype(np.int64)
    return FIRST_CUSTOMER_ID + draws.order("order of CustomerId") * stride + offset


def _ages(draws: Draws, country: NDArray[np.int64], *, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Completed years, 18..92; a large file has both bounds among the known ages."""
    years = np.interp(deviations(draws.even("Age")), DEVIATIONS, AGE_AT_DEVIATION) + np.take(AGE_BY_COUNTRY, country)
    return _reaching_bounds(np.clip(np.floor(years), *AGE_RANGE), AGE_RANGE, among=known)


def _credit_scores(draws: Draws) -> NDArray[np.int64]:
    """Points, 350..850: the bank caps its scores, 2.3 % are at 850."""
    low, cap = CREDIT_RANGE
    draw = draws.even("CreditScore")
    score = np.rint(np.interp(deviations(draw), DEVIATIONS, CREDIT_AT_DEVIATION))
    return np.where(draw < UNCAPPED_CREDIT_SHARE, np.clip(score, low, cap - 1), cap).astype(np.int64)


def _products(
    draws: Draws, age: NDArray[np.float64], *, empty: NDArray[np.bool_], woman: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """1 to 4. Two are commonest with an empty account; around fifty fewer have two, and more have one or several."""
    by_sex = np.take(MANY_PRODUCTS_BY_SEX, woman.astype(np.int64))
    products = np.full(draws.rows, 2, dtype=np.int64)
    for group, counts, one_share, many_share in (
        (~empty, PRODUCT_COUNTS, ONE_PRODUCT_SHARE, MANY_PRODUCTS_SHARE),
        (empty, PRODUCT_COUNTS_WHEN_EMPTY, ONE_PRODUCT_SHARE_WHEN_EMPTY, MANY_PRODUCTS_SHARE_WHEN_EMPTY),
    ):
        kind = "empty" if group is empty else "with a balance"
        size = int(group.sum())
        ones, _, threes, fours = (round(count * size / sum(counts)) for count in counts)
        many_weight = group * by_sex * np.interp(age, PRODUCT_AGES, many_share)
        many = draws.drawn(f"three or four, {kind}", many_weight, count=threes + fours, likeness=(woman, age))
        one_weight = (group & ~many) * np.interp(age, PRODUCT_AGES, one_share)
        products[draws.drawn(f"one, {kind}", one_weight, count=ones, likeness=(woman, age))] = 1
        products[many] = 3
        products[draws.drawn(f"four, {kind}", many.astype(np.float64), count=fours, likeness=(age,))] = 4
    return products


def _balances(draws: Draws, empty: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Zero where empty, else normal between the bank's least and greatest balance."""
    low, high = (NormalDist(BALANCE_MEAN, BALANCE_DEVIATION).cdf(bound) for bound in BALANCE_RANGE)
    share = low + draws.even("Balance", empty) * (high - low)
    balance = _to_cents(BALANCE_MEAN + BALANCE_DEVIATION * deviations(share))
    return np.where(empty, 0.0, _reaching_bounds(balance, BALANCE_RANGE, among=~empty))


def _salaries(draws: Draws) -> NDArray[np.float64]:
    low, high = SALARY_RANGE
    salary = _to_cents(low + draws.even("EstimatedSalary") * (high - low))
    return _reaching_bounds(salary, SALARY_RANGE, among=np.ones(draws.rows, dtype=np.bool_))


def _reaching_bounds(
    values: NDArray[np.float64], bounds: tuple[float, float], *, among: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The values, of a large file the least and the greatest among some rows set to the bounds. Shape (rows,)."""
    if len(values) < ROWS_THAT_REACH_BOUNDS:
        return values
    reaching = values.copy()
    rows = np.flatnonzero(among)
    reaching[rows[np.argmin(values[rows])]], reaching[rows[np.argmax(values[rows])]] = bounds
    return reaching


def _missing(
    draws: Draws, purpose: str, first: int, second: int, both: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where each of two columns is empty, given how often either and both are in 10,000 rows. Two of shape (rows,)."""
    firsts, seconds = _scaled(first, draws.rows), _scaled(second, draws.rows)
    start = firsts - min(_scaled(both, draws.rows), firsts, seconds)
    order = draws.order(purpose)
    no_first, no_second = np.zeros((2, draws.rows), dtype=np.bool_)
    no_first[order[:firsts]] = True
    no_second[order[start : start + seconds]] = True
    return no_first, no_second


def _exited(draws: Draws, customers: pd.DataFrame, *, likeness: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Who leaves: the bank's share of all, by the probabilities of the hidden model. Shape (rows,)."""
    probability = churn_probability(customers)
    certain = probability == 1
    count = max(_scaled(EXITED, draws.rows) - int(certain.sum()), 0)
    drawn = draws.drawn("Exited", np.where(certain, 0.0, probability), count=count, likeness=likeness)
    either: NDArray[np.bool_] = certain | drawn
    return either


def _names(
    draws: Draws, country: NDArray[np.int64], woman: NDArray[np.bool_]
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """First and last names as they are given in each customer's country. Two of shape (rows,), None where missing."""
    lists = np.array([[MEN[name], WOMEN[name]] for name in COUNTRIES], dtype=object)
    last_names = np.array([LAST_NAMES[name] for name in COUNTRIES], dtype=object)
    first_draw = (draws.integers("Firstname") % np.uint64(lists.shape[2])).astype(np.int64)
    last_draw = (draws.integers("Lastname") % np.uint64(last_names.shape[1])).astype(np.int64)
    first, last = lists[country, woman.astype(np.int64), first_draw], last_names[country, last_draw]
    no_first, no_last = _missing(draws, "missing names", MISSING_FIRST_NAMES, MISSING_LAST_NAMES, MISSING_BOTH_NAMES)
    first[no_first], last[no_last] = None, None
    return first, last


def _as_text(customers: pd.DataFrame) -> pl.DataFrame:
    """The customers with their numbers as the file shows them, in the fewest digits that read back alike."""
    numbers = [column.name for column in COLUMNS if column.kind == "number"]
    table = pl.from_pandas(customers[list(COLUMN_NAMES)])
    return table.with_columns(pl.col(numbers).cast(pl.String).str.strip_suffix(".0"))
