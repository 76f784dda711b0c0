"""Synthetic customers that resemble the real bank's, made from a seed, and the CSV file that they are written to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from churn_platform.schema.defaults import MAX_ROWS
from churn_platform.schema.draws import Draws, normal_deviations, pick
from churn_platform.schema.latent import churn_probability

FIRST_CUSTOMER_ID = 15_565_701
LAST_CUSTOMER_ID = 99_999_999
CUSTOMER_ID_STRIDE = 25  # one number in 25 is a customer, as in the bank's file; more in a very large file

# Shares of the bank's 10,000 customers.
COUNTRIES = ("France", "Germany", "Spain")
COUNTRY_COUNTS = (5014, 2509, 2477)
WOMEN_SHARE = (0.451, 0.475, 0.441)  # by country
EMPTY_BALANCE_SHARE = (2418 / 5014, 0.0, 1199 / 2477)  # by country: no German account is empty
PRODUCT_COUNTS = (4179, 1990, 168, 46)  # customers with one to four products who have a balance
PRODUCT_COUNTS_WHEN_EMPTY = (905, 2600, 98, 14)
PRODUCT_AGES = (25, 35, 42, 47, 52, 57, 65, 75)  # linear between these ages
ONE_PRODUCT_SHARE = (0.645, 0.641, 0.645, 0.683, 0.709, 0.704, 0.676, 0.690)
ONE_PRODUCT_SHARE_WHEN_EMPTY = (0.160, 0.212, 0.265, 0.365, 0.475, 0.372, 0.270, 0.235)
MANY_PRODUCTS_SHARE = (0.011, 0.019, 0.046, 0.065, 0.075, 0.059, 0.052, 0.005)  # three or four
MANY_PRODUCTS_SHARE_WHEN_EMPTY = (0.018, 0.017, 0.042, 0.047, 0.075, 0.079, 0.035, 0.014)
MANY_PRODUCTS_BY_GENDER = (0.79, 1.25)  # factor for men and for women
TENURE_COUNTS = (413, 1035, 1048, 1009, 989, 1012, 967, 1028, 1025, 984, 490)  # 0 to 10 years
CARD_SHARE = 0.7055
ACTIVE_AGES = (40, 46, 52, 58, 65, 75)  # linear between these ages
ACTIVE_SHARE = (0.503, 0.454, 0.5, 0.63, 0.77, 0.89)

# Value at each standard normal quantile; linear between them.
DEVIATIONS = (-3.3, -2.9, -2.326, -1.645, -0.674, 0.0, 0.674, 1.282, 1.645, 2.326, 3.0, 3.9)
AGE_AT_DEVIATION = (18.0, 18.5, 21.4, 25.5, 32.5, 37.6, 44.6, 53.6, 60.6, 72.8, 81.0, 92.0)
CREDIT_AT_DEVIATION = (350.0, 400.0, 430.0, 488.0, 583.0, 652.0, 719.0, 779.0, 816.0, 882.0, 949.0, 1037.0)
AGE_BY_COUNTRY = (-0.6, 0.55, -0.2)  # years added, by country
BALANCE_MEAN, BALANCE_DEVIATION = 119_828.0, 30_095.0

AGE_RANGE = (18, 92)
CREDIT_RANGE = (350, 850)
UNCAPPED_CREDIT_SHARE = 0.9767
BALANCE_RANGE = (3_768.69, 250_898.09)
SALARY_RANGE = (11.58, 199_992.48)
# Files of this size or more contain the extreme values, so that min-max scaling equals that of the bank's file.
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
COLUMN_NAMES = (
    "RowNumber",
    "CustomerId",
    "Firstname",
    "Lastname",
    "CreditScore",
    "Geography",
    "Gender",
    "Age",
    "Tenure",
    "Balance",
    "NumOfProducts",
    "HasCrCard",
    "IsActiveMember",
    "EstimatedSalary",
    "Exited",
)  # in the order of data/bank/schema.toml


def generate_customers(rows: int, seed: int) -> pd.DataFrame:
    """Return customers that resemble the bank's: the same shares, ranges, missing values and causes of churn.

    The same rows and seed give the same customers on every machine.

    Args:
        rows: number of customers, 1..10,000,000.
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

    country = pick(COUNTRY_COUNTS, draws.stratified("Geography"))
    woman = draws.stratified("Gender", country) < np.take(WOMEN_SHARE, country)
    age = _ages(draws, country, known=~no_age)
    empty = draws.stratified("empty balance", country) < np.take(EMPTY_BALANCE_SHARE, country)
    products = _products(draws, age, empty=empty, woman=woman)
    active = draws.stratified("IsActiveMember", age) < np.interp(age, ACTIVE_AGES, ACTIVE_SHARE)
    customers = pd.DataFrame(
        {
            "RowNumber": np.arange(1, rows + 1),
            "CustomerId": _customer_ids(draws),
            "CreditScore": _credit_scores(draws),
            "Geography": np.array(COUNTRIES, dtype=object)[country],
            "Gender": np.where(woman, "Female", "Male").astype(object),
            "Age": age,
            "Tenure": pick(TENURE_COUNTS, draws.stratified("Tenure")),
            "Balance": _balances(draws, empty),
            "NumOfProducts": products,
            "HasCrCard": (draws.stratified("HasCrCard") < CARD_SHARE).astype(np.int64),
            "IsActiveMember": active.astype(np.int64),
            "EstimatedSalary": _salaries(draws),
        }
    )
    exited = _exited(draws, customers, sort_by=(products, country, active, woman, age))
    customers["Exited"] = exited.astype(np.int64)
    customers["Firstname"], customers["Lastname"] = _names(draws, country, woman)
    customers.loc[no_gender, "Gender"] = None
    customers.loc[no_age, "Age"] = np.nan
    return customers[list(COLUMN_NAMES)]


