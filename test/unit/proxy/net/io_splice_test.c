#include "proxy/net/io_priv.h"
#include "test/unit/proxy/net/io_fix.h"

#include <dirent.h>
#include <sys/resource.h>

/* near[0] - [a | b] - near[1]: two loopback connections, joined in the kernel. */
struct fix {
	struct event_base *base;
	struct weft_io *a, *b;
	struct peer near[2];
	int done;
	enum weft_io_end ends[2];
};

static void closed(struct weft_io *io, enum weft_io_end why, int err)
{
	fail_msg("an io that is spliced told of an end");
}

static const struct weft_io_ops quiet_ops = {.closed = closed};

static void on_done(void *owner, enum weft_io_end a, enum weft_io_end b)
{
	struct fix *f = owner;

	f->done++;
	f->ends[0] = a;
	f->ends[1] = b;
	if (a == WEFT_IO_EOF && b == WEFT_IO_EOF) {
		weft_io_free(f->a);
		weft_io_free(f->b);
	} else {
		weft_io_reset(f->a);
		weft_io_reset(f->b);
	}
	f->a = f->b = NULL;
}

static int up(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	int x, y;

	signal(SIGPIPE, SIG_IGN);
	f->base = event_base_new();
	fix_pair(&x, &y);
	f->near[0].io = weft_io_new(f->base, x, NULL, NULL, &peer_ops, &f->near[0]);
	f->a = weft_io_new(f->base, y, NULL, NULL, &quiet_ops, f);
	fix_pair(&x, &y);
	f->near[1].io = weft_io_new(f->base, x, NULL, NULL, &peer_ops, &f->near[1]);
	f->b = weft_io_new(f->base, y, NULL, NULL, &quiet_ops, f);
	*state = f;
	return 0;
}

static int down(void **state)
{
	struct fix *f = *state;

	weft_io_free(f->near[0].io);
	weft_io_free(f->near[1].io);
	weft_io_free(f->a);
	weft_io_free(f->b);
	event_base_free(f->base);
	free(f);
	return 0;
}

static void say(struct peer *p, const char *s)
{
	evbuffer_add(weft_io_out(p->io), s, strlen(s));
	weft_io_flush(p->io);
}

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void test_half_close(void **state)
{
	struct fix *f = *state;

	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 0), 0);
	say(&f->near[0], "question");
	weft_io_shutdown(f->near[0].io);
	RUN_UNTIL(f->base, f->near[1].eof);
	assert_int_equal(f->near[1].got, 8);
	assert_int_equal(f->done, 0);
	say(&f->near[1], "answer");
	RUN_UNTIL(f->base, f->near[0].got == 6);
	assert_int_equal(weft_io_stat(f->a).rx, 8);
	assert_int_equal(weft_io_stat(f->b).tx, 8);
	assert_int_equal(weft_io_stat(f->a).tx, 6);
	weft_io_shutdown(f->near[1].io);
	RUN_UNTIL(f->base, f->done);
	assert_int_equal(f->ends[0], WEFT_IO_EOF);
	assert_int_equal(f->ends[1], WEFT_IO_EOF);
	RUN_UNTIL(f->base, f->near[0].eof);
}

struct pump {
	struct peer p;
	uint64_t left, at, sent;
};

static void pump_more(struct pump *u)
{
	uint8_t b[50000];

	while (u->left > 0 && !weft_io_full(u->p.io)) {
		size_t n = u->left < sizeof(b) ? u->left : 1 + u->at % sizeof(b);

		for (size_t i = 0; i < n; i++) {
			b[i] = (uint8_t)(u->at * 2654435761u >> 13);
			u->sent = mix(u->sent, b[i]);
			u->at++;
		}
		evbuffer_add(weft_io_out(u->p.io), b, n);
		u->left -= n;
	}
	weft_io_flush(u->p.io);
	if (u->left == 0)
		weft_io_shutdown(u->p.io);
}

static void pump_writable(struct weft_io *io)
{
	pump_more(weft_io_owner(io));
}

static const struct weft_io_ops pump_ops = {
	.readable = peer_readable, .writable = pump_writable, .closed = peer_closed};

