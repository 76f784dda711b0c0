"""Synthetic subscribers of an internet and phone service, made from a seed, as the texts of their file.

They are the second data set of the repository, described by `data/subscribers/schema.toml`. No subscriber is real.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn_platform.schema.defaults import MAX_ROWS, SUBSCRIBERS
from churn_platform.schema.draws import Draws, normal_deviations, pick

FIRST_DAY, LAST_DAY = date(2016, 1, 1), date(2026, 9, 30)
CHURNED: Final = 0.19  # of all subscribers

PLANS: Final = ("Basic", "Standard", "Premium", "Family", "Legacy 2009")
PLAN_COUNTS: Final = (34, 36, 17, 11, 2)
PLAN_CHARGES: Final = (24.0, 44.0, 74.0, 62.0, 31.0)  # euros a month, before options and discounts
CONTRACTS: Final = ("Monthly", "One year", "Two years")
CONTRACT_COUNTS: Final = (52, 27, 21)
PAYMENTS: Final = ("Card", "Direct debit", "Invoice", "Wallet")
PAYMENT_COUNTS: Final = (30, 39, 21, 10)
CONNECTIONS: Final = ("Cable", "DSL", "Fibre")
CONNECTION_COUNTS: Final = (33, 27, 40)
REGIONS: Final = ("Centre", "East", "North", "South", "West")
REGION_COUNTS: Final = (18, 14, 22, 26, 20)
OPTION_CHARGE: Final = 5.5  # euros a month, for each option

# Shares of rows without the value.
NO_REGION, NO_PAYMENT, NO_CONNECTION, NO_USAGE, NO_CONTACT, NO_DEVICES = 0.008, 0.05, 0.03, 0.06, 0.24, 0.02

# Log-odds of cancelling. They were chosen so that XGBoost reaches a ROC AUC of about 0.84 on the test split.
MONTHLY, TWO_YEARS = 1.9, -1.9
FIRST_YEAR = 1.5  # falls to 0 within four years
SUPPORT_CALL, OUTAGE_HOUR = 0.62, 0.06
NO_SECURITY, NO_SUPPORT = 0.45, 0.4
INVOICE, FIBRE = 0.55, 0.35
EURO_ABOVE_50 = 0.017
PERCENT_DISCOUNT = -0.035
HEAVY_ON_BASIC = 0.9


def generate_subscribers(rows: int = SUBSCRIBERS.rows, seed: int = SUBSCRIBERS.seed) -> pd.DataFrame:
    """Return subscribers as the texts of their file. The same rows and seed give the same texts on every machine.

    Args:
        rows: number of subscribers, 1..10,000,000.
        seed: 0 or more.

    Returns:
        rows x 22, the columns of `data/subscribers/schema.toml` in its order, as texts; None where a value is missing.

    Raises:
        ValueError: rows or seed out of range.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"rows is {rows:,}; it must be from 1 to {MAX_ROWS:,}.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more.")
    draws = Draws(rows, seed)
    contract = pick(CONTRACT_COUNTS, draws.stratified("Contract"))
    plan = pick(PLAN_COUNTS, draws.stratified("Plan", contract))
    payment = pick(PAYMENT_COUNTS, draws.stratified("Payment method"))
    connection = pick(CONNECTION_COUNTS, draws.stratified("Internet"))
    days = _signup_days(draws)
    streaming, security, support = (
        draws.stratified(name, connection) < share
        for name, share in (("Streaming", 0.42), ("OnlineSecurity", 0.38), ("TechSupport", 0.33))
    )
    phone = draws.stratified("PhoneService") < 0.86
    paperless = draws.stratified("PaperlessBilling", payment) < 0.61
    calls = _counts(draws, "SupportCalls", mean=1.4)
    outages = _counts(draws, "Outages", mean=6.0, spread=1.1)
    usage = np.rint(np.exp(4.6 + 0.45 * (plan >= 2) + 0.9 * normal_deviations(draws.stratified("DataUsage"))) * 10) / 10
    devices = np.clip(1 + _counts(draws, "Devices", mean=3.2), 1, 40)
    discount = np.where(
        draws.stratified("Discount", plan) < 0.18,
        5.0 * (1 + pick((3, 2, 1), draws.stratified("size of Discount"))),
        0.0,
    )
    options = streaming.astype(int) + security.astype(int) + support.astype(int)
    charge = np.rint(
        (np.take(PLAN_CHARGES, plan) + OPTION_CHARGE * options + 9.0 * phone)
        * (1 - discount / 100)
        * (1 + 0.06 * normal_deviations(draws.stratified("MonthlyCharge")))
        * 100
    )
    age = (LAST_DAY - FIRST_DAY).days - days  # of the contract, in days
    total = np.rint(charge * (age // 30) * 0.97)
    log_odds = (
        MONTHLY * (contract == 0)
        + TWO_YEARS * (contract == 2)
        + FIRST_YEAR * np.clip(1 - age / 1_460, 0, 1)
        + SUPPORT_CALL * calls
        + OUTAGE_HOUR * outages
        + NO_SECURITY * ~security
        + NO_SUPPORT * ~support
        + INVOICE * (payment == 2)
        + FIBRE * (connection == 2)
        + EURO_ABOVE_50 * (charge / 100 - 50)
        + PERCENT_DISCOUNT * discount
        + HEAVY_ON_BASIC * ((plan == 0) & (usage > 250))
    )
    churned = _churned(draws, log_odds, sort_by=(contract, calls, plan, age))
    contact = days + (draws.integers("LastContact") % (age + 1).astype(np.uint64)).astype(np.int64)
    texts: dict[str, NDArray[Any]] = {
        "SubscriberId": _texts(f"S-{number:06d}" for number in 100_000 + draws.permutation("SubscriberId") * 3),
        "SignupDate": _dates(days),
        "LastContact": _blank(_dates(contact), draws, NO_CONTACT, "LastContact"),
        "Plan": np.array(PLANS, object)[plan],
        "Contract": np.array(CONTRACTS, object)[contract],
        "Payment method": _blank(np.array(PAYMENTS, object)[payment], draws, NO_PAYMENT, "Payment method"),
        "Internet": _blank(np.array(CONNECTIONS, object)[connection], draws, NO_CONNECTION, "Internet"),
        "Region": _blank(
            np.array(REGIONS, object)[pick(REGION_COUNTS, draws.stratified("Region"))], draws, NO_REGION, "Region"
        ),
        "PaperlessBilling": _yes_or_no(paperless),
        "PhoneService": _yes_or_no(phone),
        "OnlineSecurity": _yes_or_no(security),
        "TechSupport": _yes_or_no(support),
        "Streaming": _yes_or_no(streaming),
        "Devices": _blank(_texts(map(str, devices.tolist())), draws, NO_DEVICES, "Devices"),
        "SupportCalls": _texts(map(str, calls.tolist())),
        "Outages": _texts(map(str, outages.tolist())),
        "DataUsage": _blank(_texts(f"{value:.1f}" for value in usage.tolist()), draws, NO_USAGE, "DataUsage"),
        "MonthlyCharge": _cents(charge),
        "TotalCharges": _masked(_cents(total), age < 30),
        "Discount": _texts(f"{value:g}" if value else None for value in discount.tolist()),
        "Notes": np.full(rows, None, object),
        "Churn": _yes_or_no(churned),
    }
    return pd.DataFrame(texts)


def _signup_days(draws: Draws) -> NDArray[np.int64]:
    """Return days since FIRST_DAY: more subscribers are new than old."""
    share = np.sqrt(draws.stratified("SignupDate"))
    days: NDArray[np.int64] = np.floor(share * ((LAST_DAY - FIRST_DAY).days + 1)).astype(np.int64)
    return days


def _counts(draws: Draws, purpose: str, *, mean: float, spread: float = 0.9) -> NDArray[np.int64]:
    """Return whole numbers from 0 with a long tail."""
    deviations = normal_deviations(draws.stratified(purpose))
    values: NDArray[np.int64] = np.floor(mean * np.exp(spread * deviations - spread**2 / 2)).astype(np.int64)
    return values


def _churned(draws: Draws, log_odds: NDArray[np.float64], *, sort_by: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Return who cancels: CHURNED of all, each with a probability that the log-odds give. Shape (rows,)."""
    low, high = -20.0, 20.0
    for _ in range(60):  # the intercept with which the probabilities have the wanted mean
        middle = (low + high) / 2
        if float(np.mean(1 / (1 + np.exp(-(log_odds + middle))))) < CHURNED:
            low = middle
        else:
            high = middle
    probability = np.round(1 / (1 + np.exp(-(log_odds + low))), 4)
    return draws.sample("Churn", probability, count=round(CHURNED * draws.rows), sort_by=sort_by)


def _texts(values: Iterable[str | None]) -> NDArray[np.object_]:
    return np.array(list(values), object)


def _dates(days: NDArray[np.int64]) -> NDArray[np.object_]:
    return _texts(np.datetime_as_string(np.datetime64(FIRST_DAY, "D") + days, unit="D").tolist())


def _cents(cents: NDArray[np.float64]) -> NDArray[np.object_]:
    return _texts(f"{value / 100:.2f}" for value in cents.tolist())


def _yes_or_no(values: NDArray[np.bool_]) -> NDArray[np.object_]:
    return np.where(values, "Yes", "No").astype(object)


def _blank(values: NDArray[np.object_], draws: Draws, share: float, column: str) -> NDArray[np.object_]:
    """Return the values, a random share of them None."""
    return _masked(values, draws.stratified(f"no {column}") < share)


def _masked(values: NDArray[np.object_], missing: NDArray[np.bool_]) -> NDArray[np.object_]:
    masked = values.copy()
    masked[missing] = None
    return masked
