/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * SCTP ports.  The checksum is a CRC over the whole packet, but a linear one:
 * of two packets that differ in their first four bytes, the checksums differ
 * by the CRC of that difference, alone in front of zeros.  So it takes no
 * look at the payload, and a checksum that was wrong stays as wrong, as with
 * the kernel datapath.
 *
 * CRC registers are polynomials over GF(2) modulo Castagnoli's: bit 31 is
 * the coefficient of x^0, bit 0 that of x^31, and one byte of zeros more is
 * a multiplication by x^8.
 */
#ifndef OVS_ACT_SCTP_H
#define OVS_ACT_SCTP_H

#include "act_room.h"
#include "act_set.h"
#include "parse_ip.h"

#define OVS_CRC32C_POLY		0x82f63b78
#define OVS_CRC32C_BITS		4	/* of a length, for each row */
#define OVS_SCTP_SIZE		12	/* of the header */

/* [i][n]: x to the power of 8 * (n << 4 * i), n << 4 * i bytes of zeros. */
static const __u32 ovs_crc32c_zeros[4][1 << OVS_CRC32C_BITS] = {
	{
		0x80000000, 0x00800000, 0x00008000, 0x00000080,
		0x82f63b78, 0xfbc3faf9, 0x8b277743, 0x52a0c93f,
		0x6ea2d55c, 0x1c08b7d6, 0xf56e0ef4, 0x34019664,
		0xa66805eb, 0x7a1f6b24, 0xe75d06aa, 0xc94ec098,
	},
	{
		0x80000000, 0x18b8ea18, 0x510ac59a, 0xb2dea967,
		0xb82be955, 0x36c41f1c, 0x19b29a35, 0xc9e90b9e,
		0xb8fdb1e7, 0xe55ef1f3, 0x1fe0b5c3, 0xe0553f1e,
		0x18e4a304, 0x2b830011, 0x56993a31, 0x0246e2e6,
	},
	{
		0x80000000, 0x88e56f72, 0x74c360a4, 0x631bb273,
		0xe4172b16, 0x71892b1b, 0x835305c9, 0x196b1eae,
		0x0d65762a, 0xafc81338, 0xb5a50ab7, 0xf373c3ac,
		0x5f60970f, 0xd46d3063, 0x3a5275ea, 0x02331c01,
	},
	{
		0x80000000, 0x35d73a62, 0x28461564, 0x43eefc9f,
		0xbf455269, 0x5edcdeb9, 0x65059450, 0x4e6f41a4,
		0xe2ea32dc, 0xf5b95b32, 0x695a4c87, 0xf204502c,
		0x9a4f01b6, 0x941a0916, 0x4303cb97, 0x4c3d3d65,
	},
};

/*
 * The product of two polynomials.  Bits are multiplied, not made masks, and
 * hidden from clang: of masks the verifier of 6.18 follows both values, and
 * clang makes branches ("BPF program is too large").
 */
static __always_inline __u32 ovs_crc32c_mul(__u32 a, __u32 b)
{
	__u32 product = 0, bit, low;
	int i;

#pragma unroll
	for (i = 31; i >= 0; i--) {
		bit = a >> i & 1;
		low = b & 1;
		barrier_var(bit);
		barrier_var(low);
		product ^= b * bit;
		b = b >> 1 ^ OVS_CRC32C_POLY * low;
	}
	return product;
}

/* By what the CRC of `len` bytes changes when `diff` is added to the first. */
__noinline __u32 ovs_crc32c_diff(__u32 diff, __u32 len)
{
	int i;

	for (i = 0; i < 4; i++) {
		__u32 n = len >> i * OVS_CRC32C_BITS &
			  ((1 << OVS_CRC32C_BITS) - 1);

		if (n)
			diff = ovs_crc32c_mul(diff, ovs_crc32c_zeros[i][n]);
	}
	return diff;
}

/*
 * Bytes from the SCTP header at `off` to the end of the packet, without what
 * fills a short frame up; all, where the IP header has no such length.
 */
static __always_inline __u32 ovs_sctp_len(struct ovs_ctx *ctx,
					  const struct ovs_pkt *pkt, __u32 off)
{
	__u32 end = pkt->l3_off, len = ctx_len(ctx);
	__be16 ip[3];

	if (ctx_load(ctx, end, ip, sizeof(ip)))
		return len - off;
	if ((*(__u8 *)ip & 0xf0) == 0x60)
		end += sizeof(struct ipv6hdr) + bpf_ntohs(ip[2]);
	else
		end += bpf_ntohs(ip[1]);
	return end < off + SCTP_HLEN || end > len ? len - off : end - off;
}

/* Give a packet of SCTP new ports. */
static __always_inline int ovs_put_sctp(struct ovs_ctx *ctx,
					struct ovs_pkt *pkt, __u32 *sctp,
					__u32 new)
{
	__u32 off = pkt->l4_off;

	/* Whoever finishes the checksum does so over the new ports. */
	if (ctx_csum_kind(ctx) != OVS_CSUM_PARTIAL)
		sctp[2] ^= ovs_crc32c_diff(sctp[0] ^ new,
					   ovs_sctp_len(ctx, pkt, off));
	sctp[0] = new;
	if (ctx_store_csum(ctx, off, sctp, OVS_SCTP_SIZE))
		return OVS_DROP_SET;
	ovs_key_ports(pkt, new);
	return 0;
}

__noinline int ovs_set_sctp(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			    __u32 at)
{
	__u32 sctp[OVS_SCTP_SIZE / 4];	/* ports, tag, checksum */
	int err;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (pkt->l4_proto != IPPROTO_SCTP ||
	    ctx_load(ctx, pkt->l4_off, sctp, sizeof(sctp)))
		return OVS_DROP_SET;
	err = ovs_put_sctp(ctx, pkt, sctp, ovs_new_ports(sctp[0], at));
	if (err)
		return err;
	ctx_hash_clear(ctx);
	pkt->tracked = 0;
	return 0;
}

/* The same for NAT, after which the packet's hash stays. */
__noinline int ovs_sctp_ports(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			      __u32 new)
{
	__u32 sctp[OVS_SCTP_SIZE / 4];

	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (ctx_load(ctx, pkt->l4_off, sctp, sizeof(sctp)))
		return OVS_DROP_SET;
	return ovs_put_sctp(ctx, pkt, sctp, new);
}

#endif /* OVS_ACT_SCTP_H */
