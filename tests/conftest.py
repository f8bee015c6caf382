"""How tests are shared out between pytest-xdist's workers (`make test`): files stay whole, and the lab's tests together."""

from __future__ import annotations

from typing import Any

import pytest

WHOLE = ("tests/lab", "tests/chaos")
"""Directories whose tests run one after the other: they share a lab, or two labs at once are too much for two cores."""


LONG_FIRST = ("tests/chaos", "tests/lab", "tests/neutron", "tests/dataplane", "tests/store")
"""Where the files that take minutes are: begun last, one of them would be waited for alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""

    def place(item: pytest.Item) -> int:
        return next((at for at, place in enumerate(LONG_FIRST) if item.nodeid.startswith(f"{place}/")), len(LONG_FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A lab serves many tests, and what a file's tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((place for place in WHOLE if file.startswith(f"{place}/")), file)

    config.option.loadscopereorder = False  # it takes those of many tests for those of long ones
    return ByFile(config, log)
