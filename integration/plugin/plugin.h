/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DPIF_BPF_PLUGIN_H
#define DPIF_BPF_PLUGIN_H

#include <stdint.h>

#define DPIF_BPF_PLUGIN_VERSION	"dpif-bpf 0.1"

struct dpif_netlink_vport;
struct ofpbuf;

/* dpif.c: what OVS calls dpif_netlink_class and dpif_netlink_vport_get(); the
 * latter with statistics of now, if there is a provider. */
extern const struct dpif_class dpif_bpf_class;
int dpif_bpf_vport_stats(const char *name, struct dpif_netlink_vport *reply,
			 struct ofpbuf **bufp);

/* conntrack.c: connections that there are, and that there may be. */
int bpf_ct_get_conns(uint32_t *nconns, uint32_t *maxconns);
int bpf_ct_set_maxconns(uint32_t maxconns);

#endif
