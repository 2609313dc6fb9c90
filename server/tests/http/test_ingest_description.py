"""Posting against its own description: bodies made up of it, right and wrong ones, and what is answered."""

from collections.abc import Sequence

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tokenwire_server.gateway.http import build_http_app
from tokenwire_server.intake import Intake
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings

NOW_MS = 1_774_089_000_000
TOKEN = "a-secret"


class Forgetful:
    """A ledger that says yes to everything."""

    def check(self) -> None: ...

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        return set()

    async def settled(self) -> None: ...


@pytest.mark.parametrize(
    ("mode", "expected"), [(GenerationMode.POSITIVE, {200, 422}), (GenerationMode.NEGATIVE, {400, 415, 422})]
)
@pytest.mark.parametrize("path", ["/api/v1/trades", "/internal/trades"])
def test_answers_are_as_described(path: str, mode: GenerationMode, expected: set[int]) -> None:
    pipeline = Pipeline(1_000, lambda: 0, lambda: NOW_MS)
    chosen = Settings(rest_rate_limit="0", ingest_token=TOKEN)  # type: ignore[arg-type]
    app = build_http_app(pipeline, lambda: (b"", ""), chosen, pipeline, Intake(pipeline, Forgetful(), "posted"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses = set()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        response = case.call(headers={"authorization": f"Bearer {TOKEN}"})
        # A trade of the right form can be wrong, such as one with a price of 0, and one that is wrong among others does
        # not spoil the answer.
        case.validate_response(response, excluded_checks=[positive_data_acceptance, negative_data_rejection])
        statuses.add(response.status_code)

    check()
    assert statuses & expected
    assert not statuses & {401, 403, 500, 503}
