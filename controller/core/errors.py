# SPDX-License-Identifier: MIT
"""The two ways in which a call can fail on the user's side or ours.

The command line maps them to its exit codes: `InputError` is 2, `RunError` is 1.
"""


class InputError(ValueError):
    """Bad input: one sentence that says what, where and which limit."""


class RunError(RuntimeError):
    """The input was fine but the run failed: one sentence that says what happened."""
