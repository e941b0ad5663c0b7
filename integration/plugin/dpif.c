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
#endif

#include "plugin.h"
#include "transport.h"

static int bpf_lookup_genl_family(const char *name, int *number);
static int bpf_lookup_genl_mcgroup(const char *family, const char *group,
				   unsigned int *number);

/* Named in the class instead of OVS's own, see below. */
static int dpif_bpf_enumerate(struct sset *all_dps,
			      const struct dpif_class *class);
static int dpif_bpf_port_poll(const struct dpif *dpif, char **devnamep);
static char *dpif_bpf_get_datapath_version(void);

#define dpif_netlink_class		dpif_bpf_class
#define dpif_netlink_vport_init		dpif_bpf_vport_init
#define dpif_netlink_vport_transact	dpif_bpf_vport_transact
#define dpif_netlink_vport_get		dpif_bpf_vport_get
#define dpif_netlink_is_internal_device	dpif_bpf_is_internal_device
#define netdev_to_ovs_vport_type	dpif_bpf_netdev_to_ovs_vport_type
#define nl_lookup_genl_family		bpf_lookup_genl_family
#define nl_lookup_genl_mcgroup		bpf_lookup_genl_mcgroup

/* Flows of this class are not offloaded to tc: its filters would come after
 * the datapath's own program on the same device, that is, never. */
#define netdev_is_flow_api_enabled()	false

#undef NETLINK_GENERIC
#define NETLINK_GENERIC			DPIF_BPF_NETLINK_GENERIC

#include "dpif-netlink.inc"

/* The provider's families have fixed numbers, in this order. */
#define FIRST_FAMILY	0x20

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
			*number = FIRST_FAMILY + i;
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

/* Without a provider there are no datapaths, which is not worth the warning
 * that an error would be. */
static int
dpif_bpf_enumerate(struct sset *all_dps, const struct dpif_class *class)
{
	int error = dpif_netlink_enumerate(all_dps, class);

	return error == ECONNREFUSED ? 0 : error;
}

/* Ports may have changed unseen while the provider was away.  Asked for here,
 * this is not the warning that ENOBUFS from the socket would be. */
static int
dpif_bpf_port_poll(const struct dpif *dpif_, char **devnamep)
{
	struct dpif_netlink *dpif = dpif_netlink_cast(dpif_);

	if (dpif->port_notifier
	    && dpif_bpf_transport_lost(nl_sock_fd(dpif->port_notifier))) {
		return ENOBUFS;
	}
	return dpif_netlink_port_poll(dpif_, devnamep);
}

static char *
dpif_bpf_get_datapath_version(void)
{
	return xstrdup(DPIF_BPF_PLUGIN_VERSION);
}
