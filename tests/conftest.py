# SPDX-License-Identifier: MIT
"""Settings of all tests: in CI, hypothesis tries the same examples each time.

A change is then judged by itself, not by what is found by luck; people's runs go on exploring.
"""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
