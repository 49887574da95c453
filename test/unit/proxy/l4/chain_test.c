/* A connection through filters that do as they are told, over a socketpair. Three filters and a
 * terminal one, each of a message type of its own; what happens is written down in order. */
#include "proxy/core/worker.h"
#include "proxy/l4/chain_conf.h"

#include <errno.h>
#include <event2/event.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { FILTERS = 2 };
struct plan {
	enum weft_flow opened, data[8];
	unsigned asked; /* data() calls */
	bool resume_inside, close_in_opened, close_in_data, has_data;
	size_t drain; /* bytes that data() eats */
	struct weft_chain *ch;
};
static struct plan plan[FILTERS];
static char events[4096];
static struct weft_io *taken;
static struct weft_chain *terminal_chain;
static bool forget;

__attribute__((format(printf, 1, 2))) static void note(const char *fmt, ...)
{
	size_t n = strlen(events);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(events + n, sizeof(events) - n, fmt, ap);
	va_end(ap);
}

static enum weft_flow f_opened(struct weft_chain *ch, const void *conf, void *state)
{
	unsigned i = *(const unsigned *)conf;
	struct plan *p = &plan[i];

	assert_int_equal(*(char *)state, 0);
	*(char *)state = 1;
	p->ch = ch;
	note("o%u ", i);
	if (p->resume_inside)
		weft_chain_resume(ch);
	if (p->close_in_opened) {
		weft_chain_close(ch, 0, "no");
		return WEFT_DONE;
	}
	return p->opened;
}

static enum weft_flow f_data(struct weft_chain *ch, const void *conf, void *state,
			     struct evbuffer *b, bool end)
{
	unsigned i = *(const unsigned *)conf;
	struct plan *p = &plan[i];
	size_t n = evbuffer_get_length(b);

	note("d%u:%.*s%s ", i, (int)n, n ? (char *)evbuffer_pullup(b, -1) : "", end ? "." : "");
	evbuffer_drain(b, p->drain);
	if (p->resume_inside)
		weft_chain_resume(ch);
	if (p->close_in_data) {
		evbuffer_add_printf(weft_io_out(weft_chain_io(ch)), "bye");
		weft_io_flush(weft_chain_io(ch));
		weft_chain_close(ch, 500, "told");
		return WEFT_DONE;
	}
	return p->data[p->asked++];
}

static void f_closed(struct weft_chain *ch, const void *conf, void *state)
{
	assert_int_equal(*(char *)state, 1);
	note("c%u ", *(const unsigned *)conf);
}

static void t_readable(struct weft_io *io)
{
	struct evbuffer *in = weft_io_in(io);
	size_t n = evbuffer_get_length(in);

	note("r:%.*s%s ", (int)n, n ? (char *)evbuffer_pullup(in, -1) : "",
	     weft_io_eof(io) ? "." : "");
	evbuffer_drain(in, n);
}

static void t_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	note("x ");
	weft_chain_close(terminal_chain, 0, NULL);
}

static const struct weft_io_ops t_ops = {.readable = t_readable, .closed = t_closed};

static enum weft_flow t_take(struct weft_chain *ch, const void *conf, void *state,
			     struct weft_io *io)
{
	note("t%s ", weft_chain_draining(ch) ? "!" : "");
	taken = io;
	terminal_chain = ch;
	if (forget)
		weft_chain_forget_io(ch);
	weft_io_set_ops(io, &t_ops, NULL);
	return WEFT_DONE;
}

static void t_closed_filter(struct weft_chain *ch, const void *conf, void *state)
{
	note("ct ");
}

static void t_refused(struct weft_chain *ch, const void *conf)
{
	note("refused ");
}

static void t_drain(struct weft_chain *ch, const void *conf, void *state)
{
	note("drain ");
}

static const struct weft_net_filter with_data = {.ext = {.name = "f", .state_size = 3},
						 .opened = f_opened,
						 .data = f_data,
						 .closed = f_closed};
static const struct weft_net_filter without_data = {
	.ext = {.name = "f", .state_size = 3}, .opened = f_opened, .closed = f_closed};
static const struct weft_net_filter terminal = {.ext = {.name = "t"},
						.take = t_take,
						.closed = t_closed_filter,
						.refused = t_refused,
						.drain = t_drain};

struct fix {
	struct weft_worker *w;
	int peer;
	bool closed;
	struct weft_chain_item items[FILTERS + 1];
	struct weft_chain_conf conf;
	struct weft_chain *ch;
	unsigned n[FILTERS];
};

