/* SPDX-License-Identifier: GPL-2.0 */
/* The part of libcap that the kernel's iommufd selftest uses, so that it needs no ppc64le library. */
#ifndef TCE_COMPAT_CAPABILITY_H
#define TCE_COMPAT_CAPABILITY_H

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/capability.h>

typedef struct __user_cap_data_struct *cap_t;
typedef int cap_value_t;
typedef enum { CAP_EFFECTIVE } cap_flag_t;
typedef enum { CAP_CLEAR, CAP_SET } cap_flag_value_t;

static inline cap_t cap_get_proc(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	cap_t caps = calloc(_LINUX_CAPABILITY_U32S_3, sizeof(*caps));

	if (caps)
		syscall(SYS_capget, &header, caps);
	return caps;
}

static inline int cap_set_flag(cap_t caps, cap_flag_t flag, int count, const cap_value_t *list, cap_flag_value_t value)
{
	while (count--) {
		__u32 *word = &caps[CAP_TO_INDEX(list[count])].effective;

		*word = value == CAP_SET ? *word | CAP_TO_MASK(list[count]) : *word & ~CAP_TO_MASK(list[count]);
	}
	return 0;
}

static inline int cap_set_proc(cap_t caps)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return syscall(SYS_capset, &header, caps);
}

static inline int cap_free(void *caps)
{
	free(caps);
	return 0;
}

#endif
