/* Several connects for one stream; see race.h. */
#include "proxy/core/arena.h"
#include "proxy/net/io_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct attempt {
	struct weft_race *of;
	struct event ev;
	int fd; /* -1: not begun, or over */
};
struct weft_race {
	struct event_base *base;
	struct weft_io *io; /* NULL until the stream is made */
	struct weft_dial dial;
	struct weft_race_try *v;
	struct attempt *at;
	size_t n, next, open;
	int err; /* of the one that failed last */
	struct event timer;
};

static void on_event(evutil_socket_t fd, short what, void *arg);

static int connect_to(struct weft_race *r, size_t i)
{
	struct attempt *a = &r->at[i];
	struct weft_dial d = r->dial;
	struct sockaddr_storage ss;
	socklen_t n;
	int fd, err;

	d.to = r->v[i].to;
	d.from = r->v[i].from;
	n = weft_sockaddr_to_kernel(&d.to, 0, &ss);
	if (!n)
		return -EINVAL;
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	err = weft_dial_socket(fd, &d, ss.ss_family);
	if (!err && connect(fd, (struct sockaddr *)&ss, n) < 0 && errno != EINPROGRESS)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	a->fd = fd;
	event_assign(&a->ev, r->base, fd, EV_WRITE | EV_PERSIST, on_event, a);
	if (event_add(&a->ev, NULL) < 0)
		abort();
	return 0;
}

static void over(struct attempt *a)
{
	event_del(&a->ev);
	close(a->fd);
	a->fd = -1;
	a->of->open--;
}

/* The next one that can be begun; the one after it has its time. */
static void go_on(struct weft_race *r)
{
	static const struct timeval later = {0, WEFT_RACE_NEXT_MS * 1000};

	event_del(&r->timer);
	while (r->next < r->n) {
		int err = connect_to(r, r->next++);

		if (err) {
			r->err = err;
			continue;
		}
		r->open++;
		if (r->next < r->n)
			event_add(&r->timer, &later);
		return;
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	go_on(arg);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct attempt *a = arg;
	struct weft_race *r = a->of;
	struct weft_io *io = r->io;
	int err = 0;
	socklen_t n = sizeof(err);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
		err = errno;
	if (!err) {
		const struct weft_sockaddr to = r->v[a - r->at].to;

		event_del(&a->ev);
		a->fd = -1;
		weft_sock_won(io, fd, &to); /* ends the race */
		return;
	}
	over(a);
	r->err = -err;
	go_on(r);
	if (!r->open)
		weft_sock_lost(io, -r->err);
}

struct weft_race *weft_race_new(struct event_base *base, const struct weft_race_want *want,
				int *ret_err)
{
	struct weft_race *r = weft_xcalloc(1, sizeof(*r));

	r->base = base;
	r->dial = *want->dial;
	r->n = want->n;
	r->v = weft_xcalloc(r->n, sizeof(*r->v));
	memcpy(r->v, want->v, r->n * sizeof(*r->v));
	r->at = weft_xcalloc(r->n, sizeof(*r->at));
	for (size_t i = 0; i < r->n; i++)
		r->at[i] = (struct attempt){.of = r, .fd = -1};
	evtimer_assign(&r->timer, base, on_timer, r);
	go_on(r);
	if (r->open)
		return r;
	*ret_err = r->err;
	weft_race_free(r);
	return NULL;
}

void weft_race_run(struct weft_race *r, struct weft_io *io)
{
	r->io = io;
}

void weft_race_free(struct weft_race *r)
{
	if (!r)
		return;
	event_del(&r->timer);
	for (size_t i = 0; i < r->n; i++)
		if (r->at[i].fd >= 0)
			over(&r->at[i]);
	free(r->at);
	free(r->v);
	free(r);
}
