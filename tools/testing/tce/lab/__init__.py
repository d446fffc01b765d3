# SPDX-License-Identifier: GPL-2.0
"""The lab: from a bare source package to tests of the TCE driver in QEMU."""