static void chain_closed(void *owner, struct weft_chain *ch)
{
	struct fix *f = owner;

	assert_false(f->closed);
	f->closed = true;
	note("end:%s ", weft_chain_info(ch)->termination_details
				? weft_chain_info(ch)->termination_details
				: "-");
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	signal(SIGPIPE, SIG_IGN);
	memset(plan, 0, sizeof(plan));
	events[0] = 0;
	taken = NULL;
	forget = false;
	f->w = weft_worker_new(0, NULL);
	*state = f;
	return 0;
}

static void start(struct fix *f)
{
	struct weft_chain_start s = {.worker = f->w,
				     .conf = &f->conf,
				     .listener_name = "l",
				     .filter_chain_name = "fc",
				     .closed = chain_closed,
				     .owner = f};
	unsigned i;
	int fd[2];

	for (i = 0; i < FILTERS; i++) {
		f->n[i] = i;
		f->items[i] = (struct weft_chain_item){
			plan[i].has_data ? &with_data : &without_data, &f->n[i], "f", i * 16};
	}
	f->items[FILTERS] = (struct weft_chain_item){&terminal, NULL, "t", FILTERS * 16};
	f->conf = (struct weft_chain_conf){f->items, FILTERS + 1, (FILTERS + 1) * 16};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	f->peer = fd[1];
	s.io = weft_io_new(f->w->base, fd[0], NULL, NULL, NULL, NULL);
	f->ch = weft_chain_new(&s);
}

static void turn(struct fix *f)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		event_base_loop(f->w->base, EVLOOP_NONBLOCK);
}

static void say(struct fix *f, const char *s)
{
	assert_int_equal(write(f->peer, s, strlen(s)), (ssize_t)strlen(s));
	turn(f);
}

static void expect(const char *want)
{
	assert_string_equal(events, want);
	events[0] = 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	if (f->peer)
		close(f->peer);
	turn(f);
	if (!f->closed && f->ch) {
		weft_chain_close(f->ch, 0, NULL);
		turn(f);
	}
	assert_true(f->closed);
	weft_worker_free(f->w);
	free(f);
	return 0;
}

static void straight(void **state)
{
	struct fix *f = *state;

	start(f);
	expect("o0 o1 t ");
	assert_ptr_equal(weft_chain_io(f->ch), taken);
	assert_string_equal(weft_chain_info(f->ch)->filter_chain_name, "fc");
	say(f, "abc");
	expect("r:abc ");
	weft_chain_drain(f->ch);
	expect("drain ");
	weft_chain_close(f->ch, 0, "why");
	weft_chain_close(f->ch, 0, "again");
	assert_false(f->closed); /* from the loop only */
	say(f, "late");
	expect("ct c1 c0 end:why ");
}

static void waits_in_opened(void **state)
{
	struct fix *f = *state;

	plan[0].opened = WEFT_WAIT;
	start(f);
	say(f, "abc");
	expect("o0 ");
	weft_chain_resume(f->ch);
	turn(f);
	expect("o1 t r:abc ");
	weft_chain_resume(f->ch); /* of no use, no harm */
}

/* Bytes must not wake a filter that waits for something else in opened(). */
static void waits_in_opened_with_data(void **state)
{
	struct fix *f = *state;

	plan[0].opened = WEFT_WAIT;
	plan[0].has_data = true;
	start(f);
	say(f, "abc");
	expect("o0 ");
	weft_chain_resume(f->ch);
	turn(f);
	expect("d0:abc o1 t r:abc ");
}

static void waits_for_bytes(void **state)
{
	struct fix *f = *state;

	plan[1].has_data = true;
	plan[1].data[0] = WEFT_WAIT;
	start(f);
	turn(f);
	expect("o0 o1 ");
	weft_chain_resume(f->ch); /* no bytes yet: nothing to be content with */
	expect("");
	say(f, "ab");
	expect("d1:ab ");
	say(f, "cd");
	turn(f);
	expect("d1:abcd t r:abcd ");
}

static void eats_bytes(void **state)
{
	struct fix *f = *state;

	plan[0].has_data = true;
	plan[0].drain = 2;
	start(f);
	say(f, "abcd");
	turn(f);
	expect("o0 d0:abcd o1 t r:cd ");
}

static void resumed_in_data(void **state)
{
	struct fix *f = *state;

	plan[0].has_data = true;
	plan[0].data[0] = WEFT_WAIT;
	start(f);
	say(f, "ab");
	expect("o0 d0:ab ");
	weft_chain_resume(f->ch);
	turn(f);
	expect("d0:ab o1 t r:ab ");
}

