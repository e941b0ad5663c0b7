/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Netlink sockets over SOCK_SEQPACKET to ovs-bpfd.
 *
 * Preloaded into a program of OVS, this file takes over socket(AF_NETLINK)
 * for the private protocols of transport.h, and for those descriptors the
 * calls that OVS's lib/netlink-socket.c makes.  All other descriptors pass
 * through after a look into a table.  It needs libc alone.
 *
 * What netlink promises, and how it is kept here:
 *
 * - A request has been answered when send() returns, so OVS reads replies with
 *   MSG_DONTWAIT and takes EAGAIN for "no reply".  Here the answer takes its
 *   time: while a request is outstanding, recvmsg() waits.  So that there is
 *   always an end to wait for, the last message of a datagram is sent with
 *   NLM_F_ACK; an acknowledgement that OVS did not ask for is swallowed.
 *
 * - The kernel never goes away.  ovs-bpfd may: a descriptor whose connection
 *   ends is replaced, under the same number, by one end of a socket pair that
 *   stays silent.  A thread reconnects when the provider is back, announces
 *   the socket's port id and memberships again, and closes the pair's other
 *   end, which wakes who polls.  The caller's next operation on the
 *   descriptor moves the new connection under it: poll() looks descriptors up
 *   again when it wakes, so that a silent new connection in the place of what
 *   it sleeps on would make it deaf.  Descriptors that are in epoll instances
 *   are moved, and registered again, at once.
 *
 * - recvmsg() says ENOBUFS when messages were lost.  It does so here when a
 *   reply was outstanding, or when the socket is a member of a group, and not
 *   otherwise: OVS logs a warning for it on an upcall socket.  A dump of which
 *   nothing was delivered yet is asked for again silently, because OVS does
 *   not retry dumps.
 *
 * - The kernel never keeps a caller waiting, and ovs-vswitchd's main thread
 *   serves bridges of all types.  So calls wait for the provider for a second
 *   in sum: from then on, and until the watcher has found it again, each
 *   request is refused at once, by NLMSG_ERROR messages as though it had
 *   refused them itself.  A provider that is connected but mute is given up
 *   by the first request that waits in vain; its connection ends with it, so
 *   that a late answer meets nobody.
 *
 * Environment: DPIF_BPF_SOCK, path of the provider's socket.  DPIF_BPF_WAIT_MS
 * (1000), for how long after it went away calls wait for the provider before
 * they are refused with ECONNREFUSED.  DPIF_BPF_REPLY_MS (1000), how long a
 * connected provider may take for an answer before ETIMEDOUT, LONG_FACTOR
 * times as long while it is seen to work, and for the requests that load
 * programs or delete all flows.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#undef _FORTIFY_SOURCE

#include "transport.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/openvswitch.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

#define EXPORT		__attribute__((visibility("default")))

#define WAIT_MS		1000	/* DPIF_BPF_WAIT_MS */
#define FIRST_WAIT_MS	500	/* at most, while never seen */
#define REPLY_MS	1000	/* DPIF_BPF_REPLY_MS */
#define LONG_FACTOR	30
#define SLICE_MS	100	/* between looks at what others found out */
#define SNDBUF		(4 << 20)

#define HDRLEN		NLMSG_HDRLEN
#define ERRLEN		(HDRLEN + (int) sizeof(struct nlmsgerr))

/* ------------------------------------------------------------------------
 * The C library's functions. */

static struct {
	__typeof__(socket) *socket;
	__typeof__(connect) *connect;
	__typeof__(getsockname) *getsockname;
	__typeof__(setsockopt) *setsockopt;
	__typeof__(send) *send;
	__typeof__(sendmsg) *sendmsg;
	__typeof__(recv) *recv;
	__typeof__(recvmsg) *recvmsg;
	__typeof__(epoll_ctl) *epoll_ctl;
	__typeof__(close) *close;
} real;

