/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dpif class "bpf": a second instance of OVS's lib/dpif-netlink.c, whose
 * netlink sockets lead to ovs-bpfd.
 *
 * build-plugin.sh makes dpif-netlink.inc of the OVS source at hand, with the
 * names replaced that only text can replace (it lists them), and compiles this
 * file with the flags of that OVS.
 */
#include <config.h>

/* Everything that mentions what is redefined below comes first. */
#include "dpif-netlink.h"
#include "dpif-netlink-rtnl.h"
#include "dpif-provider.h"
#include "netlink-protocol.h"
#include "netlink-socket.h"
#ifdef HAVE_NETDEV_OFFLOAD_H
#include "netdev-offload.h"
#define OFFLOAD_PARAM , enum dpif_offload_type type
#define OFFLOAD_ARG , type
#else	/* from OVS 4.0 on offload is not the dpif's */
#define OFFLOAD_PARAM
#define OFFLOAD_ARG
#endif

#include "if-notifier.h"
#include "known.h"
#include "plugin.h"
#include "transport.h"

static int bpf_transact(int protocol, const struct ofpbuf *request,
			struct ofpbuf **replyp);
static int bpf_lookup_genl_family(const char *name, int *number);
static int bpf_lookup_genl_mcgroup(const char *family, const char *group,
				   unsigned int *number);

/* Named in the class instead of OVS's own, see below. */
static int dpif_bpf_enumerate(struct sset *all_dps,
			      const struct dpif_class *class);
static int dpif_bpf_flow_dump_destroy(struct dpif_flow_dump *dump);
static void dpif_bpf_operate(struct dpif *dpif, struct dpif_op **ops,
			     size_t n_ops OFFLOAD_PARAM);
static int dpif_bpf_port_poll(const struct dpif *dpif, char **devnamep);
static char *dpif_bpf_get_datapath_version(void);
static int dpif_bpf_ct_set_maxconns(struct dpif *dpif, uint32_t maxconns);
static int dpif_bpf_ct_get_maxconns(struct dpif *dpif, uint32_t *maxconns);
static int dpif_bpf_ct_get_nconns(struct dpif *dpif, uint32_t *nconns);

#define dpif_netlink_class		dpif_bpf_class
#define dpif_netlink_vport_init		dpif_bpf_vport_init
#define dpif_netlink_vport_transact	dpif_bpf_vport_transact
#define dpif_netlink_vport_get		dpif_bpf_vport_get
#define dpif_netlink_is_internal_device	dpif_bpf_is_internal_device
#define netdev_to_ovs_vport_type	dpif_bpf_netdev_to_ovs_vport_type
#define nl_transact			bpf_transact
#define nl_lookup_genl_family		bpf_lookup_genl_family
#define nl_lookup_genl_mcgroup		bpf_lookup_genl_mcgroup

/* Flows of this class are not offloaded to tc: its filters would come after
 * the datapath's own program on the same device, that is, never. */
#define netdev_is_flow_api_enabled()	false

#undef NETLINK_GENERIC
#define NETLINK_GENERIC			DPIF_BPF_NETLINK_GENERIC

#include "dpif-netlink.inc"

#undef nl_transact

static int
bpf_lookup_genl_family(const char *name, int *number)
{
	static const char *const families[] = {
		OVS_DATAPATH_FAMILY,
		OVS_VPORT_FAMILY,
		OVS_FLOW_FAMILY,
		OVS_PACKET_FAMILY,
		OVS_METER_FAMILY,
		OVS_CT_LIMIT_FAMILY,
	};

	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		if (!strcmp(name, families[i])) {
			*number = DPIF_BPF_FIRST_FAMILY + i;
			return 0;
		}
	}
	*number = -ENOENT;
	return ENOENT;
}

static int
bpf_lookup_genl_mcgroup(const char *family, const char *group,
			unsigned int *number)
{
	if (strcmp(family, OVS_VPORT_FAMILY)
	    || strcmp(group, OVS_VPORT_MCGROUP)) {
		*number = 0;
		return ENOENT;
	}
	*number = 1;
	return 0;
}