def write_customers(
    customers: pd.DataFrame,
    path: str | Path,
    on_rows: Callable[[int], None] = lambda _rows: None,
    *,
    rows_per_write: int = ROWS_PER_WRITE,
) -> None:
    r"""Write customers of any schema as CSV.

    Numbers have the fewest digits that read back equal, missing values are empty. UTF-8, lines end in `\n`. The
    file is written under another name and renamed when complete.

    Args:
        customers: as `generate_customers` or `read_customers` return them.
        path: the file to write; its folder is created if missing.
        on_rows: called after each part with the number of rows in it.
        rows_per_write: number of rows of a part.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            pl.DataFrame(schema=list(customers.columns)).write_csv(file)
            for start in range(0, len(customers), rows_per_write):
                part = customers.iloc[start : start + rows_per_write]
                _as_text(part).write_csv(file, include_header=False)
                on_rows(len(part))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_cents(money: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(money * 100) / 100


def _scaled(count: int, rows: int) -> int:
    """Return a count in the bank's 10,000 rows, scaled to this many rows; halves round up."""
    return (count * rows + 5_000) // 10_000


def _customer_ids(draws: Draws) -> NDArray[np.int64]:
    """Return unique numbers of eight digits: a random one of each `stride` numbers, in random order."""
    stride = min(CUSTOMER_ID_STRIDE, (LAST_CUSTOMER_ID - FIRST_CUSTOMER_ID + 1) // draws.rows)
    offset = (draws.integers("CustomerId") % np.uint64(stride)).astype(np.int64)
    return FIRST_CUSTOMER_ID + draws.permutation("order of CustomerId") * stride + offset


def _ages(draws: Draws, country: NDArray[np.int64], *, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return completed years, 18..92. In a large file the known ages include both bounds."""
    quantiles = normal_deviations(draws.stratified("Age"))
    years = np.interp(quantiles, DEVIATIONS, AGE_AT_DEVIATION) + np.take(AGE_BY_COUNTRY, country)
    return _reaching_bounds(np.clip(np.floor(years), *AGE_RANGE), AGE_RANGE, among=known)


def _credit_scores(draws: Draws) -> NDArray[np.int64]:
    """Return points, 350..850. The bank caps its scores: 2.3 % are 850."""
    low, cap = CREDIT_RANGE
    draw = draws.stratified("CreditScore")
    score = np.rint(np.interp(normal_deviations(draw), DEVIATIONS, CREDIT_AT_DEVIATION))
    return np.where(draw < UNCAPPED_CREDIT_SHARE, np.clip(score, low, cap - 1), cap).astype(np.int64)


def _products(
    draws: Draws, age: NDArray[np.float64], *, empty: NDArray[np.bool_], woman: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return 1 to 4. Two are most common with an empty account, and less common around the age of fifty."""
    by_gender = np.take(MANY_PRODUCTS_BY_GENDER, woman.astype(np.int64))
    products = np.full(draws.rows, 2, dtype=np.int64)
    for group, counts, one_share, many_share in (
        (~empty, PRODUCT_COUNTS, ONE_PRODUCT_SHARE, MANY_PRODUCTS_SHARE),
        (empty, PRODUCT_COUNTS_WHEN_EMPTY, ONE_PRODUCT_SHARE_WHEN_EMPTY, MANY_PRODUCTS_SHARE_WHEN_EMPTY),
    ):
        kind = "empty" if group is empty else "with a balance"
        size = int(group.sum())
        ones, _, threes, fours = (round(count * size / sum(counts)) for count in counts)
        many_weight = group * by_gender * np.interp(age, PRODUCT_AGES, many_share)
        many = draws.sample(f"three or four, {kind}", many_weight, count=threes + fours, sort_by=(woman, age))
        one_weight = (group & ~many) * np.interp(age, PRODUCT_AGES, one_share)
        products[draws.sample(f"one, {kind}", one_weight, count=ones, sort_by=(woman, age))] = 1
        products[many] = 3
        products[draws.sample(f"four, {kind}", many.astype(np.float64), count=fours, sort_by=(age,))] = 4
    return products


def _balances(draws: Draws, empty: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 0 where empty, else a normal distribution, truncated at the bank's smallest and largest balance."""
    low, high = (NormalDist(BALANCE_MEAN, BALANCE_DEVIATION).cdf(bound) for bound in BALANCE_RANGE)
    share = low + draws.stratified("Balance", empty) * (high - low)
    balance = _to_cents(BALANCE_MEAN + BALANCE_DEVIATION * normal_deviations(share))
    return np.where(empty, 0.0, _reaching_bounds(balance, BALANCE_RANGE, among=~empty))


def _salaries(draws: Draws) -> NDArray[np.float64]:
    low, high = SALARY_RANGE
    salary = _to_cents(low + draws.stratified("EstimatedSalary") * (high - low))
    return _reaching_bounds(salary, SALARY_RANGE, among=np.ones(draws.rows, dtype=np.bool_))


def _reaching_bounds(
    values: NDArray[np.float64], bounds: tuple[float, float], *, among: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the values; in a large file, set the minimum and maximum among some rows to the bounds. Shape (rows,)."""
    if len(values) < ROWS_THAT_REACH_BOUNDS:
        return values
    reaching = values.copy()
    rows = np.flatnonzero(among)
    reaching[rows[np.argmin(values[rows])]], reaching[rows[np.argmax(values[rows])]] = bounds
    return reaching


def _missing(
    draws: Draws, purpose: str, first: int, second: int, both: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where each of two columns is missing, from the counts in 10,000 rows. Two arrays of shape (rows,)."""
    firsts, seconds = _scaled(first, draws.rows), _scaled(second, draws.rows)
    start = firsts - min(_scaled(both, draws.rows), firsts, seconds)
    order = draws.permutation(purpose)
    no_first, no_second = np.zeros((2, draws.rows), dtype=np.bool_)
    no_first[order[:firsts]] = True
    no_second[order[start : start + seconds]] = True
    return no_first, no_second


def _exited(draws: Draws, customers: pd.DataFrame, *, sort_by: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Return who leaves: the bank's share of all, by the probabilities of the model. Shape (rows,)."""
    probability = churn_probability(customers)
    certain = probability == 1
    count = max(_scaled(EXITED, draws.rows) - int(certain.sum()), 0)
    sampled = draws.sample("Exited", np.where(certain, 0.0, probability), count=count, sort_by=sort_by)
    either: NDArray[np.bool_] = certain | sampled
    return either


def _names(
    draws: Draws, country: NDArray[np.int64], woman: NDArray[np.bool_]
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Return first and last names common in each customer's country. Two of shape (rows,), None where missing."""
    lists = np.array([[MEN[name], WOMEN[name]] for name in COUNTRIES], dtype=object)
    last_names = np.array([LAST_NAMES[name] for name in COUNTRIES], dtype=object)
    first_draw = (draws.integers("Firstname") % np.uint64(lists.shape[2])).astype(np.int64)
    last_draw = (draws.integers("Lastname") % np.uint64(last_names.shape[1])).astype(np.int64)
    first, last = lists[country, woman.astype(np.int64), first_draw], last_names[country, last_draw]
    no_first, no_last = _missing(draws, "missing names", MISSING_FIRST_NAMES, MISSING_LAST_NAMES, MISSING_BOTH_NAMES)
    first[no_first], last[no_last] = None, None
    return first, last


def _as_text(customers: pd.DataFrame) -> pl.DataFrame:
    """Return the customers with numbers in the format of the file: the fewest digits that read back equal."""
    table = pl.from_pandas(customers)
    return table.with_columns(
        pl.selectors.float().cast(pl.String).str.strip_suffix(".0"), pl.selectors.datetime().cast(pl.Date)
    )
