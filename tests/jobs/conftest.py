"""Training programs are shared between the calls of jobs in one process."""

import pytest
from shared_programs import shared


@pytest.fixture(autouse=True, scope="module")
def shared_programs():
    with shared():
        yield
