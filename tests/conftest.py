"""How tests are shared out between pytest-xdist's workers (`make test`): files stay whole, and the lab's tests together."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One lab serves all of its tests, and what a file's tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/lab" if file.startswith("tests/lab/") else file

    return ByFile(config, log)
