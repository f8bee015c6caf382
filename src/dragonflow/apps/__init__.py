"""The features, in the order in which they render: those that place ports stand before those that read places."""

from dragonflow.apps.base import App

APPS: tuple[App, ...] = ()

__all__ = ["APPS", "App"]
