/* Workers: order of posts, posts from many threads, posts from posts, stop and free.
 * also built: tsan */
#include "proxy/core/worker_end.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { POSTS = 20000, POSTERS = 4 };

struct seen {
	struct weft_worker *w;
	pthread_t thread;
	int last[POSTERS]; /* touched by the worker alone */
	int count, wrong;
};
struct item {
	struct seen *seen;
	int from, n;
};

static void on_item(struct weft_worker *w, void *arg)
{
	struct item *i = arg;
	struct seen *s = i->seen;

	if (!s->count)
		s->thread = pthread_self();
	s->wrong += !pthread_equal(s->thread, pthread_self()) || w != s->w ||
		    i->n != s->last[i->from] + 1;
	s->last[i->from] = i->n;
	s->count++;
	free(i);
	if (s->count == POSTS * POSTERS)
		weft_worker_stop(w);
}

struct poster {
	struct seen *seen;
	int from;
};

static void *post_all(void *arg)
{
	struct poster *p = arg;

	for (int n = 1; n <= POSTS; n++) {
		struct item *i = malloc(sizeof(*i));

		if (!i)
			abort();
		*i = (struct item){p->seen, p->from, n};
		weft_worker_post(p->seen->w, on_item, i);
	}
	return NULL;
}

static void test_many_posters(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);
	struct seen seen = {.w = w};
	struct poster p[POSTERS];
	pthread_t t[POSTERS];

	assert_int_equal(weft_worker_start(w, true), 0);
	for (int i = 0; i < POSTERS; i++) {
		p[i] = (struct poster){&seen, i};
		assert_int_equal(pthread_create(&t[i], NULL, post_all, &p[i]), 0);
	}
	for (int i = 0; i < POSTERS; i++)
		pthread_join(t[i], NULL);
	weft_worker_join(w);
	assert_int_equal(seen.count, POSTS * POSTERS);
	assert_int_equal(seen.wrong, 0);
	weft_worker_free(w);
}

struct ping {
	struct weft_worker *other;
	int left;
};

static void on_ping(struct weft_worker *w, void *arg)
{
	struct ping *p = arg;
	struct weft_worker *other = p->other;

	if (!p->left--) {
		weft_worker_stop(other);
		weft_worker_stop(w);
		return;
	}
	p->other = w;
	weft_worker_post(other, on_ping, p);
}

static void test_ping_pong(void **state)
{
	struct weft_worker *a = weft_worker_new(0, NULL), *b = weft_worker_new(1, NULL);
	struct ping p = {.other = b, .left = 5000};

	assert_int_equal(weft_worker_start(a, false), 0);
	assert_int_equal(weft_worker_start(b, false), 0);
	weft_worker_post(a, on_ping, &p);
	weft_worker_join(a);
	weft_worker_join(b);
	assert_int_equal(p.left, -1);
	weft_worker_free(a);
	weft_worker_free(b);
}

static void on_stop(struct weft_worker *w, void *arg)
{
	*(int *)arg += 1;
	weft_worker_stop(w);
}

static void on_count(struct weft_worker *w, void *arg)
{
	*(int *)arg += 1;
}

static void test_own_thread(void **state)
{
	int owner, ran = 0;
	struct weft_worker *w = weft_worker_new(-1, &owner);

	assert_ptr_equal(w->owner, &owner);
	assert_int_equal(w->id, -1);
	weft_worker_post(w, on_stop, &ran);
	assert_int_equal(weft_worker_run(w), 0);
	assert_int_equal(ran, 1);
	weft_worker_free(w);
}

static void on_repost(struct weft_worker *w, void *arg)
{
	*(int *)arg += 1;
	weft_worker_post(w, on_count, arg);
}

/* What was posted is run even when the loop is not: posts own things. */
static void test_free_runs_posts(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);
	int ran = 0;

	weft_worker_post(w, on_count, &ran);
	weft_worker_post(w, on_repost, &ran);
	weft_worker_free(w);
	assert_int_equal(ran, 3);
	weft_worker_free(NULL);
}

static void test_stop_before_run(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);

	weft_worker_stop(w);
	assert_int_equal(weft_worker_run(w), 0);
	weft_worker_join(w);
	weft_worker_free(w);
}

static void *draw(void *arg)
{
	*(uint64_t *)arg = weft_rand64();
	return NULL;
}

static void test_random(void **state)
{
	uint64_t mine = weft_rand64(), theirs = 0, bits = 0, from = weft_now_ns();
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, draw, &theirs), 0);
	pthread_join(t, NULL);
	assert_true(mine != theirs && mine != weft_rand64());
	for (int i = 0; i < 200; i++)
		bits |= weft_rand64();
	assert_true(bits == UINT64_MAX);
	assert_true(weft_now_ns() >= from);
}

/* What ends with a worker: on its thread, in the order asked for, each once, then posts and parts.
 */
struct order {
	pthread_t thread;
	int at, first, second, post, part, wrong;
};
static struct order ended;

static void note(struct weft_worker *w, int *at)
{
	ended.wrong += !pthread_equal(ended.thread, pthread_self()) || weft_worker_self() != w;
	*at = ++ended.at;
}

static void part_done(struct weft_worker *w, void *part)
{
	note(w, &ended.part);
}

static const struct weft_worker_part end_part = {16, part_done};

static void on_end_post(struct weft_worker *w, void *arg)
{
	note(w, &ended.post);
}

static void first_end(struct weft_worker *w)
{
	note(w, &ended.first);
	weft_worker_post(w, on_end_post, NULL);
}

static void second_end(struct weft_worker *w)
{
	weft_worker_flush(w); /* as it may on its own thread */
	note(w, &ended.second);
	weft_worker_post(w, on_end_post, NULL);
}

static void who(struct weft_worker *w, void *arg)
{
	ended.thread = pthread_self();
	weft_worker_part(w, &end_part);
	weft_worker_stop(w);
}

static void test_ends(void **state)
{
	struct weft_worker *w = weft_worker_new(0, NULL);

	weft_worker_at_end(w, first_end);
	weft_worker_at_end(w, second_end);
	weft_worker_at_end(w, first_end);
	weft_worker_post(w, who, NULL);
	assert_int_equal(weft_worker_start(w, false), 0);
	weft_worker_join(w);
	assert_int_equal(ended.wrong, 0);
	assert_int_equal(ended.first, 1);
	assert_int_equal(ended.second, 3);
	assert_int_equal(ended.post, 4);
	assert_int_equal(ended.part, 5);
	weft_worker_free(w);
	assert_int_equal(ended.at, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_thread),
		cmocka_unit_test(test_free_runs_posts),
		cmocka_unit_test(test_stop_before_run),
		cmocka_unit_test(test_many_posters),
		cmocka_unit_test(test_ping_pong),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
