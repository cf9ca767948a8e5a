from functools import partial

import pytest
from support.made_up_run import build


@pytest.fixture
def make_run(tmp_path):
    return partial(build, tmp_path)
