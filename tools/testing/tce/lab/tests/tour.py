# SPDX-License-Identifier: GPL-2.0
"""The tour: everything `make run` shows, in one boot."""

from .. import steps
from ..scenario import Scenario
from . import sva

STEPS = (steps.driver_loaded, steps.drivers_bound, steps.groups, steps.windows, steps.nvme_data,
         steps.narrow_device, steps.vfio_rounds, steps.vfio_dma, steps.sysfs_types, steps.testdev_oracle,
         steps.mapping_cost, sva.copied, steps.dmesg_clean)


def tour(flavour, machine, **more):
    return Scenario("tour", flavour, machine, ("nvme", "e100", "testdev", "edu"), STEPS, **more)


SCENARIOS = [tour("modern-64k", "pseries"), tour("modern-64k", "powernv10"),
             tour("modern-debug-64k", "pseries"), tour("modern-debug-64k", "powernv10"),
             *(tour("modern-64k", machine, only_all=True) for machine in ("powernv9", "powernv11")),
             *(tour("modern-4k", machine, only_all=True) for machine in ("pseries", "powernv9", "powernv10", "powernv11"))]