static void __attribute__((constructor)) resolve(void)
{
#define RESOLVE(NAME) \
	real.NAME = (__typeof__(real.NAME)) dlsym(RTLD_NEXT, #NAME)
	RESOLVE(socket);
	RESOLVE(connect);
	RESOLVE(getsockname);
	RESOLVE(setsockopt);
	RESOLVE(send);
	RESOLVE(sendmsg);
	RESOLVE(recv);
	RESOLVE(recvmsg);
	RESOLVE(epoll_ctl);
	RESOLVE(close);
#undef RESOLVE
}

/* Other libraries' constructors may call before ours has run. */
#define REAL(NAME) (*(real.NAME ? real.NAME : (resolve(), real.NAME)))

/* ------------------------------------------------------------------------
 * Connections. */

struct registration {
	struct registration *next;
	int epfd;
	struct epoll_event event;
};

struct conn {
	struct conn *next;		/* in conns; fixed */
	pthread_mutex_t mutex;		/* for all that follows */
	pthread_cond_t changed;		/* up became true, or closed */
	int fd;				/* -1: not in use */
	uint32_t protocol;		/* as HELLO names it */
	uint32_t port_id;
	uint32_t groups;
	bool up;			/* fd is a connection */
	int peer;			/* down: other end of the pair, or -1 */
	int spare;			/* down: the new connection, or -1 */
	bool lost;			/* next recvmsg: ENOBUFS */
	bool asked;			/* unless taken by ..._lost() */

	/* The request that is outstanding, kept in req. */
	bool pending;
	bool dump;			/* ends with NLMSG_DONE */
	bool added_ack;			/* ends with an ACK for us alone */
	bool delivered;			/* some of the answer was handed on */
	uint32_t seq;			/* of its last message */
	uint32_t answered;		/* seq of the last message answered */
	int refused;			/* errno for what is left, or 0 */
	size_t refuse_ofs;		/* where that begins in req */
	uint32_t stale;			/* seq of an ACK left unread, or 0 */
	bool hello_ack;			/* HELLO to be acknowledged */
	int64_t deadline;
	uint8_t *req;
	size_t req_len, req_cap;

	struct registration *regs;
};

static _Atomic(struct conn *) conns;	/* grows only */

/* Descriptor -> struct conn, or EPOLL for an epoll instance with some. */
#define EPOLL		((void *) 1)
#define PAGE_BITS	10
#define PAGE_SIZE_	(1u << PAGE_BITS)

struct page {
	_Atomic(void *) slot[PAGE_SIZE_];
};

static _Atomic(struct page *) pages[PAGE_SIZE_];

static void *slot_get(int fd)
{
	struct page *page;

	if ((unsigned int) fd >> (2 * PAGE_BITS))
		return NULL;
	page = atomic_load_explicit(&pages[fd >> PAGE_BITS],
				    memory_order_acquire);
	if (!page)
		return NULL;
	return atomic_load_explicit(&page->slot[fd & (PAGE_SIZE_ - 1)],
				    memory_order_acquire);
}

static bool slot_set(int fd, void *value)
{
	struct page *page, *none = NULL;

	if ((unsigned int) fd >> (2 * PAGE_BITS))
		return false;
	page = atomic_load(&pages[fd >> PAGE_BITS]);
	if (!page) {
		page = calloc(1, sizeof *page);
		if (!page)
			return false;
		if (!atomic_compare_exchange_strong(&pages[fd >> PAGE_BITS],
						    &none, page)) {
			free(page);
			page = none;
		}
	}
	atomic_store_explicit(&page->slot[fd & (PAGE_SIZE_ - 1)], value,
			      memory_order_release);
	return true;
}

/* The connection behind 'fd', locked, or NULL. */
static struct conn *conn_lock(int fd)
{
	struct conn *c = slot_get(fd);

	if (!c || c == EPOLL)
		return NULL;
	pthread_mutex_lock(&c->mutex);
	if (c->fd == fd)
		return c;
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

static void conn_unlock(struct conn *c)
{
	pthread_mutex_unlock(&c->mutex);
}

/* ------------------------------------------------------------------------
 * The provider: where it is and whether. */

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t kick;
	bool kicked;
	bool thread;			/* the watcher runs */
	bool seen;			/* was ever there */
	int64_t away_since;		/* 0: it is there */
	int64_t give_up;		/* away: requests are refused then, */
	int error;			/* with this; ETIMEDOUT: it is mute */
	pid_t pid;			/* the one dialled last; 0: unknown */
	int64_t worked;			/* when it was last seen to work */
	const char *path;		/* default when no environment */
	void (*notify)(bool here);
} provider = {
	.mutex = PTHREAD_MUTEX_INITIALIZER,
	.kick = PTHREAD_COND_INITIALIZER,
};

static atomic_bool here;

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * The environment as it was at the start: getenv() in one thread must not meet
 * setenv() in another, and these are asked for with each request.
 */
static struct {
	const char *name, *value;
} settings[] = {
	{ .name = "DPIF_BPF_SOCK" },
	{ .name = "DPIF_BPF_WAIT_MS" },
	{ .name = "DPIF_BPF_REPLY_MS" },
};

#define N_SETTINGS	(sizeof settings / sizeof *settings)

static void __attribute__((constructor)) read_environment(void)
{
	const char *value;
	size_t i;

	for (i = 0; i < N_SETTINGS; i++) {
		value = getenv(settings[i].name);
		settings[i].value = value ? strdup(value) : NULL;
	}
}

static const char *setting(const char *name)
{
	size_t i;

	for (i = 0; i < N_SETTINGS; i++)
		if (!strcmp(settings[i].name, name))
			return settings[i].value;
	return NULL;
}

static int env_ms(const char *name, int otherwise)
{
	const char *value = setting(name);
	char *end;
	long ms;

	if (!value || !*value)
		return otherwise;
	ms = strtol(value, &end, 10);
	return *end || ms < 0 || ms > 3600000 ? otherwise : (int) ms;
}

static int reply_ms(void)
{
	return env_ms("DPIF_BPF_REPLY_MS", REPLY_MS);
}

/*
 * Is the provider running, or waiting for a CPU or for the kernel?  One that is
 * stopped or deadlocked is not.  On a machine that is slow or has much to do,
 * a request takes its time, and the provider serves one after the other.  To
 * be asked every SLICE_MS.
 */
static bool provider_works(void)
{
	char path[32], stat[1024], state = '\0';
	const char *p;
	int64_t now = now_ms();
	ssize_t n;
	bool works;
	int fd;

	pthread_mutex_lock(&provider.mutex);
	snprintf(path, sizeof path, "/proc/%d/stat", (int) provider.pid);
	pthread_mutex_unlock(&provider.mutex);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, stat, sizeof stat - 1);
		REAL(close)(fd);
		stat[n > 0 ? n : 0] = '\0';
		p = strrchr(stat, ')');	/* a name may hold anything */
		if (p && p[1] == ' ')
			state = p[2];
	}
	pthread_mutex_lock(&provider.mutex);
	if (state == 'R' || state == 'D')
		provider.worked = now;
	works = now - provider.worked < reply_ms() / 2;
	pthread_mutex_unlock(&provider.mutex);
	return works;
}

/* Has the provider had its time for an answer that was due at `deadline`? */
static bool overdue(int64_t deadline)
{
	bool works = provider_works();

	return now_ms() >= deadline + (works ? reply_ms() * (LONG_FACTOR - 1)
				       : 0);
}

/* Time at which a call stops waiting for the provider to come back. */
static int64_t give_up_at(void)
{
	int64_t at;

	pthread_mutex_lock(&provider.mutex);
	at = provider.away_since ? provider.give_up : now_ms() + reply_ms();
	pthread_mutex_unlock(&provider.mutex);
	return at;
}

/* 0 as long as the provider is there or may be waited for, or the error with
 * which requests are refused. */
static int provider_error(void)
{
	int error = 0;

	if (atomic_load(&here))
		return 0;
	pthread_mutex_lock(&provider.mutex);
	if (provider.away_since && now_ms() >= provider.give_up)
		error = provider.error;
	pthread_mutex_unlock(&provider.mutex);
	return error;
}

