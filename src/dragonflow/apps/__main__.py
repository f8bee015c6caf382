"""``python -m dragonflow.apps`` prints ``docs/pipeline.md``."""

import sys

from dragonflow.apps import APPS
from dragonflow.pipeline.document import document

sys.stdout.write(document(APPS))
