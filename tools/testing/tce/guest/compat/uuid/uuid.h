/* SPDX-License-Identifier: GPL-2.0 */
/* The part of libuuid that the kernel's vfio selftests use, so that they need no ppc64le library. */
#ifndef TCE_COMPAT_UUID_H
#define TCE_COMPAT_UUID_H

#include <stdio.h>

typedef unsigned char uuid_t[16];

static inline int uuid_parse(const char *text, uuid_t uuid)
{
	unsigned int byte;

	for (int i = 0; i < 16; i++, text += 2) {
		if (*text == '-')
			text++;
		if (sscanf(text, "%2x", &byte) != 1)
			return -1;
		uuid[i] = byte;
	}
	return *text ? -1 : 0;
}

#endif