static bool provider_mute(void)
{
	bool mute;

	pthread_mutex_lock(&provider.mutex);
	mute = provider.away_since && provider.error == ETIMEDOUT;
	pthread_mutex_unlock(&provider.mutex);
	return mute;
}

/* It is not even mute, but dead. */
static void provider_gone(void)
{
	pthread_mutex_lock(&provider.mutex);
	provider.error = ECONNREFUSED;
	pthread_mutex_unlock(&provider.mutex);
}

static void provider_here(void)
{
	pthread_mutex_lock(&provider.mutex);
	provider.seen = true;
	provider.away_since = 0;
	atomic_store(&here, true);
	pthread_mutex_unlock(&provider.mutex);
}

static const char *provider_path(void)
{
	const char *path = setting("DPIF_BPF_SOCK");

	if (path && *path)
		return path;
	pthread_mutex_lock(&provider.mutex);
	path = provider.path;
	pthread_mutex_unlock(&provider.mutex);
	if (path)
		return path;
	return access("/run/openvswitch", F_OK)
		? "/var/run/openvswitch/ovs-bpfd.sock"
		: "/run/openvswitch/ovs-bpfd.sock";
}

/* connect() to 'path', which may be longer than sun_path. */
static int connect_path(int s, const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	size_t len = strlen(path);
	const char *slash = strrchr(path, '/');
	char dir[4096];
	int dirfd = -1, rc, e;

	if (len < sizeof sun.sun_path) {
		memcpy(sun.sun_path, path, len + 1);
	} else {
		/* Through the directory's descriptor the name is short. */
		if (!slash || (size_t) (slash - path) >= sizeof dir)
			goto too_long;
		memcpy(dir, path, slash - path);
		dir[slash - path] = '\0';
		dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dirfd < 0)
			return -1;
		rc = snprintf(sun.sun_path, sizeof sun.sun_path,
			      "/proc/self/fd/%d%s", dirfd, slash);
		if (rc >= (int) sizeof sun.sun_path)
			goto too_long;
	}
	rc = REAL(connect)(s, (struct sockaddr *) &sun, sizeof sun);
	e = errno;
	if (dirfd >= 0)
		REAL(close)(dirfd);
	errno = e;
	return rc;

too_long:
	if (dirfd >= 0)
		REAL(close)(dirfd);
	errno = ENAMETOOLONG;
	return -1;
}

/* Connects to the provider.  The new descriptor or -1. */
static int dial(void)
{
	struct ucred peer;
	socklen_t len = sizeof peer;
	int size = SNDBUF;
	int s = REAL(socket)(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC
			     | SOCK_NONBLOCK, 0);

	if (s < 0)
		return -1;
	if (REAL(setsockopt)(s, SOL_SOCKET, SO_SNDBUFFORCE, &size,
			     sizeof size))
		REAL(setsockopt)(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	if (connect_path(s, provider_path())) {
		REAL(close)(s);
		return -1;
	}
	if (!getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &len)) {
		pthread_mutex_lock(&provider.mutex);
		provider.pid = peer.pid;
		pthread_mutex_unlock(&provider.mutex);
	}
	return s;
}

static uint32_t draw_port_id(void)
{
	uint32_t id = 0;

	while (!(id & INT32_MAX))
		if (getrandom(&id, sizeof id, 0) != sizeof id)
			id = (uint32_t) now_ms() * 2654435761u ^ getpid();
	return id & INT32_MAX;
}

static bool say_hello(struct conn *c, int s, bool ack)
{
	struct {
		struct nlmsghdr nlh;
		struct dpif_bpf_hello hello;
	} msg = {
		.nlh = {
			.nlmsg_len = sizeof msg,
			.nlmsg_type = DPIF_BPF_HELLO,
			.nlmsg_flags = NLM_F_REQUEST | (ack ? NLM_F_ACK : 0),
			.nlmsg_pid = c->port_id,
		},
		.hello = {
			.version = DPIF_BPF_VERSION,
			.protocol = c->protocol,
			.port_id = c->port_id,
			.groups = c->groups,
		},
	};

	if (REAL(send)(s, &msg, sizeof msg, MSG_DONTWAIT | MSG_NOSIGNAL)
	    != (ssize_t) sizeof msg)
		return false;
	c->hello_ack = ack;
	return true;
}

/* Moves the new connection of one that is down to its place. */
static void conn_swap(struct conn *c)
{
	const struct registration *reg;

	if (c->up || c->spare < 0 || dup3(c->spare, c->fd, O_CLOEXEC) < 0)
		return;
	REAL(close)(c->spare);
	c->spare = -1;
	c->up = true;
	for (reg = c->regs; reg; reg = reg->next) {
		struct epoll_event event = reg->event;

		REAL(epoll_ctl)(reg->epfd, EPOLL_CTL_ADD, c->fd, &event);
	}
	pthread_cond_broadcast(&c->changed);
}

/* Connects one that is down again.  Called with it locked. */
static bool conn_redial(struct conn *c)
{
	int s = dial();

	if (s < 0)
		return false;
	if (!say_hello(c, s, false)
	    || (c->pending
		&& REAL(send)(s, c->req, c->req_len,
			      MSG_DONTWAIT | MSG_NOSIGNAL) < 0)) {
		REAL(close)(s);
		return false;
	}
	c->spare = s;
	c->stale = 0;
	c->lost = c->groups != 0;
	c->deadline = now_ms() + reply_ms();
	if (!provider_mute())
		provider_here();
	if (c->peer >= 0) {
		REAL(close)(c->peer);
		c->peer = -1;
	}
	if (c->regs)
		conn_swap(c);
	pthread_cond_broadcast(&c->changed);
	return true;
}

/* ------------------------------------------------------------------------
 * The watcher: reconnects what is down. */

/* One pass over all connections.  Returns true when none is left down. */
static bool reconnect_all(bool *any)
{
	struct conn *c;

	for (c = atomic_load(&conns); c; c = c->next) {
		bool ok = true;

		pthread_mutex_lock(&c->mutex);
		if (c->fd >= 0 && !c->up && c->spare < 0) {
			ok = conn_redial(c);
			*any |= ok;
		}
		pthread_mutex_unlock(&c->mutex);
		if (!ok) {
			provider_gone();
			return false;
		}
	}
	return true;
}

