"""How tests are shared out between pytest-xdist's workers (`make test`): files stay whole, and the lab's tests together."""

from __future__ import annotations

from typing import Any

import pytest

WHOLE = ("tests/lab",)
"""Directories whose tests share one lab; those of one run one after the other."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A lab serves many tests, and what a file's tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((place for place in WHOLE if file.startswith(f"{place}/")), file)

    return ByFile(config, log)
