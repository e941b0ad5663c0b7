// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The entry stage of one bridge: attached to the ingress of its ports, by tcx
 * or clsact.  bcc compiles this file at run time (dpif_bpf/edge/loader.py),
 * once; the loader then fills in the bridge's number, the stage to go on in,
 * the constants of config.h, the maps of the generation and the program array
 * of the bridge.  These holes are 64-bit immediates with values that the
 * loader knows: OVS_HOLE_*.
 */
#include <linux/bpf.h>

#include "abi.h"

static void *(*const ovs_lookup)(void *map, const void *key) =
	(void *)BPF_FUNC_map_lookup_elem;
static long (*const ovs_tail_call)(void *ctx, void *map, __u32 index) =
	(void *)BPF_FUNC_tail_call;

#define OVS_MAP(hole)	((void *)bpf_pseudo_fd(1, hole))

/* An element whose address the loader has the kernel fill in. */
#define OVS_VALUE(hole)	((void *)bpf_pseudo_fd(2, hole))

#define OVS_PORT(port_no) \
	(&((struct ovs_ports *)OVS_VALUE(OVS_HOLE_PORTS))->p[ \
		(port_no) & (OVS_MAX_PORTS - 1)])
#define OVS_PORT_IS(port)	1

#define OVS_MAP_CPU		OVS_MAP(OVS_HOLE_CPU)
#define OVS_MAP_DEVS		OVS_MAP(OVS_HOLE_DEVS)
#define OVS_MAP_DPSTATS		OVS_MAP(OVS_HOLE_DPSTATS)
#define OVS_MAP_DROPS		OVS_MAP(OVS_HOLE_DROPS)
#define OVS_MAP_EXACT		OVS_MAP(OVS_HOLE_EXACT)
#define OVS_MAP_FLOW_STATS	OVS_MAP(OVS_HOLE_FLOW_STATS)
#define OVS_MAP_FLOWS		OVS_MAP(OVS_HOLE_FLOWS)

/*
 * Left to the compiler, they would be folded into other constants, or kept on
 * the stack from one use to the next.
 */
#define OVS_CONSTANT(hole) ({				\
	__u64 __value;					\
							\
	asm volatile("%0 = %1 ll" : "=r"(__value) : "i"(hole)); \
	__value;					\
})

#define OVS_CFG_BRIDGE		OVS_CONSTANT(OVS_HOLE_BRIDGE)
#define OVS_CFG_STAGE		OVS_CONSTANT(OVS_HOLE_STAGE)
#define OVS_CFG_SHARED_STATS	OVS_CONSTANT(OVS_HOLE_SHARED_STATS)

#define OVS_LOOKUP(map, key)	ovs_lookup(map, key)

/*
 * The index is made a variable: see ovs_stage() in drop.h.
 */
#define OVS_TAIL_CALL(ctx, index) ({				\
	__u32 __index = (index);				\
	asm volatile("" : "+r"(__index));			\
	ovs_tail_call(ctx, OVS_MAP(OVS_HOLE_PROGS), __index);	\
})

#include "entry.h"

int ovs_entry(struct ovs_ctx *ctx)
{
	return ovs_entry_run(ctx);
}
