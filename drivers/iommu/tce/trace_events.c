// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints that trace.rs declares.
 */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include <trace/events/tce_iommu.h>
