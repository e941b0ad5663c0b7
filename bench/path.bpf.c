// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Both ends of the packet path's measurement, and what it is compared with. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define BENCH_PACKETS	16384

#define BENCH_PORTS	(ETH_HLEN + 20)

/* A packet's IPv4 header, and its transport header as far as it matters. */
struct bench_packet {
	__u8 bytes[64];
};

struct bench_state {
	__u32 next;
	__u32 packets;
	__u32 hash;		/* packets have one, as NICs give it */
	__u32 size;		/* bytes of struct bench_packet that they have */
	__u32 vary;		/* each has ports of its own: 4, or 8 of TCP */
	__u32 ports;		/* the last ones */
};

#define BENCH_ARRAY(name_, entries_, type_)		\
	struct {					\
		__uint(type, BPF_MAP_TYPE_ARRAY);	\
		__uint(map_flags, BPF_F_MMAPABLE);	\
		__uint(max_entries, entries_);		\
		__type(key, __u32);			\
		__type(value, type_);			\
	} name_ SEC(".maps")

BENCH_ARRAY(bench_packets, BENCH_PACKETS, struct bench_packet);
BENCH_ARRAY(bench_state, 1, struct bench_state);

const volatile __u32 bench_target;	/* the redirect's device */

/*
 * New ports, in a transport header without a checksum; or, in one of TCP, with
 * a sequence number that takes out of the checksum what the ports put in.
 */
static __always_inline int bench_vary(struct __sk_buff *skb,
				      struct bench_state *state)
{
	__u32 words[2];

	words[0] = __builtin_bswap32(++state->ports);
	words[1] = ~words[0];
	return state->vary > sizeof(*words) ?
	       bpf_skb_store_bytes(skb, BENCH_PORTS, words, sizeof(words), 0) :
	       bpf_skb_store_bytes(skb, BENCH_PORTS, words, sizeof(*words), 0);
}

/* On the sender's egress: makes its packet the next of bench_packets. */
SEC("tc")
int bench_send(struct __sk_buff *skb)
{
	struct bench_packet *packet;
	struct bench_state *state;
	__u32 at = 0, size;

	state = bpf_map_lookup_elem(&bench_state, &at);
	if (!state)
		return TC_ACT_SHOT;
	if (!state->packets)	/* they are the generator's own */
		return TC_ACT_OK;
	at = state->next;
	state->next = at + 1 < state->packets ? at + 1 : 0;
	packet = bpf_map_lookup_elem(&bench_packets, &at);
	size = state->size;
	if (!packet || !size || size > sizeof(packet->bytes) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, packet->bytes, size, 0))
		return TC_ACT_SHOT;
	if (state->vary && bench_vary(skb, state))
		return TC_ACT_SHOT;
	if (state->hash)
		bpf_set_hash(skb, (at + 1) * 0x9e3779b1);
	return TC_ACT_OK;
}

SEC("tc")
int bench_drop(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int bench_redirect(struct __sk_buff *skb)
{
	return bpf_redirect(bench_target, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
