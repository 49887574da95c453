#include "proxy/core/stat.h"

#include "proxy/core/arena.h"
#include "proxy/core/utf8.h"
#include "proxy/core/worker.h"

#include <assert.h>
#include <event2/buffer.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Seeded, so that whoever chooses label values (pod and service names) cannot choose collisions. */
static uint64_t hash_seed;

static unsigned key_hash(const void *key, size_t n)
{
	return (unsigned)XXH3_64bits_withSeed(key, n, hash_seed);
}

#define HASH_FUNCTION(key, n, ret) ((ret) = key_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>

enum { SERIES_MAX = 100000, LABELS_MAX = 32 };

struct weft_stat {
	struct weft_stat_family *family;
	_Atomic int64_t value;
	int64_t value_seen; /* at the last round of expiry */
	uint64_t changed_ns;
	size_t refs;
	UT_hash_handle hh;
	char key[]; /* label values, each with its NUL, one after the other */
};

struct weft_stat_family {
	struct weft_stat_family *next;
	const char *name, *help;
	enum weft_stat_kind kind;
	size_t labels;
	const char *label_names[LABELS_MAX];
	pthread_mutex_t lock; /* guards everything below and the series but their value */
	struct weft_stat *series, *overflow;
	int64_t overflowed;
};

/* Guards the list and the families' order; a family's next is written under it only. */
static pthread_mutex_t families_lock = PTHREAD_MUTEX_INITIALIZER;
static struct weft_stat_family *families;

struct weft_stat_family *weft_stat_family_new(const char *name, const char *help,
					      enum weft_stat_kind kind,
					      const char *const *label_names)
{
	struct weft_stat_family *f = weft_xcalloc(1, sizeof(*f)), **at;

	f->name = name;
	f->help = help;
	f->kind = kind;
	pthread_mutex_init(&f->lock, NULL);
	for (; label_names && label_names[f->labels]; f->labels++) {
		assert(f->labels < LABELS_MAX);
		f->label_names[f->labels] = label_names[f->labels];
	}
	pthread_mutex_lock(&families_lock);
	while (!hash_seed)
		hash_seed = weft_rand64();
	/* appended, so that exposition keeps the order of declaration */
	for (at = &families; *at; at = &(*at)->next)
		assert(strcmp((*at)->name, name) != 0);
	*at = f;
	pthread_mutex_unlock(&families_lock);
	return f;
}

/* Makes the series for key (label values, each with its NUL, one after the other). Lock held. */
static struct weft_stat *series_new(struct weft_stat_family *f, const char *key, size_t n)
{
	struct weft_stat *s = weft_xcalloc(1, sizeof(*s) + n);

	s->family = f;
	s->changed_ns = weft_now_ns();
	memcpy(s->key, key, n);
	return s;
}

static struct weft_stat *series_overflow(struct weft_stat_family *f)
{
	char key[LABELS_MAX * sizeof("overflow")];
	size_t n = 0;

	f->overflowed++;
	if (f->overflow)
		return f->overflow;
	for (size_t i = 0; i < f->labels; i++, n += sizeof("overflow"))
		memcpy(key + n, "overflow", sizeof("overflow"));
	f->overflow = series_new(f, key, n);
	return f->overflow;
}

struct weft_stat *weft_stat_get(struct weft_stat_family *f, const char *const *values)
{
	char small[1024], *key = small;
	size_t n = 0, at = 0;
	struct weft_stat *s;

	for (size_t i = 0; i < f->labels; i++)
		n += strlen(values[i]) + 1;
	if (n > sizeof(small))
		key = weft_xcalloc(1, n);
	for (size_t i = 0; i < f->labels; i++) {
		size_t len = strlen(values[i]) + 1;

		memcpy(key + at, values[i], len);
		at += len;
	}
	pthread_mutex_lock(&f->lock);
	HASH_FIND(hh, f->series, key, n, s);
	if (!s && HASH_COUNT(f->series) >= SERIES_MAX) {
		s = series_overflow(f);
	} else if (!s) {
		s = series_new(f, key, n);
		HASH_ADD_KEYPTR(hh, f->series, s->key, n, s);
	}
	s->refs++;
	pthread_mutex_unlock(&f->lock);
	if (key != small)
		free(key);
	return s;
}

void weft_stat_unref(struct weft_stat *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->family->lock);
	assert(s->refs > 0);
	s->refs--;
	pthread_mutex_unlock(&s->family->lock);
}

void weft_stat_add(struct weft_stat *s, int64_t n)
{
	atomic_fetch_add_explicit(&s->value, n, memory_order_relaxed);
}

void weft_stat_set(struct weft_stat *s, int64_t v)
{
	atomic_store_explicit(&s->value, v, memory_order_relaxed);
}

int64_t weft_stat_value(const struct weft_stat *s)
{
	return atomic_load_explicit(&s->value, memory_order_relaxed);
}