static void resumed_inside(void **state)
{
	struct fix *f = *state;

	plan[0].opened = WEFT_WAIT;
	plan[0].resume_inside = true;
	plan[1].has_data = true;
	plan[1].data[0] = WEFT_WAIT;
	plan[1].opened = WEFT_WAIT;
	plan[1].resume_inside = true;
	start(f);
	expect("o0 o1 ");
	say(f, "ab");
	turn(f);
	expect("d1:ab t r:ab ");
}

static void end_while_waiting(void **state)
{
	struct fix *f = *state;

	plan[0].has_data = true;
	plan[0].data[0] = WEFT_WAIT;
	start(f);
	say(f, "a");
	assert_int_equal(shutdown(f->peer, SHUT_WR), 0);
	turn(f);
	expect("o0 d0:a d0:a. o1 t r:a. ");
}

static void end_without_bytes(void **state)
{
	struct fix *f = *state;

	plan[0].opened = WEFT_WAIT;
	plan[1].has_data = true;
	start(f);
	assert_int_equal(shutdown(f->peer, SHUT_WR), 0);
	turn(f);
	expect("o0 ");
	weft_chain_resume(f->ch);
	turn(f);
	expect("o1 d1:. t r:. ");
}

static void closed_in_opened(void **state)
{
	struct fix *f = *state;
	char b[8];

	plan[1].close_in_opened = true;
	start(f);
	expect("o0 o1 ");
	turn(f);
	expect("c1 c0 refused end:no ");
	assert_int_equal(read(f->peer, b, sizeof(b)), 0);
}

static void closed_in_data(void **state)
{
	struct fix *f = *state;
	char b[8];

	plan[0].has_data = true;
	plan[0].close_in_data = true;
	start(f);
	say(f, "abc");
	turn(f);
	expect("o0 d0:abc c0 refused end:told ");
	assert_int_equal(read(f->peer, b, sizeof(b)), 3);
	assert_memory_equal(b, "bye", 3);
}

static void client_goes(void **state)
{
	struct fix *f = *state;

	plan[0].opened = WEFT_WAIT;
	start(f);
	/* bytes that were not read make it a reset */
	evbuffer_add_printf(weft_io_out(weft_chain_io(f->ch)), "x");
	weft_io_flush(weft_chain_io(f->ch));
	turn(f);
	close(f->peer);
	f->peer = 0;
	evbuffer_add_printf(weft_io_out(weft_chain_io(f->ch)), "x");
	weft_io_flush(weft_chain_io(f->ch));
	turn(f);
	expect("o0 c0 refused end:- ");
	assert_true(f->closed);
}

/* A session owns the io now: the chain must not touch it. */
static void forgotten(void **state)
{
	struct fix *f = *state;

	forget = true;
	start(f);
	expect("o0 o1 t ");
	assert_null(weft_chain_io(f->ch));
	assert_int_equal(weft_chain_info(f->ch)->down->id != 0, 1);
	weft_chain_close(f->ch, 100, "x");
	turn(f);
	expect("ct c1 c0 end:x ");
	weft_io_free(taken);
}

static void flushed(void **state)
{
	struct fix *f = *state;
	char b[8];

	start(f);
	evbuffer_add_printf(weft_io_out(taken), "last");
	weft_chain_close(f->ch, 1000, NULL);
	turn(f);
	expect("o0 o1 t ct c1 c0 end:- ");
	assert_int_equal(read(f->peer, b, sizeof(b)), 4);
	assert_int_equal(read(f->peer, b, sizeof(b)), 0);
}

static void drains_before_taken(void **state)
{
	struct fix *f = *state;

	plan[0].opened = WEFT_WAIT;
	start(f);
	weft_chain_drain(f->ch);
	weft_chain_resume(f->ch);
	expect("o0 o1 t! ");
}

static void terminal_hears_of_the_end(void **state)
{
	struct fix *f = *state;

	start(f);
	expect("o0 o1 t ");
	evbuffer_add_printf(weft_io_out(taken), "x");
	weft_io_flush(taken);
	turn(f);
	close(f->peer);
	f->peer = 0;
	evbuffer_add_printf(weft_io_out(taken), "x");
	weft_io_flush(taken);
	turn(f);
	assert_non_null(strstr(events, "x ct c1 c0 end:- "));
	assert_true(f->closed);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(straight),
		T(waits_in_opened),
		T(waits_in_opened_with_data),
		T(waits_for_bytes),
		T(eats_bytes),
		T(resumed_in_data),
		T(resumed_inside),
		T(end_while_waiting),
		T(end_without_bytes),
		T(closed_in_opened),
		T(closed_in_data),
		T(client_goes),
		T(forgotten),
		T(flushed),
		T(drains_before_taken),
		T(terminal_hears_of_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