static int backoff_ms(int64_t away_since)
{
	int64_t away = away_since ? now_ms() - away_since : 0;

	return away < 5000 ? 20 : away < 60000 ? 100 : 500;
}

static void notify(bool is_here)
{
	void (*cb)(bool);

	pthread_mutex_lock(&provider.mutex);
	cb = provider.notify;
	pthread_mutex_unlock(&provider.mutex);
	if (cb)
		cb(is_here);
}

/* What members of groups were not told, or was answered without asking while
 * the provider was mute, may have changed since. */
static void members_lost(void)
{
	struct conn *c;

	for (c = atomic_load(&conns); c; c = c->next) {
		pthread_mutex_lock(&c->mutex);
		if (c->fd >= 0 && c->groups)
			c->lost = true;
		pthread_mutex_unlock(&c->mutex);
	}
}

/* Says HELLO on a connection of its own, '*probe' (-1: none), and waits for a
 * moment for the answer.  Returns true when the provider is there. */
static bool provider_found(int *probe)
{
	struct pollfd pfd = { .events = POLLIN };
	char ack[ERRLEN];
	ssize_t n = -1;

	if (atomic_load(&here))
		return true;
	if (*probe < 0) {
		struct conn stranger = {
			.protocol = NETLINK_GENERIC,
			.port_id = draw_port_id(),
		};

		*probe = dial();
		if (*probe >= 0)
			say_hello(&stranger, *probe, true);
	}
	pfd.fd = *probe;
	if (*probe >= 0) {
		if (!poll(&pfd, 1, SLICE_MS))
			return false;
		n = REAL(recv)(*probe, ack, sizeof ack, MSG_DONTWAIT);
		REAL(close)(*probe);
		*probe = -1;
	}
	if (n <= 0) {
		provider_gone();
		return false;
	}
	provider_here();
	members_lost();
	return true;
}

static void *watch(void *aux)
{
	bool any = false, said_away = false;
	int probe = -1;

	(void) aux;
	for (;;) {
		pthread_mutex_lock(&provider.mutex);
		while (!provider.kicked)
			pthread_cond_wait(&provider.kick, &provider.mutex);
		provider.kicked = false;
		pthread_mutex_unlock(&provider.mutex);

		while (!reconnect_all(&any) || !provider_found(&probe)) {
			struct timespec pause = { 0 };
			int64_t since;

			if (!said_away) {
				said_away = true;
				notify(false);
			}
			if (probe >= 0)
				continue;
			pthread_mutex_lock(&provider.mutex);
			since = provider.away_since;
			pthread_mutex_unlock(&provider.mutex);
			pause.tv_nsec = backoff_ms(since) * 1000000L;
			nanosleep(&pause, NULL);
		}
		if (any || said_away)
			notify(true);
		any = said_away = false;
	}
	return NULL;
}

/*
 * Notes that the provider does not serve a connection, and has the watcher
 * look after it: with ECONNREFUSED that it is down, with ETIMEDOUT that the
 * provider is mute, for which there is nothing more to wait.
 */
static void provider_missed(int error)
{
	pthread_mutex_lock(&provider.mutex);
	if (!provider.away_since) {
		int ms = env_ms("DPIF_BPF_WAIT_MS", WAIT_MS);

		if (!provider.seen && ms > FIRST_WAIT_MS)
			ms = FIRST_WAIT_MS;
		provider.away_since = now_ms();
		provider.give_up = provider.away_since + ms;
		provider.error = ECONNREFUSED;
	}
	if (error == ETIMEDOUT) {
		provider.give_up = now_ms();
		provider.error = error;
	}
	atomic_store(&here, false);
	provider.kicked = true;
	if (!provider.thread) {
		sigset_t all, old;
		pthread_attr_t attr;
		pthread_t thread;

		sigfillset(&all);
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		provider.thread = !pthread_create(&thread, &attr, watch, NULL);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		pthread_attr_destroy(&attr);
	}
	pthread_cond_signal(&provider.kick);
	pthread_mutex_unlock(&provider.mutex);
}

static void init_changed(struct conn *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->changed, &attr);
	pthread_condattr_destroy(&attr);
}

/* After fork(): threads are gone, which may hold locks, or be waited for by
 * those who signal a condition. */
static void in_child(void)
{
	struct conn *c;

	pthread_mutex_init(&provider.mutex, NULL);
	pthread_cond_init(&provider.kick, NULL);
	provider.thread = false;
	for (c = atomic_load(&conns); c; c = c->next) {
		pthread_mutex_init(&c->mutex, NULL);
		init_changed(c);
	}
}

static void __attribute__((constructor)) watch_forks(void)
{
	pthread_atfork(NULL, NULL, in_child);
}

/* ------------------------------------------------------------------------
 * Connections' lives. */

/* Puts a silent descriptor in the place of c->fd. */
static void conn_placeholder(struct conn *c)
{
	int pair[2];

	c->peer = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return;
	if (c->fd < 0) {
		c->fd = pair[0];
	} else {
		/* Pollers of the old connection must not sleep on. */
		shutdown(c->fd, SHUT_RDWR);
		if (dup3(pair[0], c->fd, O_CLOEXEC) < 0) {
			REAL(close)(pair[0]);
			REAL(close)(pair[1]);
			return;
		}
		REAL(close)(pair[0]);
	}
	c->peer = pair[1];
}

/* The connection has ended.  Called with it locked. */
static void conn_down(struct conn *c)
{
	conn_placeholder(c);
	c->up = false;
	c->hello_ack = false;
	if (c->pending && (!c->dump || c->delivered)) {
		c->pending = false;
		c->lost = true;
	}
	provider_missed(ECONNREFUSED);
}

/* Waits until the connection is up.  Called with it locked. */
static bool conn_wait_up(struct conn *c)
{
	int64_t until = give_up_at();
	struct timespec ts = {
		.tv_sec = until / 1000,
		.tv_nsec = until % 1000 * 1000000L,
	};

	conn_swap(c);
	while (!c->up && c->fd >= 0) {
		if (pthread_cond_timedwait(&c->changed, &c->mutex, &ts))
			break;
		conn_swap(c);
	}
	return c->up;
}

