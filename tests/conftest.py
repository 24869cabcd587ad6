# SPDX-License-Identifier: MIT
"""Settings of all tests: in CI, hypothesis tries the same examples each time.

A change is then judged by itself, not by what is found by luck; people's runs go on exploring. No
example fails for the time that it takes: how busy the machine is, is not the code's doing.
"""

import os

from hypothesis import settings

settings.register_profile("ours", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "ours")
