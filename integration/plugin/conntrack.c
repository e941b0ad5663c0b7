/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second instance of OVS's lib/netlink-conntrack.c, whose netlink sockets
 * lead to ovs-bpfd.  Its functions keep their names and are hidden: within the
 * plugin, dpif.c finds these, and everything else OVS's.
 */
#include <config.h>

#include "netlink-conntrack.h"
#include "netlink-protocol.h"
#include "netlink-socket.h"

#include "plugin.h"
#include "transport.h"

#undef NETLINK_NETFILTER
#define NETLINK_NETFILTER	DPIF_BPF_NETLINK_NETFILTER

/* OVS before 3.5, and any OVS on a kernel before 6.8, dumps the connections and
 * deletes those of the zone one by one. */
#define nl_ct_flush_zone	nl_ct_flush_zone_one_by_one

#include "netlink-conntrack.inc"

#undef nl_ct_flush_zone

int
nl_ct_flush_zone(uint16_t zone)
{
	struct ofpbuf request;
	int error;

	ofpbuf_init(&request, NL_DUMP_BUFSIZE);
	nl_msg_put_nfgenmsg(&request, 0, AF_UNSPEC, NFNL_SUBSYS_CTNETLINK,
			    IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST);
	nl_msg_put_be16(&request, CTA_ZONE, htons(zone));
	error = nl_transact(NETLINK_NETFILTER, &request, NULL);
	ofpbuf_uninit(&request);
	return error;
}

int
bpf_ct_get_conns(uint32_t *nconns, uint32_t *maxconns)
{
	static const struct nl_policy policy[] = {
		[CTA_STATS_GLOBAL_ENTRIES] = { .type = NL_A_BE32 },
		[CTA_STATS_GLOBAL_MAX_ENTRIES] = { .type = NL_A_BE32 },
	};
	struct nlattr *attrs[ARRAY_SIZE(policy)];
	struct ofpbuf request, *reply;
	int error;

	ofpbuf_init(&request, NL_DUMP_BUFSIZE);
	nl_msg_put_nfgenmsg(&request, 0, AF_UNSPEC, NFNL_SUBSYS_CTNETLINK,
			    IPCTNL_MSG_CT_GET_STATS, NLM_F_REQUEST);
	error = nl_transact(NETLINK_NETFILTER, &request, &reply);
	ofpbuf_uninit(&request);
	if (error) {
		return error;
	}
	if (reply && nl_policy_parse(reply, NLMSG_HDRLEN
				     + sizeof(struct nfgenmsg), policy, attrs,
				     ARRAY_SIZE(policy))) {
		*nconns = ntohl(nl_attr_get_be32(
			attrs[CTA_STATS_GLOBAL_ENTRIES]));
		*maxconns = ntohl(nl_attr_get_be32(
			attrs[CTA_STATS_GLOBAL_MAX_ENTRIES]));
	} else {
		error = EPROTO;
	}
	ofpbuf_delete(reply);
	return error;
}

int
bpf_ct_set_maxconns(uint32_t maxconns)
{
	struct ofpbuf request;
	int error;

	ofpbuf_init(&request, NL_DUMP_BUFSIZE);
	nl_msg_put_nfgenmsg(&request, 0, AF_UNSPEC, DPIF_BPF_NFNL_SUBSYS,
			    DPIF_BPF_MSG_CT_SET_MAX, NLM_F_REQUEST);
	nl_msg_put_be32(&request, CTA_STATS_GLOBAL_MAX_ENTRIES,
			htonl(maxconns));
	error = nl_transact(NETLINK_NETFILTER, &request, NULL);
	ofpbuf_uninit(&request);
	return error;
}
