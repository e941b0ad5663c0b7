/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See known.h.  A reply is kept whole, as it came.
 */
#include <config.h>

#include "known.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "netlink.h"
#include "netlink-protocol.h"
#include "netlink-socket.h"
#include "openvswitch/hmap.h"
#include "openvswitch/ofpbuf.h"
#include "openvswitch/thread.h"
#include "odp-netlink.h"
#include "util.h"

#include "transport.h"

#define DATAPATH	DPIF_BPF_FIRST_FAMILY
#define VPORT		(DPIF_BPF_FIRST_FAMILY + 1)
#define VPORT_MCGROUP	1
#define NO_PORT		UINT32_MAX

/* What a request, a reply or an event is about. */
struct subject {
	uint16_t family;
	uint8_t cmd;
	int dp_ifindex;		/* 0: any */
	const char *name;	/* NULL: named by number */
	uint32_t port_no;	/* NO_PORT: named by name, or a datapath */
};

struct known {
	struct hmap_node node;	/* in 'all', by hash of the name */
	struct subject is;
	bool fresh;		/* no event has told of it since */
	struct ofpbuf *reply;
};

static struct ovs_mutex mutex = OVS_MUTEX_INITIALIZER;
static struct hmap all OVS_GUARDED_BY(mutex) = HMAP_INITIALIZER(&all);
static uint64_t version OVS_GUARDED_BY(mutex);
static struct nl_sock *events OVS_GUARDED_BY(mutex);

/* Returns false for what is not of a datapath or a port. */
static bool
subject_of(const struct ofpbuf *msg, struct subject *is)
{
	const size_t ofs = NLMSG_HDRLEN + GENL_HDRLEN
			   + sizeof(struct ovs_header);
	const struct nlmsghdr *nlh = msg->data;
	const struct nlattr *name, *port_no;

	if (msg->size < ofs || (nlh->nlmsg_type != DATAPATH
				&& nlh->nlmsg_type != VPORT)) {
		return false;
	}
	is->family = nlh->nlmsg_type;
	is->cmd = ((const struct genlmsghdr *) (nlh + 1))->cmd;
	is->dp_ifindex = ((const struct ovs_header *)
			  ((const char *) (nlh + 1)
			   + GENL_HDRLEN))->dp_ifindex;
	if (is->family == DATAPATH) {
		name = nl_attr_find(msg, ofs, OVS_DP_ATTR_NAME);
		port_no = NULL;
	} else {
		name = nl_attr_find(msg, ofs, OVS_VPORT_ATTR_NAME);
		port_no = nl_attr_find(msg, ofs, OVS_VPORT_ATTR_PORT_NO);
	}
	is->name = name ? nl_attr_get_string(name) : NULL;
	is->port_no = port_no ? nl_attr_get_u32(port_no) : NO_PORT;
	return true;
}

static bool
is_about(const struct known *known, const struct subject *is)
{
	return known->is.family == is->family
	       && (!is->dp_ifindex || known->is.dp_ifindex == is->dp_ifindex)
	       && (is->name ? !strcmp(known->is.name, is->name)
			    : known->is.port_no == is->port_no);
}

static struct known *
find(const struct subject *is)
	OVS_REQUIRES(mutex)
{
	struct known *known;

	if (is->name) {
		HMAP_FOR_EACH_WITH_HASH (known, node, hash_string(is->name, 0),
					 &all) {
			if (is_about(known, is)) {
				return known;
			}
		}
		return NULL;
	}
	HMAP_FOR_EACH (known, node, &all) {
		if (is_about(known, is)) {
			return known;
		}
	}
	return NULL;
}

static void
forget(struct known *known)
	OVS_REQUIRES(mutex)
{
	hmap_remove(&all, &known->node);
	ofpbuf_delete(known->reply);
	free(known);
}

