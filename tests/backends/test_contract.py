"""The backends that we ship, in the suite of promises; HTTP over a real socket."""

import contextlib

import pytest
from tests.backends.contract import *  # noqa: F403 - the tests themselves

from hdev_memory.backends.base import Secret, Where
from hdev_memory.backends.ephemeral import EphemeralBackend
from hdev_memory.backends.filesystem import FilesystemBackend
from hdev_memory.backends.http import HttpBackend
from hdev_memory.server.app import create_app
from hdev_memory.server.run import serve_in_thread


@contextlib.contextmanager
def over_http(backend):
    app = create_app(backend, store_id="contract", api_key=Secret("contract-key"))
    with (
        serve_in_thread(app) as url,
        HttpBackend(Where("http", url, Secret("contract-key"))) as client,
    ):
        yield client


@pytest.fixture(params=["ephemeral", "filesystem", "http-ephemeral", "http-filesystem"])
def backend(request, tmp_path):
    inner = (
        EphemeralBackend()
        if "ephemeral" in request.param
        else FilesystemBackend(str(tmp_path), must_exist=True)
    )
    with inner:
        if request.param.startswith("http"):
            with over_http(inner) as client:
                yield client
        else:
            yield inner
