"""The description of the API: its own examples work, and whatever it allows is answered as it says."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from churn_platform.api import openapi
from churn_platform.api.config import ApiConfig
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.api.running import Api
from churn_platform_tests.api.test_predictions import decoded
from churn_platform_tests.decoding.schemas import schemas
from churn_platform_tests.features.customers import SUBSCRIBERS
