/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the provider last said of datapaths and ports.
 *
 * ovs-vswitchd asks for each port of a bridge several times whenever the
 * database or a device changes, and takes one that it cannot query for gone.
 * The kernel answers in no time and is always there; here a port is asked for
 * again only after an event has told of it, and while the provider is away the
 * last answer stands.
 */
#ifndef DPIF_BPF_KNOWN_H
#define DPIF_BPF_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

struct ofpbuf;

/* An event that was read elsewhere has told of this port: it is asked for anew,
 * though the same event is still on its way here. */
void known_doubt(const char *name);

/* Counts what is known to have changed; from before a request is sent. */
uint64_t known_version(void);

/*
 * Answers a GET of a port, or when 'away', of a datapath, too: without asking
 * the provider, unless it said something new.  Returns EAGAIN when it is to be
 * asked and, when 'away', ENODEV for a name that is not known to be a port's,
 * if any are.  The caller owns '*reply'.
 */
int known_answer(const struct ofpbuf *request, bool away,
		  struct ofpbuf **reply);

/*
 * Takes note of how the provider answered a request.
 *
 * version: known_version() from before it was asked
 * reply: NULL when there was none
 */
void known_learn(const struct ofpbuf *request, uint64_t version, int error,
		 const struct ofpbuf *reply);

#endif
