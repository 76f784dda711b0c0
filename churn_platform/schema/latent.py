"""The probability that a generated customer leaves: the model behind `Exited`. Pure; no I/O."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Log-odds of leaving by age, for a man outside Germany with one product and a balance; linear between the ages.
# Most inactive customers from 50 to 65 leave, and few active ones: the strongest interaction in the bank's data.
AGES = (22, 28, 34, 40, 45, 50, 56, 64, 72)
INACTIVE_BY_AGE = (-2.67, -2.77, -2.63, -1.77, -0.88, 0.77, 2.17, 1.83, -0.42)
ACTIVE_BY_AGE = (-3.59, -3.61, -3.33, -2.52, -1.62, -1.27, -1.14, -2.29, -4.54)

WOMAN = 0.67
GERMANY = 1.26
ONE_PRODUCT_WITHOUT_BALANCE = 0.82
TWO_PRODUCTS = -0.61
TWO_PRODUCTS_WITHOUT_BALANCE = -1.51
TWO_PRODUCTS_IN_GERMANY = -1.17
WOMAN_WITH_TWO_PRODUCTS = 0.2
THREE_PRODUCTS = 4.55
THREE_PRODUCTS_WITHOUT_BALANCE = -2.33
THREE_PRODUCTS_IN_GERMANY = -1.78
TENURE_PER_YEAR = -0.02
UNUSUAL_BALANCE = 0.08  # per 50,000 away from 115,000
POOR_CREDIT = 5.0
POOR_CREDIT_BELOW = 405  # points; the bank lost almost everybody below this score


def churn_probability(customers: pd.DataFrame) -> NDArray[np.float64]:
    """Return the probability that each customer leaves. It is 1 for customers with four products.

    Args:
        customers: n rows with CreditScore, Geography, Gender, Age, Tenure, Balance, NumOfProducts and IsActiveMember,
            no nulls.

    Returns:
        shape (n,), 0..1.

    Source: fitted by least squares to the churn of groups in the public bank file (by country, gender, products,
    activity and age, and by pairs of them), so that XGBoost has the same ROC AUC on the result as on the bank's
    customers. Rounded to two decimals.
    """
    age = customers["Age"].to_numpy(dtype=np.float64)
    active = customers["IsActiveMember"].to_numpy() == 1
    woman = customers["Gender"].to_numpy() == "Female"
    germany = customers["Geography"].to_numpy() == "Germany"
    products = customers["NumOfProducts"].to_numpy()
    balance = customers["Balance"].to_numpy(dtype=np.float64)
    empty = balance == 0
    two, three = products == 2, products == 3

    log_odds = np.where(active, np.interp(age, AGES, ACTIVE_BY_AGE), np.interp(age, AGES, INACTIVE_BY_AGE))
    log_odds += WOMAN * woman + GERMANY * germany
    log_odds += ONE_PRODUCT_WITHOUT_BALANCE * ((products == 1) & empty)
    log_odds += two * (
        TWO_PRODUCTS
        + TWO_PRODUCTS_WITHOUT_BALANCE * empty
        + TWO_PRODUCTS_IN_GERMANY * germany
        + WOMAN_WITH_TWO_PRODUCTS * woman
    )
    log_odds += three * (THREE_PRODUCTS + THREE_PRODUCTS_WITHOUT_BALANCE * empty + THREE_PRODUCTS_IN_GERMANY * germany)
    log_odds += TENURE_PER_YEAR * (customers["Tenure"].to_numpy() - 5)
    log_odds += UNUSUAL_BALANCE * np.where(empty, 0.0, np.abs(balance - 115_000) / 50_000)
    log_odds += POOR_CREDIT * (customers["CreditScore"].to_numpy() < POOR_CREDIT_BELOW)
    return np.where(products == 4, 1.0, 1 / (1 + np.exp(-log_odds)))
