"""The API against its own description: requests made up of it, right and wrong ones, and what is answered."""

import random

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.settings import Settings

from .market import make_pipeline, trade

EXAMPLES = 12  # of each operation; each costs some ms
NAMES = ("PEPE", "PEPE-address", "IDLE", "TWICE", "NOBODY")


def busy_app() -> HttpApp:
    pipeline = make_pipeline()
    chance = random.Random(3)
    for second in range(300):
        trade(pipeline, second, str(chance.randrange(90, 110)), str(chance.randrange(1, 9)))
    settings = Settings(rest_rate_limit="0")
    return build_http_app(pipeline, lambda: (b"x 1\n", "text/plain; version=0.0.4"), settings, pipeline)


@pytest.fixture(scope="module")
def operations() -> list[APIOperation]:
    """All that is read; what is written is judged by the tests of the intake, WebSockets by theirs."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", busy_app())
    found = [each.ok() for each in schema.get_all_operations()]
    return [each for each in found if each.method.upper() == "GET" and not each.path.startswith("/ws/")]


def exercise(operation: APIOperation, mode: GenerationMode) -> set[int]:
    """Ask what the mode makes up; the statuses of the answers, all of which are as described."""
    statuses = set()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        variant = len(str(case.query))
        # A symbol that is made up is unknown, times that are made up have no bars: such answers say little.
        for place in (case.path_parameters, case.query):
            if "symbol" in place and mode is GenerationMode.POSITIVE:
                place["symbol"] = "PEPE" if variant % 2 else NAMES[variant % len(NAMES)]
        if mode is GenerationMode.POSITIVE and variant % 2:
            for name in ("from", "to", "cursor"):
                case.query.pop(name, None)
        response = case.call()
        # Two right parameters may be wrong together, such as a beginning after the end.
        excluded = [positive_data_acceptance]
        if operation.path.startswith("/udf/"):
            excluded.append(negative_data_rejection)  # that library wants 200, and the error in the body
        case.validate_response(response, excluded_checks=excluded)
        statuses.add(response.status_code)

    check()
    return statuses


def test_answers_are_as_described(operations: list[APIOperation]) -> None:
    statuses = {each.path: exercise(each, GenerationMode.POSITIVE) for each in operations}
    never_right = {path for path, found in statuses.items() if 200 not in found}
    assert never_right == {"/api/v1/ws/token-data", "/api/v1/book/{symbol}"}  # an upgrade; nobody has a book here


def test_wrong_requests_are_refused_as_described(operations: list[APIOperation]) -> None:
    with_parameters = [each for each in operations if any(True for _ in each.iter_parameters())]
    assert len(with_parameters) >= 6
    for operation in with_parameters:
        statuses = exercise(operation, GenerationMode.NEGATIVE)
        assert statuses & {404, 422} or operation.path.startswith("/udf/"), operation.path
