// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A datapath object with the maps of the real one and stages that only tell
 * what they were given: for the tests of the loader.
 */
#include "drop.h"
#include "object.h"
#include "ct_table.h"
#include "ct_sweep.h"

const volatile __u32 cfg_verdict = 100;

/* Upcall with the packet's first 64 bytes; returns cfg_verdict + bridge. */
SEC("tc")
int ovs_rx(struct __sk_buff *skb)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_dp_stats *stats;
	struct ovs_upcall *up;
	struct ovs_pkt *pkt;

	if (!cpu)
		return -1;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return -2;
	stats = ovs_dp_stats_of(pkt->bridge);
	if (stats) {
		stats->steps[0] += 1;
		stats->missed += 1;
	}
	up = bpf_ringbuf_reserve(&ovs_upcalls, sizeof(*up) + 64, 0);
	if (!up)
		return ovs_drop(cpu, pkt, OVS_DROP_UPCALL_FULL);
	up->len = 64;
	up->bridge = pkt->bridge;
	up->key[0] = pkt->key.w[0];
	if (bpf_skb_load_bytes(skb, 0, up + 1, 64)) {
		bpf_ringbuf_discard(up, 0);
		return ovs_drop(cpu, pkt, OVS_DROP_MALFORMED);
	}
	bpf_ringbuf_submit(up, 0);
	return ovs_exit(cpu, pkt, cfg_verdict + pkt->bridge);
}

/* The packet's slot is freed, and the packet goes on to the stack. */
SEC("tc")
int ovs_inject(struct __sk_buff *skb)
{
	__u32 mark = skb->mark, index = (mark & ((1 << OVS_SLOT_BITS) - 1)) - 1;
	struct ovs_slot *slot = bpf_map_lookup_elem(&ovs_slots, &index);
	__u64 want = mark >> OVS_SLOT_BITS;
	struct ovs_port *port;

	want = want << OVS_SLOT_GEN_SHIFT | OVS_SLOT_ARMED;
	if (!slot || slot->state != want) {
		ovs_count_drop(0, OVS_DROP_SLOT);
		return TC_ACT_SHOT;
	}
	/* Tell what came: port 0 of ovs_ports is not used otherwise. */
	port = ovs_port_of(0);
	if (port) {
		port->ifindex = slot->pc;
		port->mtu = skb->len;
		port->bridge = slot->bridge;
		port->tunnel_dst = skb->gso_size;
	}
	slot->state &= ~(__u64)OVS_SLOT_ARMED;
	return TC_ACT_OK;
}

SEC("tc")
int ovs_rx_l3(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_rx_tunnel(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_act(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_act_own(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_act_ct(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_act_shared(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_ct_sweeper(struct __sk_buff *skb)
{
	return ovs_ct_start();
}

SEC("tc")
int ovs_route(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int ovs_route_own(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
