"""The command ``dragonflow``."""
