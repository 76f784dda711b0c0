"""The prediction API's web application: its routes."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import msgspec
import psycopg
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from psycopg_pool import ConnectionPool, PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from churn_platform.api import answers, openapi, what_if
from churn_platform.api.config import MOST_CUSTOMERS, ApiConfig
from churn_platform.api.exceptions import ProblemError
from churn_platform.api.gate import Gate, first_header
from churn_platform.api.metrics import Metrics
from churn_platform.api.models import CONNECT_SECONDS, NAME, STATEMENT_SECONDS, ModelFollower, ServedModel
from churn_platform.api.problems import json_response
from churn_platform.api.scorer import Result, Scorer, with_sentences
from churn_platform.database import customer_summary
from churn_platform.database.connections import open_pool
from churn_platform.database.customer_summary import LatestScore
from churn_platform.decoding.events import event_decoder
from churn_platform.schema.columns import MAX_WHOLE

TITLE: Final = "Churn platform"
MOST_DATABASE_CONNECTIONS: Final = 4
"""Each request for a customer needs one for a millisecond. Predictions need none."""
REFUSED: Final = "The customer was refused"
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")


class _Many(msgspec.Struct):
    """A request with many customers. Any other JSON is one customer, or is refused as one."""

    customers: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_decode_many = msgspec.json.Decoder(_Many).decode


class _Route(APIRoute):
    """A route whose endpoint takes the request and returns the response, so there is nothing to resolve for it."""

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = answer


class _App(FastAPI):
    """FastAPI with the schemas of this API, and without what takes longer than answering one customer.

    Its interactive pages are off, because they load scripts from other hosts.
    """

    def __init__(self, config: ApiConfig, **options: Any) -> None:
        super().__init__(title=TITLE, version=version("churn-platform"), docs_url=None, redoc_url=None, **options)
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request without middleware: the gate answers errors, and no endpoint has anything to close."""
        scope["app"] = self  # a router that is not part of an application answers errors itself
        await self.router(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API."""
        if self.openapi_schema is None:
            needs_token = self._config.tokens_file is not None
            document = get_openapi(title=self.title, version=self.version, routes=self.routes)
            document["components"] = openapi.components(self._config.schema, needs_token=needs_token)
            if needs_token:
                document["security"] = [{openapi.BEARER: []}]
            self.openapi_schema = document
        return self.openapi_schema


def create_app(config: ApiConfig) -> Gate:
    """Return the application.

    Args:
        config: what it needs to know.

    Raises:
        ApiError: the file of tokens cannot be read.
    """
    api = _Api(config)
    app = _App(config, lifespan=api.lifespan)
    app.router.route_class = _Route
    schema = config.schema
    app.add_api_route(
        "/v1/predictions",
        api.predict,
        methods=["POST"],
        summary="Score one customer, or many",
        openapi_extra=openapi.predictions(schema),
    )
    app.add_api_route(
        "/v1/what-if",
        api.what_if,
        methods=["POST"],
        summary="Score a customer as it is, and with changes",
        openapi_extra=openapi.what_if(schema),
    )
    app.add_api_route("/v1/model", api.model, summary="Show the model that scores", openapi_extra=openapi.model())
    app.add_api_route(
        "/v1/customers/{customer_id:path}",
        api.customer,
        summary="Show the latest score of a customer in the stream",
        openapi_extra=openapi.customer(schema),
    )
    app.add_api_route(
        "/healthz",
        api.health,
        summary="Whether the process answers",
        openapi_extra=openapi.health(),
        response_class=PlainTextResponse,
    )
    app.add_api_route(
        "/readyz",
        api.ready,
        summary="Whether a model is loaded and the database answers",
        openapi_extra=openapi.ready(),
    )
    app.add_api_route(
        "/metrics",
        api.metrics_page,
        summary="Show figures for Prometheus",
        openapi_extra=openapi.metrics(),
        response_class=PlainTextResponse,
    )
    return Gate(app, config, api.metrics)


class _Api:
    """Answers requests."""

    def __init__(self, config: ApiConfig) -> None:
        self.metrics = Metrics()
        self._config = config
        self._fields = event_decoder(config.schema).fields
        self._models = ModelFollower(config)
        self._scorer = Scorer(config)
        self._pool: ConnectionPool[psycopg.Connection] | None = None

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Follow the champion while the application runs."""
        self._pool = open_pool(
            self._config.dsn,
            application_name=NAME,
            most=MOST_DATABASE_CONNECTIONS,
            connect_seconds=CONNECT_SECONDS,
            statement_seconds=STATEMENT_SECONDS,
        )
        await run_in_threadpool(self._models.start)
        yield
        await run_in_threadpool(self._models.stop)
        self._scorer.close()
        self._pool.close()

    # Scores

    async def predict(self, request: Request) -> Response:
        """Score one customer, sent as an event of the stream, or `{"customers": [...]}`.

        A refused customer of many does not refuse the others.
        """
        explained = _wants_reasons(request)
        body = await self._body(request)
        customers = _many(body)
        if customers is None:
            return await self._predict_one(body, explained=explained, client=request.client)
        if len(customers) > MOST_CUSTOMERS:
            raise ProblemError(
                413, "Too many customers", f"The request has {len(customers)} customers, at most {MOST_CUSTOMERS}."
            )
        model = self._model()
        predictions, refusals = _divided(
            await self._score(customers, model, explained=explained, client=request.client)
        )
        return json_response(
            answers.Predictions(
                predictions,
                refusals,
                model_version=model.champion.version,
                threshold=model.champion.bundle.threshold,
                high_risk_threshold=self._config.high_risk_threshold,
            )
        )

    async def _predict_one(self, value: bytes, *, explained: bool, client: object) -> Response:
        model = self._model()
        (found,) = await self._score([value], model, explained=explained, client=client)
        if isinstance(found, answers.Refusal):
            raise ProblemError(422, REFUSED, found.reason)
        return json_response(
            answers.SinglePrediction(
                found.customer_id,
                found.risk_score,
                found.prediction,
                found.high_risk,
                found.reasons,
                model_version=model.champion.version,
                threshold=model.champion.bundle.threshold,
                high_risk_threshold=self._config.high_risk_threshold,
            )
        )

    async def what_if(self, request: Request) -> Response:
        """Score a customer as it is and with changed values. `changes` is one object (field to value) or several."""
        asked = what_if.parse(await self._body(request), fields=self._config.schema.inputs)
        model = self._model()
        base, *others = await self._score(
            [asked.customer, *asked.variants], model, explained=True, client=request.client
        )
        if isinstance(base, answers.Refusal):
            raise ProblemError(422, REFUSED, base.reason)
        if asked.is_single and isinstance(others[0], answers.Refusal):
            raise ProblemError(422, "The change was refused", others[0].reason)
        scored, refusals = _divided(others)
        return json_response(
            answers.WhatIf(
                base=_without_index(base),
                alternatives=[
                    answers.Alternative(
                        index=each.index - 1,
                        changes=asked.changes[each.index - 1],
                        risk_score=each.risk_score,
                        difference=each.risk_score - base.risk_score,
                        prediction=each.prediction,
                        high_risk=each.high_risk,
                        reasons=each.reasons or [],
                    )
                    for each in scored
                ],
                refusals=[answers.Refusal(each.index - 1, each.reason) for each in refusals],
                model_version=model.champion.version,
                threshold=model.champion.bundle.threshold,
                high_risk_threshold=self._config.high_risk_threshold,
            )
        )

    async def _score(
        self, values: Sequence[bytes], model: ServedModel, *, explained: bool, client: object
    ) -> list[Result]:
        results = await self._scorer.score(values, model, explained=explained, client=client)
        refusals = [each.reason for each in results if isinstance(each, answers.Refusal)]
        self.metrics.count_customers(scored=len(results) - len(refusals), refusals=refusals, fields=self._fields)
        return results

    def _model(self) -> ServedModel:
        """Return the model that scores now.

        Raises:
            ProblemError: there is none yet.
        """
        model = self._models.current
        if model is None:
            raise ProblemError(
                503,
                "No model",
                "No model has been loaded: none has been promoted, or it cannot be used. The log of the API says why.",
                retry_after=1,
            )
        return model

    async def _body(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            ProblemError: it is too large, or did not arrive completely.
        """
        declared = first_header(request.scope, b"content-length")
        if declared.isdigit():
            self._check_size(int(declared))
        chunks: list[bytes] = []
        size, is_complete = 0, False
        while not is_complete:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ProblemError(400, "Incomplete", "The connection ended before the end of the body.")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            self._check_size(size)
            is_complete = not message.get("more_body", False)
        return b"".join(chunks)

    def _check_size(self, size: int) -> None:
        """Check the bytes of a body.

        Raises:
            ProblemError: it is too large.
        """
        most = self._config.max_body_bytes
        if size > most:
            raise ProblemError(413, "Too large", f"The body has more than {most} bytes (API_MAX_BODY_BYTES).")

    # What is known

    async def model(self, _: Request) -> Response:
        """Return version, times, figures, thresholds and features of the model that scores."""
        model = self._model()
        bundle = model.champion.bundle
        return json_response(
            answers.Model(
                version=model.champion.version,
                trained_at=model.row.registered_at,
                promoted_at=model.row.promoted_at,
                metrics=model.row.metrics,
                threshold=bundle.threshold,
                high_risk_threshold=self._config.high_risk_threshold,
                schema=answers.SchemaName(self._config.schema.name, self._config.schema.fingerprint),
                features=bundle.schema.feature_names,
            )
        )

    async def customer(self, request: Request) -> Response:
        """Return the score of the customer's latest event in the stream, with the reasons if it is a high risk."""
        found = await run_in_threadpool(self._latest_score, request.path_params["customer_id"])
        return json_response(
            answers.Customer(
                customer_id=found.customer_id,
                event_timestamp=found.event_timestamp,
                risk_score=found.risk_score,
                prediction=found.prediction,
                high_risk=found.high_risk,
                model_version=found.model_version,
                predictions=found.predictions,
                reasons=None if found.reasons is None else with_sentences(found.reasons, self._config.schema),
            )
        )

    def _latest_score(self, text: str) -> LatestScore:
        """Return the latest score of a customer.

        Raises:
            ProblemError: there is no such customer, or the database does not answer.
        """
        customer_id = self._customer_id(text)
        if self._pool is None:
            raise RuntimeError("The application answers a request before it has started.")
        try:
            with self._pool.connection() as connection:
                found = customer_summary.latest_score(connection, customer_id)
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise ProblemError(
                503,
                "The database does not answer",
                "Scores of the stream are read from the database. Predictions are answered without it.",
                retry_after=CONNECT_SECONDS,
            ) from error
        if found is None:
            raise _no_customer("No event of this customer has been scored, or the worker has not followed it yet.")
        return found

    def _customer_id(self, text: str) -> int | str:
        """Return the id of a customer as the table has it.

        Raises:
            ProblemError: no customer can have it.
        """
        if self._config.schema.id_type != "bigint":
            if "\0" in text:
                raise _no_customer("Ids of customers do not hold U+0000.")
            return text
        if not _WHOLE.fullmatch(text) or abs(int(text)) > MAX_WHOLE:
            raise _no_customer(f"Ids of customers are whole numbers, from {-MAX_WHOLE} to {MAX_WHOLE}.")
        return int(text)

    async def health(self, _: Request) -> Response:
        """Return ok."""
        return PlainTextResponse("ok")

    async def ready(self, _: Request) -> Response:
        """Return whether a model is loaded and the database answers."""
        model = self._models.current
        database = self._models.database_answers
        state = answers.Ready(
            ready=model is not None and database,
            model_version=None if model is None else model.champion.version,
            database=database,
        )
        return json_response(state, status=HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics_page(self, _: Request) -> Response:
        """Return all figures."""
        model = self._models.current
        text = self.metrics.as_text(model_version=0 if model is None else model.champion.version)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _many(body: bytes) -> list[bytes] | None:
    """Return the customers of a request for many; None if it is a request for one, which may not be valid either."""
    try:
        customers = _decode_many(body).customers
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if isinstance(customers, msgspec.UnsetType) else [bytes(each) for each in customers]


def _wants_reasons(request: Request) -> bool:
    """Return whether reasons are wanted.

    Raises:
        ProblemError: the parameter has another value than true or false.
    """
    if not request.scope["query_string"]:
        return False
    given = request.query_params.get("reasons", "false")
    if given not in ("true", "false"):
        raise ProblemError(422, "The request is not valid", f"reasons is {given[:40]!r}: expected true or false.")
    return given == "true"


def _divided(results: Sequence[Result]) -> tuple[list[answers.IndexedPrediction], list[answers.Refusal]]:
    """Return the scores, and the refusals."""
    return (
        [each for each in results if not isinstance(each, answers.Refusal)],
        [each for each in results if isinstance(each, answers.Refusal)],
    )


def _without_index(found: answers.IndexedPrediction) -> answers.Prediction:
    return answers.Prediction(found.customer_id, found.risk_score, found.prediction, found.high_risk, found.reasons)


def _no_customer(detail: str) -> ProblemError:
    return ProblemError(404, "No such customer", detail)