/* Both ways at once, more than fits anywhere, and back-pressure. */
static void pass_much(struct fix *f)
{
	struct pump u[2] = {{.left = 23456789}, {.left = 34567890}};

	for (int i = 0; i < 2; i++) {
		u[i].p.io = f->near[i].io;
		f->near[i].io = NULL;
		weft_io_set_ops(u[i].p.io, &pump_ops, &u[i]);
	}
	/* bytes that were read before go first, and such that wait to be written */
	evbuffer_add(weft_io_in(f->a), "first", 5);
	evbuffer_add(weft_io_out(f->a), "before", 6);
	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 60000), 0);
	for (const char *s = "first"; *s; s++)
		u[0].sent = mix(u[0].sent, (uint8_t)*s);
	for (const char *s = "before"; *s; s++)
		u[1].sent = mix(u[1].sent, (uint8_t)*s);
	weft_io_pause(u[1].p.io); /* back-pressure through the pipe */
	pump_more(&u[0]);
	pump_more(&u[1]);
	run_a_while(f->base, 50);
	weft_io_resume(u[1].p.io);
	RUN_UNTIL(f->base, u[0].p.eof && u[1].p.eof && f->done);
	assert_int_equal(u[1].p.got, 23456789 + 5);
	assert_int_equal(u[0].p.got, 34567890 + 6);
	assert_true(u[0].p.sum == u[1].sent && u[1].p.sum == u[0].sent);
	weft_io_free(u[0].p.io);
	weft_io_free(u[1].p.io);
}

static void test_big(void **state)
{
	pass_much(*state);
}

/* No pipe can be made: what is read goes through memory, as much of it as through pipes. */
static void test_no_files_left(void **state)
{
	struct fix *f = *state;
	struct rlimit was, none;
	int fd[256], n = 0;

	weft_pipes_done(); /* those that earlier tests left */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = (struct rlimit){open_fds() + 8, was.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	while (n < 256 && (fd[n] = dup(0)) >= 0)
		n++;
	assert_int_equal(errno, EMFILE);
	close(fd[--n]); /* one is left, and a pipe needs two */
	pass_much(f);
	assert_int_equal(f->ends[0], WEFT_IO_EOF);
	assert_int_equal(f->ends[1], WEFT_IO_EOF);
	while (n > 0)
		close(fd[--n]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

static void test_reset(void **state)
{
	struct fix *f = *state;

	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 0), 0);
	say(&f->near[0], "x");
	RUN_UNTIL(f->base, f->near[1].got == 1);
	weft_io_reset(f->near[1].io);
	f->near[1].io = NULL;
	RUN_UNTIL(f->base, f->done);
	assert_int_equal(f->ends[0], WEFT_IO_EOF);
	assert_int_equal(f->ends[1], WEFT_IO_RESET);
	RUN_UNTIL(f->base, f->near[0].closed);
	assert_int_equal(f->near[0].why, WEFT_IO_RESET);
}

static void test_idle(void **state)
{
	struct fix *f = *state;

	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 60), 0);
	run_a_while(f->base, 30);
	say(&f->near[0], "still here");
	run_a_while(f->base, 40);
	assert_int_equal(f->done, 0);
	RUN_UNTIL(f->base, f->done);
	assert_int_equal(f->ends[0], WEFT_IO_TIMEOUT);
	assert_int_equal(f->ends[1], WEFT_IO_TIMEOUT);
}

/* Freeing one cancels; no callback comes; no descriptor is left behind. */
static void test_free_cancels(void **state)
{
	struct fix *f = *state;
	unsigned before = open_fds();
	char *big = calloc(1, 8 << 20);

	weft_io_pause(f->near[1].io);
	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 0), 0);
	evbuffer_add(weft_io_out(f->near[0].io), big, 8 << 20);
	weft_io_flush(f->near[0].io);
	run_a_while(f->base, 30);
	assert_in_range(open_fds(), before + 2, before + 8); /* the pipes that are full */
	weft_io_free(f->a);
	f->a = NULL;
	assert_int_equal(open_fds(), before - 1);
	run_a_while(f->base, 10);
	assert_int_equal(f->done, 0);
	free(big);
}

static void no_destroy(struct weft_io *io, bool reset)
{
}

static void test_not_possible(void **state)
{
	static const struct weft_io_kind tunnel = {.destroy = no_destroy};
	struct fix *f = *state;
	struct weft_io *io = weft_io_make(f->base, &tunnel, 1, NULL, &quiet_ops, f);

	assert_int_equal(weft_io_splice(f->a, io, on_done, f, 0), -ENOTSUP);
	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 0), 0);
	assert_int_equal(weft_io_splice(f->a, f->b, on_done, f, 0), -ENOTSUP);
	weft_io_free(io);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_half_close, up, down),
		cmocka_unit_test_setup_teardown(test_big, up, down),
		cmocka_unit_test_setup_teardown(test_no_files_left, up, down),
		cmocka_unit_test_setup_teardown(test_reset, up, down),
		cmocka_unit_test_setup_teardown(test_idle, up, down),
		cmocka_unit_test_setup_teardown(test_free_cancels, up, down),
		cmocka_unit_test_setup_teardown(test_not_possible, up, down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
