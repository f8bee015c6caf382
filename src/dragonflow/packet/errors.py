"""The one error of this package."""


class Malformed(ValueError):
    """The bytes are not the packet that they should be."""
