#include "proxy/net/relay.h"

#include "proxy/core/arena.h"
#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TURN_BYTES = 256 << 10, CHUNK = 128 << 10 };

struct side {
	struct weft_relay *r;
	int fd;
	bool eof;  /* it sent all it will */
	bool shut; /* we told it that the other did */
	struct event rd, wr;
	struct evbuffer *held; /* for this side to take; NULL when empty */
	uint64_t *written;
};

struct weft_relay {
	struct weft_relay_conf conf;
	struct side s[2];
};

static __thread uint8_t chunk[CHUNK];

static struct side *other(struct side *s)
{
	return s == &s->r->s[0] ? &s->r->s[1] : &s->r->s[0];
}

static bool reset_errno(int e)
{
	return e != EAGAIN && e != EINTR;
}

void weft_relay_free(struct weft_relay *r)
{
	if (!r)
		return;
	for (int i = 0; i < 2; i++) {
		event_del(&r->s[i].rd);
		event_del(&r->s[i].wr);
		if (r->s[i].held)
			evbuffer_free(r->s[i].held);
	}
	free(r);
}

/* Ends it and frees; the caller returns at once. */
static void finish(struct weft_relay *r, enum weft_relay_end why)
{
	struct weft_relay_conf conf = r->conf;

	weft_relay_free(r);
	conf.ended(conf.owner, why);
}

static void reset_by(struct side *s)
{
	finish(s->r, s == &s->r->s[0] ? WEFT_RELAY_A_RESET : WEFT_RELAY_B_RESET);
}

/* to has taken all that from sent before its EOF: pass the EOF on. True: the relay is over and
 * freed. */
static bool pass_eof(struct side *from, struct side *to)
{
	if (!from->eof || to->shut || to->held)
		return false;
	to->shut = true;
	if (shutdown(to->fd, SHUT_WR) < 0 && errno != ENOTCONN) {
		reset_by(to);
		return true;
	}
	if (!to->eof || !from->shut)
		return false;
	finish(from->r, WEFT_RELAY_OK);
	return true;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct side *to = arg, *from = other(to);
	int n = evbuffer_write(to->held, fd);

	if (n < 0) {
		if (reset_errno(errno))
			reset_by(to);
		return;
	}
	*to->written += (uint64_t)n;
	if (evbuffer_get_length(to->held) > 0)
		return;
	evbuffer_free(to->held);
	to->held = NULL;
	event_del(&to->wr);
	if (!from->eof)
		event_add(&from->rd, NULL);
	pass_eof(from, to);
}

/* Writes what it can and holds the rest. False: to is gone. */
static bool put(struct side *to, const uint8_t *p, size_t n)
{
	ssize_t k = send(to->fd, p, n, MSG_NOSIGNAL);

	if (k < 0) {
		if (reset_errno(errno))
			return false;
		k = 0;
	}
	*to->written += (uint64_t)k;
	if ((size_t)k == n)
		return true;
	to->held = evbuffer_new();
	assert(to->held);
	evbuffer_add(to->held, p + k, n - (size_t)k);
	event_add(&to->wr, NULL);
	return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct side *from = arg, *to = other(from);
	size_t done = 0;

	while (done < TURN_BYTES) {
		ssize_t n = recv(fd, chunk, sizeof(chunk), 0);

		if (n < 0) {
			if (reset_errno(errno))
				reset_by(from);
			return;
		}
		if (n == 0) {
			from->eof = true;
			event_del(&from->rd);
			pass_eof(from, to);
			return;
		}
		if (!put(to, chunk, (size_t)n)) {
			reset_by(to);
			return;
		}
		if (to->held) { /* no more until it is taken */
			event_del(&from->rd);
			return;
		}
		done += (size_t)n;
		if ((size_t)n < sizeof(chunk))
			return;
	}
}

struct weft_relay *weft_relay_new(const struct weft_relay_conf *conf)
{
	struct weft_relay *r = weft_xcalloc(1, sizeof(*r));

	_Static_assert((int)CHUNK <= (int)WEFT_RELAY_HELD, "a rest is at most one chunk");
	r->conf = *conf;
	r->s[0].fd = conf->a;
	r->s[1].fd = conf->b;
	r->s[0].written = conf->b_to_a;
	r->s[1].written = conf->a_to_b;
	for (int i = 0; i < 2; i++) {
		struct side *s = &r->s[i];

		s->r = r;
		event_assign(&s->rd, conf->base, s->fd, EV_READ | EV_PERSIST, on_readable, s);
		event_assign(&s->wr, conf->base, s->fd, EV_WRITE | EV_PERSIST, on_writable, s);
		event_add(&s->rd, NULL);
	}
	return r;
}
