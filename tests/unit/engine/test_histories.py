"""Whatever the history, the engine holds what a fresh process would compute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutants
import pytest
from histories import SCRIPTS, History, play
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from dragonflow.controller import engine
from dragonflow.testing.oracle import Oracle

SETTINGS = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Histories hold bad rows on purpose, and say so in the log again and again."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module", autouse=True)
def _short_steps() -> Iterator[None]:
    """A settling gives way after each owner, so that news can come in between any two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "STEP", 1)
        yield


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle() as oracle:
        yield oracle


def test_engine_equals_the_oracle_after_any_history(oracle: Oracle) -> None:
    History.oracle = oracle
    run_state_machine_as_test(History, settings=SETTINGS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_engine_equals_the_oracle_after_hard_histories(oracle: Oracle, script: Callable[[History], None]) -> None:
    History.oracle = oracle
    play(script, History)


def caught(**parts: Any) -> None:
    """Play the hard histories with a broken part; the oracle must object to one at least."""
    machine = type("Mutant", (History,), parts)
    for script in SCRIPTS:
        try:
            play(script, machine)
        except (AssertionError, KeyError):
            return
    pytest.fail("the oracle found nothing wrong")


@pytest.mark.parametrize("name", mutants.ENGINES)
def test_oracle_catches_a_broken_engine(oracle: Oracle, name: str) -> None:
    caught(oracle=oracle, make_engine=staticmethod(mutants.ENGINES[name]))


@pytest.mark.parametrize("name", mutants.REPLICAS)
def test_oracle_catches_a_broken_replica(oracle: Oracle, name: str) -> None:
    caught(oracle=oracle, make_replica=staticmethod(mutants.REPLICAS[name]))


@pytest.mark.parametrize("name", mutants.APP_LISTS)
def test_oracle_catches_an_app_with_a_memory(name: str) -> None:
    """The oracle asks the same broken apps: only its fresh process tells."""
    with Oracle(f"mutants:{name}", path=str(Path(__file__).parent)) as oracle:
        caught(oracle=oracle, apps=getattr(mutants, name))