/* Has recvmsg() say, for each message of the request that is not answered
 * yet, that it fails with 'error'. */
static void conn_refuse(struct conn *c, int error)
{
	const struct nlmsghdr *nlh;

	c->pending = false;
	c->refused = error;
	for (c->refuse_ofs = 0; c->refuse_ofs < c->req_len;
	     c->refuse_ofs += NLMSG_ALIGN(nlh->nlmsg_len)) {
		nlh = (const struct nlmsghdr *) (c->req + c->refuse_ofs);
		if ((int32_t) (nlh->nlmsg_seq - c->answered) > 0)
			return;
	}
	c->refused = 0;
}

/* The provider is not waited for any longer.  A late answer must not meet a
 * later request: the connection ends, too. */
static void conn_give_up(struct conn *c, int error)
{
	provider_missed(error);
	c->pending = false;
	if (c->up)
		conn_down(c);
}

/* Sleeps until 'fd' has one of 'events', or 'deadline' (0: none) is past. */
static bool conn_poll(struct conn *c, short events, int64_t deadline)
{
	struct pollfd pfd = { .fd = c->fd, .events = events };
	int64_t left = deadline ? deadline - now_ms() : -1;

	if (deadline && left <= 0)
		return false;
	conn_unlock(c);
	poll(&pfd, 1, left > 3600000 ? 3600000 : (int) left);
	pthread_mutex_lock(&c->mutex);
	return c->fd >= 0;
}

static struct conn *conn_alloc(void)
{
	struct conn *c;

	for (c = atomic_load(&conns); c; c = c->next) {
		pthread_mutex_lock(&c->mutex);
		if (c->fd < 0 && !c->port_id)
			return c;
		pthread_mutex_unlock(&c->mutex);
	}
	c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	c->fd = -1;
	pthread_mutex_init(&c->mutex, NULL);
	init_changed(c);
	pthread_mutex_lock(&c->mutex);
	c->next = atomic_load(&conns);
	while (!atomic_compare_exchange_weak(&conns, &c->next, c))
		continue;
	return c;
}

static int conn_open(uint32_t protocol)
{
	struct conn *c = conn_alloc();
	int fd, s;

	if (!c) {
		errno = ENOMEM;
		return -1;
	}
	c->protocol = protocol;
	c->port_id = draw_port_id();
	c->groups = 0;
	c->lost = c->asked = c->pending = c->hello_ack = c->up = false;
	c->stale = 0;
	c->refused = 0;
	c->peer = c->spare = -1;
	s = provider_mute() ? -1 : dial();
	if (s >= 0 && say_hello(c, s, false)) {
		c->fd = s;
		c->up = true;
	} else {
		if (s >= 0)
			REAL(close)(s);
		conn_placeholder(c);
		if (c->fd < 0)
			goto error;
	}
	if (!slot_set(c->fd, c)) {
		REAL(close)(c->fd);
		if (c->peer >= 0)
			REAL(close)(c->peer);
		c->fd = c->peer = -1;
		errno = EMFILE;
		goto error;
	}
	if (c->up)
		provider_here();
	else
		provider_missed(ECONNREFUSED);
	fd = c->fd;
	conn_unlock(c);
	return fd;

error:
	c->port_id = 0;
	conn_unlock(c);
	return -1;
}

static void conn_free(struct conn *c)
{
	struct registration *reg;

	slot_set(c->fd, NULL);
	if (c->peer >= 0)
		REAL(close)(c->peer);
	if (c->spare >= 0)
		REAL(close)(c->spare);
	while ((reg = c->regs)) {
		c->regs = reg->next;
		free(reg);
	}
	free(c->req);
	c->req = NULL;
	c->req_len = c->req_cap = 0;
	c->fd = c->peer = c->spare = -1;
	c->port_id = 0;
	c->up = c->pending = false;
	pthread_cond_broadcast(&c->changed);
}

/* ------------------------------------------------------------------------
 * Messages out. */

/* Gathers the request into c->req and finds out how its answer ends. */
static int conn_request(struct conn *c, const struct msghdr *msg)
{
	struct nlmsghdr *last = NULL;
	size_t len = 0, ofs, i;

	for (i = 0; i < (size_t) msg->msg_iovlen; i++)
		len += msg->msg_iov[i].iov_len;
	if (len < HDRLEN)
		return EINVAL;
	if (len > c->req_cap) {
		uint8_t *req = realloc(c->req, len);

		if (!req)
			return ENOBUFS;
		c->req = req;
		c->req_cap = len;
	}
	for (ofs = i = 0; i < (size_t) msg->msg_iovlen; i++) {
		memcpy(c->req + ofs, msg->msg_iov[i].iov_base,
		       msg->msg_iov[i].iov_len);
		ofs += msg->msg_iov[i].iov_len;
	}
	c->req_len = len;

	for (ofs = 0; ofs + HDRLEN <= len; ofs += NLMSG_ALIGN(last->nlmsg_len)) {
		last = (struct nlmsghdr *) (c->req + ofs);
		if (last->nlmsg_len < HDRLEN || last->nlmsg_len > len - ofs)
			return EINVAL;
		if (!ofs)
			c->answered = last->nlmsg_seq - 1;
	}
	/* An acknowledgement of the last request may have been left unread,
	 * because its reply was all that mattered. */
	if (c->pending && c->added_ack)
		c->stale = c->seq;
	c->seq = last->nlmsg_seq;
	c->dump = (last->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
	c->added_ack = !c->dump && !(last->nlmsg_flags & NLM_F_ACK);
	c->delivered = false;
	c->pending = false;
	c->refused = 0;
	if (!c->groups)
		c->lost = false;
	if (!c->dump)
		last->nlmsg_flags |= NLM_F_ACK;
	return 0;
}

/* Waits until the provider has seen a HELLO.  Returns false when it is not
 * connected any more. */
static bool conn_wait_hello(struct conn *c)
{
	int64_t deadline = now_ms() + reply_ms();

	while (c->up && c->hello_ack) {
		struct {
			struct nlmsghdr nlh;
			struct nlmsgerr err;
		} ack;
		ssize_t n = REAL(recv)(c->fd, &ack, sizeof ack,
				       MSG_DONTWAIT | MSG_PEEK);

		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			int error = provider_error();

			if (!error && overdue(deadline))
				error = ETIMEDOUT;
			if (error)
				conn_give_up(c, error);
			else
				conn_poll(c, POLLIN, now_ms() + SLICE_MS);
		} else if (n >= (ssize_t) sizeof ack
			   && ack.nlh.nlmsg_type == NLMSG_ERROR
			   && ack.err.msg.nlmsg_type == DPIF_BPF_HELLO) {
			REAL(recv)(c->fd, &ack, sizeof ack, MSG_DONTWAIT);
			c->hello_ack = false;
		} else if (!n) {
			conn_down(c);
		} else {
			break;		/* events: recvmsg() sorts it out */
		}
	}
	return c->up;
}

