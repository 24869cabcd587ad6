# SPDX-License-Identifier: MIT
"""Where robots are: tags seen by an overhead camera, carried on by odometry."""
