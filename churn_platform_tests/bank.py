"""A customer of the bank, as events carry it."""

CUSTOMER = {
    "CreditScore": 640,
    "Geography": "Spain",
    "Gender": "Female",
    "Age": 41,
    "Tenure": 3,
    "Balance": 1234.5,
    "NumOfProducts": 2,
    "HasCrCard": 1,
    "IsActiveMember": 0,
    "EstimatedSalary": 90_000.25,
}