/* Says HELLO and waits until the provider has seen it. */
static bool conn_greet(struct conn *c)
{
	if (say_hello(c, c->fd, true))
		return conn_wait_hello(c);
	conn_down(c);
	return false;
}

/* Is it a request that loads programs, or deletes all flows? */
static bool takes_long(const struct conn *c)
{
	const struct nlmsghdr *nlh = (const struct nlmsghdr *) c->req;
	uint8_t cmd = c->req_len > HDRLEN ? c->req[HDRLEN] : 0;

	if (nlh->nlmsg_type == DPIF_BPF_FIRST_FAMILY)
		return cmd == OVS_DP_CMD_NEW || cmd == OVS_DP_CMD_DEL;
	return nlh->nlmsg_type == DPIF_BPF_FIRST_FAMILY + 2
	       && cmd == OVS_FLOW_CMD_DEL
	       && nlh->nlmsg_len == NLMSG_LENGTH(GENL_HDRLEN
						 + sizeof(struct ovs_header));
}

static ssize_t conn_send(struct conn *c, const struct msghdr *msg, int flags)
{
	int64_t deadline = now_ms() + reply_ms();
	int error = conn_request(c, msg);
	bool longer = !error && takes_long(c);

	while (!error) {
		int refused = provider_error();
		ssize_t n;

		conn_swap(c);
		if (refused || !c->up) {
			if (flags & MSG_DONTWAIT) {
				error = EAGAIN;
			} else if (refused || !conn_wait_up(c)) {
				conn_refuse(c, refused ? refused
						       : ECONNREFUSED);
				return c->req_len;
			}
			continue;
		}
		/* Before it is waited for so long, it is to show that it is
		 * there. */
		if (longer && !conn_greet(c))
			continue;
		n = REAL(send)(c->fd, c->req, c->req_len,
			       MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			c->pending = true;
			c->deadline = now_ms()
				+ reply_ms() * (longer ? LONG_FACTOR : 1);
			return n;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK) {
			if (flags & MSG_DONTWAIT)
				error = EAGAIN;
			else if (!conn_poll(c, POLLOUT, deadline))
				conn_give_up(c, ETIMEDOUT);
		} else if (errno == EMSGSIZE || errno == ENOMEM
			   || errno == ENOBUFS) {
			error = errno == ENOMEM ? ENOBUFS : errno;
		} else if (errno != EINTR) {
			conn_down(c);
		}
	}
	errno = error;
	return -1;
}

/* ------------------------------------------------------------------------
 * Messages in. */

/* Copies 'n' bytes at 'ofs' out of scattered data. */
static void gather(const struct msghdr *msg, size_t ofs, void *dst_, size_t n)
{
	uint8_t *dst = dst_;
	size_t i;

	for (i = 0; n && i < (size_t) msg->msg_iovlen; i++) {
		size_t len = msg->msg_iov[i].iov_len;

		if (ofs < len) {
			size_t take = len - ofs < n ? len - ofs : n;

			memcpy(dst, (uint8_t *) msg->msg_iov[i].iov_base + ofs,
			       take);
			dst += take;
			n -= take;
			ofs = 0;
		} else {
			ofs -= len;
		}
	}
}

/*
 * Looks at a received datagram of 'len' bytes: is it the end of what is
 * outstanding, is it nobody's business but ours?  Returns how many of its
 * bytes concern the caller, 0 for none.
 */
static size_t conn_inspect(struct conn *c, const struct msghdr *msg,
			   size_t len)
{
	size_t ofs, room = 0, i;

	if (!c->pending && !c->stale && !c->hello_ack)
		return len;
	for (i = 0; i < (size_t) msg->msg_iovlen; i++)
		room += msg->msg_iov[i].iov_len;
	if (room > len)
		room = len;
	for (ofs = 0; ofs + HDRLEN <= room;) {
		bool swallow = false;
		struct nlmsghdr nlh;

		gather(msg, ofs, &nlh, sizeof nlh);
		if (nlh.nlmsg_len < HDRLEN || nlh.nlmsg_len > room - ofs)
			break;
		if ((int32_t) (nlh.nlmsg_seq - c->answered) > 0
		    && (int32_t) (c->seq - nlh.nlmsg_seq) > 0)
			c->answered = nlh.nlmsg_seq;
		if (nlh.nlmsg_type == NLMSG_ERROR
		    && nlh.nlmsg_len >= (uint32_t) ERRLEN) {
			struct nlmsgerr err;
			bool mine;

			gather(msg, ofs + HDRLEN, &err, sizeof err);
			mine = c->pending && nlh.nlmsg_seq == c->seq;
			if (err.msg.nlmsg_type == DPIF_BPF_HELLO) {
				c->hello_ack = false;
				swallow = true;
			} else if (mine && c->dump) {
				swallow = !err.error;
				c->pending = swallow;
			} else if (mine) {
				swallow = !err.error && c->added_ack;
				c->pending = false;
			} else if (c->stale && nlh.nlmsg_seq == c->stale) {
				swallow = !err.error;
				c->stale = 0;
			}
		} else if (nlh.nlmsg_type == NLMSG_DONE && c->dump
			   && nlh.nlmsg_seq == c->seq) {
			c->pending = false;
		}
		if (swallow && ofs + NLMSG_ALIGN(nlh.nlmsg_len) >= room)
			return ofs;
		if (!swallow)
			c->delivered = true;
		ofs += NLMSG_ALIGN(nlh.nlmsg_len);
	}
	return len;
}

