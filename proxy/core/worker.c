#include "proxy/core/worker_end.h"

#include "proxy/core/arena.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct post {
	struct post *next;
	void (*fn)(struct weft_worker *w, void *arg);
	void *arg;
};

struct part {
	struct part *next;
	const struct weft_worker_part *what;
	_Alignas(16) unsigned char data[];
};

struct weft_worker_priv {
	struct part *parts;
	_Atomic(struct post *) posts; /* newest first; taken whole by the worker */
	_Atomic bool stop;
	struct event *wake;
	int wake_fd;
	bool pin, started;
	pthread_t thread;
	void (*end[WEFT_WORKER_ENDS])(struct weft_worker *w);
	unsigned n_end;
};

static _Thread_local struct weft_worker *self;
static void free_parts(struct weft_worker *w);

/* Takes all posts at once and runs them oldest first. Posts made meanwhile wake the loop again. */
static void run_posts(struct weft_worker *w)
{
	struct post *p = atomic_exchange_explicit(&w->priv->posts, NULL, memory_order_acquire);
	struct post *fifo = NULL;

	while (p) {
		struct post *next = p->next;

		p->next = fifo;
		fifo = p;
		p = next;
	}
	while (fifo) {
		struct post *next = fifo->next;

		fifo->fn(w, fifo->arg);
		free(fifo);
		fifo = next;
	}
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct weft_worker *w = arg;
	uint64_t n;

	/* -EAGAIN only: the count was taken already */
	if (read(fd, &n, sizeof(n)) < 0)
		assert(errno == EAGAIN || errno == EINTR);
	run_posts(w);
	if (atomic_load(&w->priv->stop))
		event_base_loopbreak(w->base);
}

static void wake(struct weft_worker *w)
{
	uint64_t one = 1;

	while (write(w->priv->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

struct weft_worker *weft_worker_new(int id, void *owner)
{
	struct weft_worker *w = weft_xcalloc(1, sizeof(*w));
	struct event_config *cfg = event_config_new();

	w->priv = weft_xcalloc(1, sizeof(*w->priv));
	w->priv->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	w->id = id;
	w->owner = owner;
	/* each loop is used by its own thread only; posts go by eventfd, so libevent needs no locks
	 */
	if (cfg && !event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK))
		w->base = event_base_new_with_config(cfg);
	if (cfg)
		event_config_free(cfg);
	if (w->base && w->priv->wake_fd >= 0)
		w->priv->wake =
			event_new(w->base, w->priv->wake_fd, EV_READ | EV_PERSIST, on_wake, w);
	if (!w->priv->wake || event_add(w->priv->wake, NULL)) {
		fprintf(stderr, "cannot make an event loop: %s\n", strerror(errno));
		abort();
	}
	return w;
}

static void pin_thread(int id)
{
	cpu_set_t have, one;
	int nth = id < 0 ? 0 : id, n;

	if (sched_getaffinity(0, sizeof(have), &have))
		return;
	n = CPU_COUNT(&have);
	if (!n)
		return;
	nth %= n;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &have) || nth--)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		/* a hint: a worker that may not be pinned works as well */
		(void)sched_setaffinity(0, sizeof(one), &one);
		return;
	}
}

void weft_worker_at_end(struct weft_worker *w, void (*fn)(struct weft_worker *w))
{
	unsigned i;

	for (i = 0; i < w->priv->n_end; i++)
		if (w->priv->end[i] == fn)
			return;
	assert(!w->priv->started && i < WEFT_WORKER_ENDS);
	w->priv->end[w->priv->n_end++] = fn;
}

static void run_ends(struct weft_worker *w)
{
	unsigned i;

	if (!w->priv->n_end)
		return;
	self = w;
	for (i = 0; i < w->priv->n_end; i++)
		w->priv->end[i](w);
	weft_worker_flush(w);
	free_parts(w);
	self = NULL;
}

static void *thread_main(void *arg)
{
	struct weft_worker *w = arg;
	char name[16];

	/* by itself: another thread's name is set through a file that a sealed process may not
	 * write */
	snprintf(name, sizeof(name), "weft-w%d", w->id);
	pthread_setname_np(pthread_self(), name);
	if (w->priv->pin)
		pin_thread(w->id);
	weft_worker_run(w);
	run_ends(w);
	return NULL;
}

int weft_worker_start(struct weft_worker *w, bool pin_cpu)
{
	int err;

	w->priv->pin = pin_cpu;
	w->priv->started = true; /* before there is a thread that reads it */
	err = pthread_create(&w->priv->thread, NULL, thread_main, w);
	if (err)
		w->priv->started = false;
	return -err;
}

void weft_worker_post(struct weft_worker *w, void (*fn)(struct weft_worker *w, void *arg),
		      void *arg)
{
	struct post *p = weft_xcalloc(1, sizeof(*p)), *head;

	p->fn = fn;
	p->arg = arg;
	head = atomic_load_explicit(&w->priv->posts, memory_order_relaxed);
	do {
		p->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&w->priv->posts, &head, p, memory_order_release, memory_order_relaxed));
	/* whoever finds the list empty wakes; the others ride along */
	if (!head)
		wake(w);
}

struct weft_worker *weft_worker_self(void)
{
	return self;
}

int weft_worker_run(struct weft_worker *w)
{
	struct weft_worker *before = self;
	int r = 0;

	self = w;
	while (!r && !atomic_load(&w->priv->stop))
		if (event_base_loop(w->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0)
			r = -EIO;
	self = before;
	return r;
}

void weft_worker_stop(struct weft_worker *w)
{
	atomic_store(&w->priv->stop, true);
	wake(w);
}

void weft_worker_join(struct weft_worker *w)
{
	if (w->priv->started)
		pthread_join(w->priv->thread, NULL);
	w->priv->started = false;
}

void weft_worker_flush(struct weft_worker *w)
{
	assert(!w->priv->started || self == w);
	while (atomic_load(&w->priv->posts))
		run_posts(w);
}

void *weft_worker_part(struct weft_worker *w, const struct weft_worker_part *what)
{
	struct part *p;

	for (p = w->priv->parts; p; p = p->next)
		if (p->what == what)
			return p->data;
	p = weft_xcalloc(1, sizeof(*p) + what->size);
	p->what = what;
	p->next = w->priv->parts;
	w->priv->parts = p;
	return p->data;
}

static void free_parts(struct weft_worker *w)
{
	struct part *p;

	/* a later part may use an earlier one */
	while ((p = w->priv->parts)) {
		if (p->what->done)
			p->what->done(w, p->data);
		w->priv->parts = p->next;
		free(p);
	}
}

void weft_worker_free(struct weft_worker *w)
{
	if (!w)
		return;
	weft_worker_flush(w);
	free_parts(w);
	event_free(w->priv->wake);
	close(w->priv->wake_fd);
	event_base_free(w->base);
	free(w->priv);
	free(w);
}

uint64_t weft_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t rotl(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

/* xoshiro256** (Blackman, Vigna), a public-domain design: 32 bytes of state a thread. */
uint64_t weft_rand64(void)
{
	static _Thread_local uint64_t s[4];
	static _Thread_local bool seeded;
	uint64_t ret, t;

	while (!seeded) {
		if (getrandom(s, sizeof(s), 0) == sizeof(s))
			seeded = (s[0] | s[1] | s[2] | s[3]) != 0;
		else if (errno != EINTR)
			abort();
	}
	ret = rotl(s[1] * 5, 7) * 9;
	t = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return ret;
}
