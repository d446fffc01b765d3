// SPDX-License-Identifier: GPL-2.0
/* Ends the kernel, for one that is ready to look at what is left of it. */
#include <linux/module.h>
#include <linux/panic.h>

static int __init crash_init(void)
{
	panic("as was asked for");
}
module_init(crash_init);

MODULE_DESCRIPTION("Ends the kernel");
MODULE_LICENSE("GPL");
