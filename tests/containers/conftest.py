"""The tests of the images take minutes and gigabytes: only `make test-containers` collects them."""

from __future__ import annotations

import os

collect_ignore = [] if "CONTAINERS" in os.environ else ["test_containers.py"]