/* Tells who sent a received message, as recvmsg() does. */
static void set_sender(struct msghdr *msg, const struct msghdr *orig)
{
	struct sockaddr_nl nl = { .nl_family = AF_NETLINK };

	msg->msg_name = orig->msg_name;
	msg->msg_namelen = 0;
	if (orig->msg_name && orig->msg_namelen >= sizeof nl) {
		memcpy(orig->msg_name, &nl, sizeof nl);
		msg->msg_namelen = sizeof nl;
	}
}

/* "Receives" that the next message of a refused request fails. */
static ssize_t conn_refusal(struct conn *c, struct msghdr *msg, int flags)
{
	const struct nlmsghdr *nlh
		= (const struct nlmsghdr *) (c->req + c->refuse_ofs);
	struct {
		struct nlmsghdr nlh;
		struct nlmsgerr err;
	} answer = {
		.nlh = {
			.nlmsg_len = sizeof answer,
			.nlmsg_type = NLMSG_ERROR,
			.nlmsg_seq = nlh->nlmsg_seq,
			.nlmsg_pid = c->port_id,
		},
		.err = { .error = -c->refused, .msg = *nlh },
	};
	size_t i, ofs, n;

	for (ofs = i = 0; i < (size_t) msg->msg_iovlen; i++, ofs += n) {
		n = msg->msg_iov[i].iov_len;
		if (n > sizeof answer - ofs)
			n = sizeof answer - ofs;
		memcpy(msg->msg_iov[i].iov_base, (uint8_t *) &answer + ofs, n);
	}
	if (!(flags & MSG_PEEK)) {
		c->answered = nlh->nlmsg_seq;
		conn_refuse(c, c->refused);
	}
	msg->msg_controllen = 0;
	msg->msg_flags = ofs < sizeof answer ? MSG_TRUNC : 0;
	return flags & MSG_TRUNC ? sizeof answer : ofs;
}

static ssize_t conn_recv(struct conn *c, struct msghdr *msg, int flags)
{
	const struct msghdr orig = *msg;
	bool reset = false;

	for (;;) {
		ssize_t n;
		int error;

		conn_swap(c);
		if (c->refused) {
			n = conn_refusal(c, msg, flags);
			set_sender(msg, &orig);
			return n;
		}
		if (c->lost && !c->asked) {
			c->lost = false;
			errno = ENOBUFS;
			return -1;
		}
		if (!c->up) {
			if ((flags & MSG_DONTWAIT) && !c->pending) {
				errno = EAGAIN;
				return -1;
			}
			if (!conn_wait_up(c)) {
				if (!c->pending) {
					errno = ECONNREFUSED;
					return -1;
				}
				error = provider_error();
				conn_refuse(c, error ? error : ECONNREFUSED);
			}
			continue;
		}
		*msg = orig;
		msg->msg_name = NULL;
		n = REAL(recvmsg)(c->fd, msg, flags | MSG_DONTWAIT
				  | MSG_CMSG_CLOEXEC);
		if (n > 0) {
			size_t len = n;

			reset = false;
			if (!(flags & MSG_PEEK))
				len = conn_inspect(c, msg, n);
			if (!len)
				continue;
			if (c->pending)
				c->deadline = now_ms() + reply_ms();
			set_sender(msg, &orig);
			return len;
		}
		if (!n || (errno == ECONNRESET && reset)) {
			conn_down(c);
		} else if (errno == ECONNRESET) {
			/* Said once, ahead of what is queued. */
			reset = true;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			if (!c->pending) {
				if (flags & MSG_DONTWAIT)
					return -1;
				conn_poll(c, POLLIN, 0);
				continue;
			}
			error = provider_error();
			if (!error && overdue(c->deadline))
				error = ETIMEDOUT;
			if (error) {
				conn_give_up(c, error);
				conn_refuse(c, error);
			} else {
				conn_poll(c, POLLIN, now_ms() + SLICE_MS);
			}
		} else if (errno != EINTR) {
			return -1;
		}
	}
}

/* ------------------------------------------------------------------------
 * Memberships. */

static int conn_setsockopt(struct conn *c, int name, const void *value,
			   socklen_t len)
{
	uint32_t groups = c->groups;
	unsigned int group;

	if (name == NETLINK_EXT_ACK)
		return 0;		/* the provider always sends them */
	if (name != NETLINK_ADD_MEMBERSHIP && name != NETLINK_DROP_MEMBERSHIP) {
		errno = ENOPROTOOPT;
		return -1;
	}
	if (len < sizeof group) {
		errno = EINVAL;
		return -1;
	}
	memcpy(&group, value, sizeof group);
	if (!group || group > 32) {
		errno = EINVAL;
		return -1;
	}
	if (name == NETLINK_ADD_MEMBERSHIP)
		groups |= UINT32_C(1) << (group - 1);
	else
		groups &= ~(UINT32_C(1) << (group - 1));
	if (groups == c->groups)
		return 0;
	c->groups = groups;
	conn_swap(c);
	/* What the caller asks next, perhaps on another socket, must not be
	 * answered before the provider has seen the membership. */
	if (c->up && !provider_error())
		conn_greet(c);
	return 0;
}

/* ------------------------------------------------------------------------
 * epoll. */

static int conn_epoll_ctl(struct conn *c, int epfd, int op, int fd,
			  struct epoll_event *event)
{
	struct registration **regp, *reg;
	int rc = 0;

