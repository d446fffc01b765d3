# SPDX-License-Identifier: GPL-2.0
"""What the driver costs, in numbers that two runs agree on."""
