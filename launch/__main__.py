# SPDX-License-Identifier: MIT
"""`python -m kofn.launch` is `kofn`."""

from kofn.launch.entry import main

main()
