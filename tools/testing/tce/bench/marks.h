/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Marks between which the plugin in count.c counts: instructions without effect
 * that no compiler makes. Two parts of a measurement are told apart, such as
 * map and unmap.
 */
#ifndef TCE_BENCH_MARKS_H
#define TCE_BENCH_MARKS_H

/* The n of "or n,n,n". */
#define MARK_FIRST	20	/* what follows counts for the first part */
#define MARK_SECOND	21	/* what follows counts for the second part */
#define MARK_STOP	22	/* what follows does not count */
#define MARK_WRITE	23	/* the measurement is complete */

#define MARK_WORD(n)	(0x7c000378u | (n) << 21 | (n) << 16 | (n) << 11)

#ifdef __powerpc64__
#define mark(n)	({ asm volatile("or %0,%0,%0" :: "i"(n) : "memory"); })
#endif

#endif