/* Is it that the provider is away?  It has no such errors itself. */
static bool
is_away(int error)
{
	return error == ECONNREFUSED || error == ETIMEDOUT;
}

/* Does it ask for a change of a datapath, a port or its flows? */
static bool
is_change(const struct ofpbuf *request)
{
	const struct nlmsghdr *nlh = request->data;
	const struct genlmsghdr *genl = (const void *) (nlh + 1);

	return nlh->nlmsg_type <= ovs_flow_family
	       && genl->cmd != OVS_FLOW_CMD_GET;
}

/* Flow modifications that the provider was away for.  A revalidator takes no
 * notice when one fails, and believes the flow to be as it should. */
struct owed {
	struct hmap_node node;		/* in 'owed', by hash of the UFID */
	ovs_u128 ufid;
	struct ofpbuf *request;
};

static struct ovs_mutex owed_mutex = OVS_MUTEX_INITIALIZER;
static struct hmap owed OVS_GUARDED_BY(owed_mutex) = HMAP_INITIALIZER(&owed);
static atomic_count n_owed = ATOMIC_COUNT_INIT(0);

static void
owe(struct dpif_netlink *dpif, const struct dpif_flow_put *put)
{
	uint32_t hash = hash_bytes(put->ufid, sizeof *put->ufid, 0);
	struct dpif_netlink_flow flow;
	struct owed *o;

	ovs_mutex_lock(&owed_mutex);
	HMAP_FOR_EACH_WITH_HASH (o, node, hash, &owed) {
		if (ovs_u128_equals(o->ufid, *put->ufid)) {
			break;
		}
	}
	if (!o) {
		o = xmalloc(sizeof *o);
		o->ufid = *put->ufid;
		o->request = ofpbuf_new(1024);
		hmap_insert(&owed, &o->node, hash);
		atomic_count_inc(&n_owed);
	}
	ofpbuf_clear(o->request);
	dpif_netlink_init_flow_put(dpif, put, &flow);
	dpif_netlink_flow_to_ofpbuf(&flow, o->request);
	ovs_mutex_unlock(&owed_mutex);
}

/* Makes up to 'max' of the modifications that are owed. */
static void
pay(size_t max)
{
	struct owed *o;

	if (!atomic_count_get(&n_owed)) {
		return;
	}
	ovs_mutex_lock(&owed_mutex);
	HMAP_FOR_EACH_SAFE (o, node, &owed) {
		/* A flow that is not there any more needs no modification. */
		if (!max-- || is_away(nl_transact(NETLINK_GENERIC, o->request,
						  NULL))) {
			break;
		}
		hmap_remove(&owed, &o->node);
		ofpbuf_delete(o->request);
		free(o);
		atomic_count_dec(&n_owed);
	}
	ovs_mutex_unlock(&owed_mutex);
}

/*
 * What fails while the provider is away is no cause for warnings where
 * ovs-vswitchd, which alone receives upcalls, gets over it: modifications are
 * made later, and a flow that could not be deleted "exists"; the next dump
 * finds it.
 */
static void
dpif_bpf_operate(struct dpif *dpif_, struct dpif_op **ops,
		 size_t n_ops OFFLOAD_PARAM)
{
	struct dpif_netlink *dpif = dpif_netlink_cast(dpif_);

	pay(SIZE_MAX);
	dpif_netlink_operate(dpif_, ops, n_ops OFFLOAD_ARG);
	for (size_t i = 0; dpif->handlers && i < n_ops; i++) {
		struct dpif_op *op = ops[i];

		if (!is_away(op->error)) {
			continue;
		}
		if (op->type == DPIF_OP_FLOW_DEL) {
			op->error = EEXIST;
		} else if (op->type == DPIF_OP_FLOW_PUT && op->flow_put.ufid
			   && !(op->flow_put.flags & DPIF_FP_CREATE)) {
			owe(dpif, &op->flow_put);
			op->error = 0;
		}
	}
}

