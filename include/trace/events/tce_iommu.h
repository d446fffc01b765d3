/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of the IOMMU driver for POWER TCE hardware.
 */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM tce_iommu

#if !defined(_TRACE_TCE_IOMMU_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_TCE_IOMMU_H

#include <linux/iommu.h>
#include <linux/tracepoint.h>
#include <asm/iommu-tce.h>

/* The windows of a PE change hands: to the platform, or to the driver */
TRACE_EVENT(tce_owner,
	TP_PROTO(const char *dev, bool platform, int error),
	TP_ARGS(dev, platform, error),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(bool, platform)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->platform = platform;
		__entry->error = error;
	),
	TP_printk("dev=%s owner=%s error=%d", __get_str(dev),
		  __entry->platform ? "platform" : "driver", __entry->error)
);

TRACE_EVENT(tce_window_open,
	TP_PROTO(const char *dev, u32 window, u64 base, u64 tces, u32 shift,
		 u32 id, int error),
	TP_ARGS(dev, window, base, tces, shift, id, error),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(u32, window)
		__field(u64, base)
		__field(u64, tces)
		__field(u32, shift)
		__field(u32, id)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->window = window;
		__entry->base = base;
		__entry->tces = tces;
		__entry->shift = shift;
		__entry->id = id;
		__entry->error = error;
	),
	TP_printk("dev=%s window=%u base=%#llx tces=%llu shift=%u id=%#x error=%d",
		  __get_str(dev), __entry->window, __entry->base,
		  __entry->tces, __entry->shift, __entry->id, __entry->error)
);

TRACE_EVENT(tce_window_close,
	TP_PROTO(const char *dev, u32 window, int error),
	TP_ARGS(dev, window, error),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(u32, window)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->window = window;
		__entry->error = error;
	),
	TP_printk("dev=%s window=%u error=%d", __get_str(dev),
		  __entry->window, __entry->error)
);

/* A device is attached to the blocked, platform or a paging domain */
TRACE_EVENT(tce_attach,
	TP_PROTO(const char *dev, u32 domain, int error),
	TP_ARGS(dev, domain, error),
	TP_STRUCT__entry(
		__string(dev, dev)
		__field(u32, domain)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(dev);
		__entry->domain = domain;
		__entry->error = error;
	),
	TP_printk("dev=%s domain=%s error=%d", __get_str(dev),
		  __print_symbolic(__entry->domain,
				   { 0, "blocked" },
				   { 1, "platform" },
				   { 2, "paging" }),
		  __entry->error)
);

/*
 * pSeries: a hypercall is about to be made for TCEs of a window. H_PUT_TCE
 * publishes a TCE, or with 0 withdraws it.
 */
TRACE_EVENT(tce_put,
	TP_PROTO(u32 liobn, u64 ioba, u64 tce),
	TP_ARGS(liobn, ioba, tce),
	TP_STRUCT__entry(
		__field(u32, liobn)
		__field(u64, ioba)
		__field(u64, tce)
	),
	TP_fast_assign(
		__entry->liobn = liobn;
		__entry->ioba = ioba;
		__entry->tce = tce;
	),
	TP_printk("liobn=%#x ioba=%#llx tce=%#llx", __entry->liobn,
		  __entry->ioba, __entry->tce)
);

DECLARE_EVENT_CLASS(tce_run,
	TP_PROTO(u32 liobn, u64 ioba, u64 tces),
	TP_ARGS(liobn, ioba, tces),
	TP_STRUCT__entry(
		__field(u32, liobn)
		__field(u64, ioba)
		__field(u64, tces)
	),
	TP_fast_assign(
		__entry->liobn = liobn;
		__entry->ioba = ioba;
		__entry->tces = tces;
	),
	TP_printk("liobn=%#x ioba=%#llx tces=%llu", __entry->liobn,
		  __entry->ioba, __entry->tces)
);

/* H_PUT_TCE_INDIRECT publishes */
DEFINE_EVENT(tce_run, tce_put_indirect,
	TP_PROTO(u32 liobn, u64 ioba, u64 tces),
	TP_ARGS(liobn, ioba, tces)
);

/* H_STUFF_TCE withdraws */
DEFINE_EVENT(tce_run, tce_stuff,
	TP_PROTO(u32 liobn, u64 ioba, u64 tces),
	TP_ARGS(liobn, ioba, tces)
);

/* The hypervisor refused the call that this CPU has made last */
TRACE_EVENT(tce_refused,
	TP_PROTO(long code),
	TP_ARGS(code),
	TP_STRUCT__entry(
		__field(long, code)
	),
	TP_fast_assign(
		__entry->code = code;
	),
	TP_printk("code=%ld", __entry->code)
);

/*
 * PowerNV: the TCE cache is about to forget TCEs of a PE, which is told by its
 * IOMMU group, or all of them (tces=0).
 */
TRACE_EVENT(tce_kill,
	TP_PROTO(const void *table_group, u64 ioba, u64 tces),
	TP_ARGS(table_group, ioba, tces),
	TP_STRUCT__entry(
		__field(int, group)
		__field(u64, ioba)
		__field(u64, tces)
	),
	TP_fast_assign(
		const struct iommu_table_group *tg = table_group;

		__entry->group = iommu_group_id(tg->group);
		__entry->ioba = ioba;
		__entry->tces = tces;
	),
	TP_printk("group=%d ioba=%#llx tces=%llu", __entry->group,
		  __entry->ioba, __entry->tces)
);

#endif /* _TRACE_TCE_IOMMU_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