/* A port has come, changed or gone: whoever had its name or its number. */
static void
event(const struct subject *is)
	OVS_REQUIRES(mutex)
{
	struct subject by_number = *is;
	struct known *known = find(is);

	version++;
	if (known) {
		known->fresh = false;
	}
	by_number.name = NULL;
	known = find(&by_number);
	if (known) {
		known->fresh = false;
	}
}

/* Reads the events that there are. */
static void
read_events(void)
	OVS_REQUIRES(mutex)
{
	struct ofpbuf buf;
	uint64_t stub[1024 / 8];
	int error;

	if (!events
	    && (nl_sock_create(DPIF_BPF_NETLINK_GENERIC, &events)
		|| nl_sock_join_mcgroup(events, VPORT_MCGROUP))) {
		nl_sock_destroy(events);
		events = NULL;
	}
	ofpbuf_use_stub(&buf, stub, sizeof stub);
	do {
		struct subject is;

		error = events ? nl_sock_recv(events, &buf, NULL, false)
			       : ENOBUFS;
		if (!error && subject_of(&buf, &is)) {
			event(&is);
		} else if (error == ENOBUFS) {
			struct known *known;

			version++;
			HMAP_FOR_EACH (known, node, &all) {
				known->fresh = false;
			}
		}
	} while (events && (!error || error == ENOBUFS));
	ofpbuf_uninit(&buf);
}

void
known_doubt(const char *name)
{
	struct known *known;

	ovs_mutex_lock(&mutex);
	version++;
	HMAP_FOR_EACH_WITH_HASH (known, node, hash_string(name, 0), &all) {
		if (!strcmp(known->is.name, name)) {
			known->fresh = false;
		}
	}
	ovs_mutex_unlock(&mutex);
}

uint64_t
known_version(void)
{
	uint64_t now;

	ovs_mutex_lock(&mutex);
	now = version;
	ovs_mutex_unlock(&mutex);
	return now;
}

int
known_answer(const struct ofpbuf *request, bool away, struct ofpbuf **reply)
{
	int error = EAGAIN;
	struct subject is;
	struct known *known;

	if (!subject_of(request, &is) || is.cmd != OVS_VPORT_CMD_GET) {
		return EAGAIN;
	}
	ovs_mutex_lock(&mutex);
	if (!away) {
		read_events();
	}
	known = find(&is);
	if (known && (away || known->fresh)) {
		*reply = ofpbuf_clone(known->reply);
		error = 0;
	} else if (!known && away && is.family == VPORT && is.name
		   && !hmap_is_empty(&all)) {
		/* A tunnel's: the datapath has it under another name. */
		error = ENODEV;
	}
	ovs_mutex_unlock(&mutex);
	return error;
}

void
known_learn(const struct ofpbuf *request, uint64_t asked, int error,
	    const struct ofpbuf *reply)
{
	struct subject is;
	struct known *known;

	if (!subject_of(request, &is)) {
		return;
	}
	ovs_mutex_lock(&mutex);
	if (error == ENODEV || (!error && is.cmd == OVS_VPORT_CMD_DEL)) {
		known = find(&is);
		if (known) {
			is.dp_ifindex = known->is.dp_ifindex;
			forget(known);
		}
		if (is.family == DATAPATH) {
			/* Its ports go with it. */
			HMAP_FOR_EACH_SAFE (known, node, &all) {
				if (known->is.dp_ifindex == is.dp_ifindex) {
					forget(known);
				}
			}
		}
	} else if (!error && reply && subject_of(reply, &is) && is.name) {
		known = find(&is);
		if (!known) {
			known = xzalloc(sizeof *known);
			hmap_insert(&all, &known->node,
				    hash_string(is.name, 0));
		} else {
			ofpbuf_delete(known->reply);
		}
		known->reply = ofpbuf_clone(reply);
		subject_of(known->reply, &known->is);
		known->fresh = is.family == VPORT && events
			       && version == asked;
	}
	ovs_mutex_unlock(&mutex);
}