static __thread bool ask_anew;

/* In place of nl_transact(): what is known is not asked for. */
static int
bpf_transact(int protocol, const struct ofpbuf *request,
	     struct ofpbuf **replyp)
{
	static struct vlog_rate_limit rl = VLOG_RATE_LIMIT_INIT(1, 1);
	uint64_t version = known_version();
	int error;

	pay(OPERATE_MAX_OPS);
	if (replyp && !ask_anew && !known_answer(request, false, replyp)) {
		return 0;
	}
	error = nl_transact(protocol, request, replyp);
	if (!is_away(error)) {
		known_learn(request, version, error, replyp ? *replyp : NULL);
		return error;
	}
	if (replyp) {
		int known = known_answer(request, true, replyp);

		if (known != EAGAIN) {
			return known;
		}
	}
	if (is_change(request)) {
		VLOG_WARN_RL(&rl, "ovs-bpfd does not answer at %s (%s)",
			     dpif_bpf_transport_path(), ovs_strerror(error));
	}
	return error;
}

/* dpif_bpf_vport_get() for statistics, which change all the time. */
int
dpif_bpf_vport_stats(const char *name, struct dpif_netlink_vport *reply,
		     struct ofpbuf **bufp)
{
	int error;

	ask_anew = true;
	error = dpif_bpf_vport_get(name, reply, bufp);
	ask_anew = false;
	return error;
}

/* Without a provider there are no datapaths, which is not worth the warning
 * that an error would be. */
static int
dpif_bpf_enumerate(struct sset *all_dps, const struct dpif_class *class)
{
	int error = dpif_netlink_enumerate(all_dps, class);

	return is_away(error) ? 0 : error;
}

/* A revalidator, the only one to ask for a terse dump, deletes no flow for not
 * having seen it, and comes again: nothing to warn of. */
static int
dpif_bpf_flow_dump_destroy(struct dpif_flow_dump *dump)
{
	bool terse = dump->terse;
	int error = dpif_netlink_flow_dump_destroy(dump);

	return terse && is_away(error) ? 0 : error;
}

/* Ports may have changed unseen while the provider was away.  Asked for here,
 * this is not the warning that ENOBUFS from the socket would be. */
static int
dpif_bpf_port_poll(const struct dpif *dpif_, char **devnamep)
{
	struct dpif_netlink *dpif = dpif_netlink_cast(dpif_);
	int error;

	if (dpif->port_notifier
	    && dpif_bpf_transport_lost(nl_sock_fd(dpif->port_notifier))) {
		return ENOBUFS;
	}
	error = dpif_netlink_port_poll(dpif_, devnamep);
	if (error) {
		return error;
	}
	known_doubt(*devnamep);
	if (dpif_netlink_port_query_by_name(dpif_, *devnamep, NULL)
	    == ENODEV) {
		/* The provider hears of devices when ovs-vswitchd does, or
		 * later.  Then this is the first that is known of a port's
		 * end, while a device of its name may be there already. */
		if_notifier_manual_report();
	}
	return 0;
}

static char *
dpif_bpf_get_datapath_version(void)
{
	return xstrdup(DPIF_BPF_PLUGIN_VERSION);
}

/* What OVS has for its own datapath alone: the kernel's are sysctls. */
static int
dpif_bpf_ct_set_maxconns(struct dpif *dpif OVS_UNUSED, uint32_t maxconns)
{
	return bpf_ct_set_maxconns(maxconns);
}

static int
dpif_bpf_ct_get_maxconns(struct dpif *dpif OVS_UNUSED, uint32_t *maxconns)
{
	uint32_t nconns;

	return bpf_ct_get_conns(&nconns, maxconns);
}

static int
dpif_bpf_ct_get_nconns(struct dpif *dpif OVS_UNUSED, uint32_t *nconns)
{
	uint32_t maxconns;

	return bpf_ct_get_conns(nconns, &maxconns);
}
