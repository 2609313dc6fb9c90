"""The application over a market of its own."""

import pytest

from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings

from .market import make_pipeline


@pytest.fixture
def pipeline() -> Pipeline:
    return make_pipeline()


@pytest.fixture
def app(pipeline: Pipeline) -> HttpApp:
    return build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(), pipeline)
