/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin: registers the dpif class and joins it to the rest of OVS.
 */
#include <config.h>

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dirs.h"
#include "dpif-netlink.h"
#include "dpif-provider.h"
#include "if-notifier.h"
#include "latch.h"
#include "openvswitch/vlog.h"
#include "util.h"

#include "plugin.h"
#include "transport.h"

VLOG_DEFINE_THIS_MODULE(dpif_bpf_plugin);

#define EXPORT __attribute__((visibility("default")))

/*
 * netdev-linux.c asks the kernel datapath for the statistics and the network
 * namespace of each device.  Ask ours first: it knows its own ports alone.
 */
EXPORT int
dpif_netlink_vport_get(const char *name, struct dpif_netlink_vport *reply,
		       struct ofpbuf **bufp)
{
	static int (*kernel_vport_get)(const char *,
				       struct dpif_netlink_vport *,
				       struct ofpbuf **);

	if (dpif_bpf_transport_seen()
	    && !dpif_bpf_vport_stats(name, reply, bufp)) {
		return 0;
	}
	if (!kernel_vport_get) {
		*(void **) &kernel_vport_get =
			dlsym(RTLD_NEXT, "dpif_netlink_vport_get");
	}
	return kernel_vport_get(name, reply, bufp);
}

/* Set when the provider has arrived. */
static struct latch arrived;

/* Called by the transport's own thread, to which nothing of OVS belongs. */
static void
provider_changed(bool here)
{
	if (here) {
		VLOG_INFO("connected to ovs-bpfd");
		latch_set(&arrived);
	} else {
		VLOG_INFO("waiting for ovs-bpfd");
	}
}

/*
 * Bridges that could not be created without the provider are tried again when
 * ovs-vswitchd reconfigures, as it does when network devices change.  Its main
 * thread looks for such changes in each of its turns, by these two.
 */
EXPORT void
if_notifier_run(void)
{
	static void (*next)(void);

	if (latch_poll(&arrived)) {
		if_notifier_manual_report();
	}
	if (!next) {
		*(void **) &next = dlsym(RTLD_NEXT, "if_notifier_run");
	}
	next();
}

EXPORT void
if_notifier_wait(void)
{
	static void (*next)(void);

	latch_wait(&arrived);
	if (!next) {
		*(void **) &next = dlsym(RTLD_NEXT, "if_notifier_wait");
	}
	next();
}

/* Programs that this one starts are not of OVS's shared-library build. */
static void
forget_preload(void)
{
	const char *preload = getenv("LD_PRELOAD");
	Dl_info self;

	if (preload && dladdr((void *) &provider_changed, &self)
	    && !strcmp(preload, self.dli_fname)) {
		unsetenv("LD_PRELOAD");
	}
}

static void __attribute__((constructor))
plugin_init(void)
{
	char *path = xasprintf("%s/ovs-bpfd.sock", ovs_rundir());

	forget_preload();
	latch_init(&arrived);
	dpif_bpf_transport_set_path(path);
	free(path);
	dpif_bpf_transport_set_notify(provider_changed);
	dp_register_provider(&dpif_bpf_class);
}