static void family_expire(struct weft_stat_family *f, uint64_t now, uint64_t idle_ns)
{
	struct weft_stat *s, *next;

	pthread_mutex_lock(&f->lock);
	HASH_ITER (hh, f->series, s, next) {
		int64_t v = weft_stat_value(s);

		/* add and set do not read the clock: a change is noticed here, at the next round */
		if (v != s->value_seen || s->refs) {
			s->value_seen = v;
			s->changed_ns = now;
		} else if (now - s->changed_ns >= idle_ns) {
			HASH_DEL(f->series, s); /* NOLINT(clang-analyzer-*): next was read before */
			free(s);
		}
	}
	pthread_mutex_unlock(&f->lock);
}

void weft_stat_expire(uint64_t idle_ms)
{
	uint64_t now = weft_now_ns();

	pthread_mutex_lock(&families_lock);
	for (struct weft_stat_family *f = families; f; f = f->next)
		family_expire(f, now, idle_ms * 1000000);
	pthread_mutex_unlock(&families_lock);
}

/* One byte that is not UTF-8 would make a server refuse the whole page: U+FFFD is written instead.
 */
static void put_escaped(struct evbuffer *out, const char *s, bool quotes)
{
	while (*s) {
		size_t plain = 0, n;

		while (s[plain] && s[plain] != '\\' && s[plain] != '\n' && s[plain] != '"' &&
		       (n = weft_utf8_len(s + plain)))
			plain += n;
		evbuffer_add(out, s, plain);
		s += plain;
		if (!*s)
			break;
		if (*s == '\\')
			evbuffer_add(out, "\\\\", 2);
		else if (*s == '\n')
			evbuffer_add(out, "\\n", 2);
		else if (*s == '"')
			evbuffer_add(out, quotes ? "\\\"" : "\"", quotes ? 2 : 1);
		else
			evbuffer_add(out, "\xef\xbf\xbd", 3);
		s++;
	}
}

static void put_head(struct evbuffer *out, const char *name, const char *help,
		     enum weft_stat_kind kind, bool openmetrics)
{
	const char *total = kind == WEFT_STAT_COUNTER && !openmetrics ? "_total" : "";

	evbuffer_add_printf(out, "# HELP %s%s ", name, total);
	put_escaped(out, help, openmetrics);
	evbuffer_add_printf(out, "\n# TYPE %s%s %s\n", name, total,
			    kind == WEFT_STAT_COUNTER ? "counter" : "gauge");
}

static void put_sample(struct evbuffer *out, const struct weft_stat *s)
{
	const struct weft_stat_family *f = s->family;
	const char *v = s->key;
	char sep = '{';

	evbuffer_add_printf(out, "%s%s", f->name, f->kind == WEFT_STAT_COUNTER ? "_total" : "");
	for (size_t i = 0; i < f->labels; v += strlen(v) + 1, i++) {
		if (!*v)
			continue;
		evbuffer_add_printf(out, "%c%s=\"", sep, f->label_names[i]);
		put_escaped(out, v, true);
		evbuffer_add(out, "\"", 1);
		sep = ',';
	}
	evbuffer_add_printf(out, "%s %" PRId64 "\n", sep == ',' ? "}" : "", weft_stat_value(s));
}

/* References are taken first and the text is made without the lock, so that workers never wait for
 * it. */
static void family_print(struct weft_stat_family *f, struct evbuffer *out, bool openmetrics)
{
	struct weft_stat **v, *s, *next;
	size_t n = 0;

	pthread_mutex_lock(&f->lock);
	v = weft_xcalloc(HASH_COUNT(f->series) + 1, sizeof(struct weft_stat *));
	HASH_ITER (hh, f->series, s, next) {
		s->refs++;
		v[n++] = s;
	}
	if (f->overflow) {
		f->overflow->refs++;
		v[n++] = f->overflow;
	}
	pthread_mutex_unlock(&f->lock);
	if (n)
		put_head(out, f->name, f->help, f->kind, openmetrics);
	for (size_t i = 0; i < n; i++)
		put_sample(out, v[i]);
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < n; i++)
		v[i]->refs--;
	pthread_mutex_unlock(&f->lock);
	free(v);
}

static int64_t family_overflowed(struct weft_stat_family *f)
{
	int64_t n;

	pthread_mutex_lock(&f->lock);
	n = f->overflowed;
	pthread_mutex_unlock(&f->lock);
	return n;
}

void weft_stat_print(struct evbuffer *out, int openmetrics)
{
	static const char overflow[] = "weft_stat_overflow";
	bool head = false;

	pthread_mutex_lock(&families_lock);
	for (struct weft_stat_family *f = families; f; f = f->next)
		family_print(f, out, openmetrics);
	for (struct weft_stat_family *f = families; f; f = f->next) {
		int64_t n = family_overflowed(f);

		if (!n)
			continue;
		if (!head)
			put_head(out, overflow,
				 "Look-ups that got the shared series of a full family",
				 WEFT_STAT_COUNTER, openmetrics);
		head = true;
		evbuffer_add_printf(out, "%s_total{family=\"%s\"} %" PRId64 "\n", overflow, f->name,
				    n);
	}
	pthread_mutex_unlock(&families_lock);
	if (openmetrics)
		evbuffer_add_printf(out, "# EOF\n");
}