	for (regp = &c->regs; *regp && (*regp)->epfd != epfd;
	     regp = &(*regp)->next)
		continue;
	reg = *regp;
	if (op == EPOLL_CTL_ADD ? reg != NULL : reg == NULL) {
		errno = op == EPOLL_CTL_ADD ? EEXIST : ENOENT;
		return -1;
	}
	conn_swap(c);
	if (c->up)
		rc = REAL(epoll_ctl)(epfd, op, fd, event);
	if (op == EPOLL_CTL_DEL) {
		*regp = reg->next;
		free(reg);
		return rc;
	}
	if (rc)
		return rc;
	if (op == EPOLL_CTL_ADD) {
		reg = calloc(1, sizeof *reg);
		if (!reg || (!slot_get(epfd) && !slot_set(epfd, EPOLL))) {
			free(reg);
			if (c->up)
				REAL(epoll_ctl)(epfd, EPOLL_CTL_DEL, fd, NULL);
			errno = ENOMEM;
			return -1;
		}
		reg->epfd = epfd;
		reg->next = c->regs;
		c->regs = reg;
	}
	reg->event = *event;
	return 0;
}

/* An epoll instance is closed: its number may come to mean another. */
static void forget_epoll(int epfd)
{
	struct registration **regp, *reg;
	struct conn *c;

	slot_set(epfd, NULL);
	for (c = atomic_load(&conns); c; c = c->next) {
		pthread_mutex_lock(&c->mutex);
		for (regp = &c->regs; (reg = *regp);) {
			if (reg->epfd == epfd) {
				*regp = reg->next;
				free(reg);
			} else {
				regp = &reg->next;
			}
		}
		pthread_mutex_unlock(&c->mutex);
	}
}

/* ------------------------------------------------------------------------
 * What the plugin asks (transport.h). */

void dpif_bpf_transport_set_path(const char *path)
{
	pthread_mutex_lock(&provider.mutex);
	provider.path = path ? strdup(path) : NULL;
	pthread_mutex_unlock(&provider.mutex);
}

void dpif_bpf_transport_set_notify(void (*cb)(bool))
{
	pthread_mutex_lock(&provider.mutex);
	provider.notify = cb;
	pthread_mutex_unlock(&provider.mutex);
}

const char *dpif_bpf_transport_path(void)
{
	return provider_path();
}

bool dpif_bpf_transport_seen(void)
{
	bool seen;

	pthread_mutex_lock(&provider.mutex);
	seen = provider.seen;
	pthread_mutex_unlock(&provider.mutex);
	return seen;
}

bool dpif_bpf_transport_lost(int fd)
{
	struct conn *c = conn_lock(fd);
	bool lost = false;

	if (c) {
		c->asked = true;
		conn_swap(c);
		lost = c->up && c->lost;
		if (lost)
			c->lost = false;
		conn_unlock(c);
	}
	return lost;
}

/* ------------------------------------------------------------------------
 * The interposed functions. */

EXPORT int socket(int domain, int type, int protocol)
{
	if (domain == AF_NETLINK) {
		if (protocol == DPIF_BPF_NETLINK_GENERIC)
			return conn_open(NETLINK_GENERIC);
		if (protocol == DPIF_BPF_NETLINK_NETFILTER)
			return conn_open(NETLINK_NETFILTER);
	}
	return REAL(socket)(domain, type, protocol);
}

EXPORT int close(int fd)
{
	void *slot = slot_get(fd);

	if (slot == EPOLL) {
		forget_epoll(fd);
	} else if (slot) {
		struct conn *c = conn_lock(fd);

		if (c) {
			int rc;

			/* The number is free for others only after close(). */
			conn_free(c);
			rc = REAL(close)(fd);
			conn_unlock(c);
			return rc;
		}
	}
	return REAL(close)(fd);
}

EXPORT int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		conn_unlock(c);
		if (len >= sizeof addr->sa_family
		    && addr->sa_family == AF_NETLINK)
			return 0;
		errno = EINVAL;
		return -1;
	}
	return REAL(connect)(fd, addr, len);
}

EXPORT int getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		struct sockaddr_nl nl = {
			.nl_family = AF_NETLINK,
			.nl_pid = c->port_id,
			.nl_groups = c->groups,
		};

		conn_unlock(c);
		memcpy(addr, &nl, *len < sizeof nl ? *len : sizeof nl);
		*len = sizeof nl;
		return 0;
	}
	return REAL(getsockname)(fd, addr, len);
}

EXPORT int setsockopt(int fd, int level, int name, const void *value,
		      socklen_t len)
{
	struct conn *c = level == SOL_NETLINK && slot_get(fd)
		? conn_lock(fd) : NULL;

	if (c) {
		int rc = conn_setsockopt(c, name, value, len);

		conn_unlock(c);
		return rc;
	}
	return REAL(setsockopt)(fd, level, name, value, len);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		ssize_t n = conn_send(c, msg, flags);

		conn_unlock(c);
		return n;
	}
	return REAL(sendmsg)(fd, msg, flags);
}

EXPORT ssize_t send(int fd, const void *data, size_t size, int flags)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		struct iovec iov = { (void *) data, size };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n = conn_send(c, &msg, flags);

		conn_unlock(c);
		return n;
	}
	return REAL(send)(fd, data, size, flags);
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		ssize_t n = conn_recv(c, msg, flags);

		conn_unlock(c);
		return n;
	}
	return REAL(recvmsg)(fd, msg, flags);
}

EXPORT ssize_t recv(int fd, void *data, size_t size, int flags)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		struct iovec iov = { data, size };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n = conn_recv(c, &msg, flags);

		conn_unlock(c);
		return n;
	}
	return REAL(recv)(fd, data, size, flags);
}

/* What recv() becomes in programs built with _FORTIFY_SOURCE. */
EXPORT ssize_t __recv_chk(int fd, void *data, size_t size, size_t room,
			  int flags);

ssize_t __recv_chk(int fd, void *data, size_t size, size_t room, int flags)
{
	if (size > room)
		abort();
	return recv(fd, data, size, flags);
}

EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct conn *c = slot_get(fd) ? conn_lock(fd) : NULL;

	if (c) {
		int rc = conn_epoll_ctl(c, epfd, op, fd, event);

		conn_unlock(c);
		return rc;
	}
	return REAL(epoll_ctl)(epfd, op, fd, event);
}
