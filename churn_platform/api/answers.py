"""What the API answers. The fields of each answer, in OpenAPI too, are those of its class."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec


class Reason(msgspec.Struct, frozen=True, gc=False):
    """What a value of the customer contributes to the score, in log-odds. `value` is null if it is unknown."""

    feature: str
    value: str | float | None
    contribution: float
    sentence: str


class Prediction(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A customer's score: the probability of churn, 0 to 1. The prediction is 1 for churn, else 0."""

    customer_id: int | str
    risk_score: float
    prediction: int
    high_risk: bool
    reasons: Sequence[Reason] | msgspec.UnsetType = msgspec.UNSET


class SinglePrediction(Prediction, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """The score of one customer, and which model and thresholds it is from."""

    model_version: int
    threshold: float
    high_risk_threshold: float


class IndexedPrediction(Prediction, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """The score of a customer of many. The index is the place in the request, from 0."""

    index: int


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a customer, or an alternative, was not scored. The index is the place in the request, from 0."""

    index: int
    reason: str


class Predictions(msgspec.Struct, frozen=True):
    """The scores of many customers. Each customer is in one of the two lists."""

    predictions: Sequence[IndexedPrediction]
    refusals: Sequence[Refusal]
    model_version: int
    threshold: float
    high_risk_threshold: float


class Alternative(msgspec.Struct, frozen=True):
    """The score with some values changed. `difference` is that to the score without changes."""

    index: int
    changes: Mapping[str, msgspec.Raw]
    risk_score: float
    difference: float
    prediction: int
    high_risk: bool
    reasons: Sequence[Reason]


class WhatIf(msgspec.Struct, frozen=True):
    """A customer's score as it is, and with changes."""

    base: Prediction
    alternatives: Sequence[Alternative]
    refusals: Sequence[Refusal]
    model_version: int
    threshold: float
    high_risk_threshold: float


class SchemaName(msgspec.Struct, frozen=True):
    """The customer schema that requests follow."""

    name: str
    fingerprint: str


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model that scores now. Figures whose names begin with oof_ are from cross-validation, others from a test."""

    version: int
    trained_at: datetime
    promoted_at: datetime | None
    metrics: Mapping[str, float | None]
    threshold: float
    high_risk_threshold: float
    schema: SchemaName
    features: Sequence[str]


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """The score of a customer's latest event in the stream. `reasons` is null if there are none."""

    customer_id: int | str
    event_timestamp: datetime
    risk_score: float
    prediction: int
    high_risk: bool
    model_version: int
    predictions: int
    reasons: Sequence[Reason] | None


class Ready(msgspec.Struct, frozen=True):
    """Whether the API can do everything. `model_version` is null before the first promotion."""

    ready: bool
    model_version: int | None
    database: bool


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a request (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
