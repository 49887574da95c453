/* Statistics as Envoy's admin prints them: text and JSON. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "proxy/core/arena.h"
#include "proxy/core/scope_buckets.h"
#include "proxy/core/scope_priv.h"

#include <errno.h>
#include <event2/buffer.h>
#include <inttypes.h>
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MATCH_LIMIT = 100000 };
struct scope_match {
	bool used_only, kinds[3];
	pcre2_code *regex;
	pcre2_match_data *data;
	pcre2_match_context *ctx;
};

struct weft_scope_view scope_view;

void weft_scope_view(const struct weft_scope_view *v)
{
	scope_view = v ? *v : (struct weft_scope_view){0};
}

const double *scope_bounds(const char *full_name, size_t len, unsigned *ret_n)
{
	const double *own =
		scope_view.bounds ? scope_view.bounds(scope_view.ctx, full_name, len, ret_n) : NULL;

	if (!own)
		*ret_n = SCOPE_BOUNDS;
	return own ? own : scope_buckets;
}

int scope_match_new(const struct weft_scope_query *q, struct scope_match **ret)
{
	struct scope_match *m = weft_xcalloc(1, sizeof(*m));
	const char *t = q->type ? q->type : "All";
	PCRE2_SIZE at;
	int err;

	*ret = m;
	m->used_only = q->used_only;
	m->kinds[WEFT_COUNTER] = !strcmp(t, "All") || !strcmp(t, "Counters");
	m->kinds[WEFT_GAUGE] = !strcmp(t, "All") || !strcmp(t, "Gauges");
	m->kinds[WEFT_HISTOGRAM] = !strcmp(t, "All") || !strcmp(t, "Histograms");
	if (!q->filter)
		return 0;
	m->regex = pcre2_compile((PCRE2_SPTR)q->filter, PCRE2_ZERO_TERMINATED, 0, &err, &at, NULL);
	if (!m->regex) {
		scope_match_free(m);
		*ret = NULL;
		return -EINVAL;
	}
	m->data = pcre2_match_data_create(1, NULL);
	m->ctx = pcre2_match_context_create(NULL);
	if (!m->data || !m->ctx)
		abort();
	pcre2_set_match_limit(m->ctx, MATCH_LIMIT);
	return 0;
}

void scope_match_free(struct scope_match *m)
{
	if (!m)
		return;
	pcre2_match_context_free(m->ctx);
	pcre2_match_data_free(m->data);
	pcre2_code_free(m->regex);
	free(m);
}

bool scope_match_kind(const struct scope_match *m, enum weft_scope_kind k)
{
	return m->kinds[k];
}

bool scope_match(const struct scope_match *m, const struct scope_number *n, const char *full_name,
		 size_t len)
{
	if (!m->kinds[n->kind] || (m->used_only && !n->used))
		return false;
	if (scope_view.keep && !scope_view.keep(scope_view.ctx, full_name, len))
		return false;
	return !m->regex ||
	       pcre2_match(m->regex, (PCRE2_SPTR)full_name, len, 0, 0, m->data, m->ctx) >= 0;
}

/* ---- walking in order of name */
size_t scope_prefix_len(const struct weft_scope *s)
{
	size_t cls = strlen(scope_class(s)->prefix), name = strlen(weft_scope_name(s));

	return cls + (cls > 0) + name + (name > 0);
}

int scope_prefix(const struct weft_scope *s, char *dst, size_t cap)
{
	const char *cls = scope_class(s)->prefix, *name = weft_scope_name(s);

	return snprintf(dst, cap, "%s%s%s%s", cls, *cls ? "." : "", name, *name ? "." : "");
}

struct print {
	struct evbuffer *out;
	struct scope_match *match;
	bool histograms, json, first;
	enum weft_scope_buckets how;
	void (*one)(struct print *p, const char *name, const struct scope_number *n);
	char *name; /* the full one */
	size_t cap;
	const struct weft_scope_class *cls; /* of order */
	unsigned *order;		    /* its items by name */
};

static const struct weft_scope_class *sorting; /* under the registry's lock */
static int by_item(const void *a, const void *b)
{
	return strcmp(sorting->v[*(const unsigned *)a].name, sorting->v[*(const unsigned *)b].name);
}

static void order_of(struct print *p, const struct weft_scope_class *cls)
{
	if (p->cls == cls)
		return;
	free(p->order);
	p->cls = sorting = cls;
	p->order = weft_xcalloc(cls->n, sizeof(*p->order));
	for (unsigned i = 0; i < cls->n; i++)
		p->order[i] = i;
	qsort(p->order, cls->n, sizeof(*p->order), by_item);
}

static void print_one(struct print *p, size_t prefix, const struct scope_number *n)
{
	size_t len = strlen(n->item);

	if ((n->kind == WEFT_HISTOGRAM) != p->histograms)
		return;
	if (prefix + len + 1 > p->cap) {
		p->cap = 2 * (prefix + len + 1);
		p->name = weft_xrealloc(p->name, p->cap);
	}
	memcpy(p->name + prefix, n->item, len + 1);
	if (scope_match(p->match, n, p->name, prefix + len))
		p->one(p, p->name, n);
}

/* Items of the class and numbers by name are both in order: merged. */
static void print_scope(struct print *p, const struct weft_scope *s)
{
	const struct weft_scope_class *cls = scope_class(s);
	size_t prefix = scope_prefix_len(s), n = 0, at = 0;
	struct scope_number *extra = scope_extra(s, &n);

	order_of(p, cls);
	if (prefix + 1 > p->cap) {
		p->cap = prefix + 128;
		p->name = weft_xrealloc(p->name, p->cap);
	}
	scope_prefix(s, p->name, p->cap);
	for (unsigned i = 0; i < cls->n; i++) {
		struct scope_number k = scope_item(s, p->order[i]);

		while (at < n && strcmp(extra[at].item, k.item) < 0)
			print_one(p, prefix, &extra[at++]);
		print_one(p, prefix, &k);
	}
	while (at < n)
		print_one(p, prefix, &extra[at++]);
	scope_extra_free(extra, n);
}

static void print_all(struct print *p)
{
	struct scope_list l = scope_list_lock();

	for (size_t i = 0; i < l.n; i++)
		print_scope(p, l.v[i]);
	scope_list_unlock(&l);
	free(p->order);
	free(p->name);
	p->order = NULL;
	p->name = NULL;
	p->cls = NULL;
	p->cap = 0;
}

/* ---- text */
static void text_double(struct evbuffer *out, double v)
{
	if (isnan(v))
		evbuffer_add(out, "nan", 3);
	else
		evbuffer_add_printf(out, "%g", v);
}

static void text_quantiles(struct evbuffer *out, const struct hist *h)
{
	double interval[SCOPE_QUANTILES], all[SCOPE_QUANTILES];

	hist_quantiles(h, true, interval);
	hist_quantiles(h, false, all);
	for (unsigned i = 0; i < SCOPE_QUANTILES; i++) {
		evbuffer_add_printf(out, "%sP%g(", i ? " " : "", scope_quantiles[i]);
		text_double(out, interval[i]);
		evbuffer_add(out, ",", 1);
		text_double(out, all[i]);
		evbuffer_add(out, ")", 1);
	}
}

/* Values of a bucket: up to its bound, or from the bound before. */
struct bucket {
	uint64_t interval, all;
};
static struct bucket bucket_at(const struct hist *h, const double *bounds, unsigned i,
			       bool disjoint)
{
	struct bucket b = {0, 0};

	if (!h)
		return b;
	b.interval = hist_below(h, true, bounds[i]);
	b.all = hist_below(h, false, bounds[i]);
	if (disjoint && i) {
		b.interval -= hist_below(h, true, bounds[i - 1]);
		b.all -= hist_below(h, false, bounds[i - 1]);
	}
	return b;
}

struct bins {
	struct evbuffer *out;
	const char *between;
	unsigned n;
};
static void put_bin(void *ctx, double low, double width, uint64_t n)
{
	struct bins *b = ctx;
	bool json = *b->between == ',' && !b->between[1];

	evbuffer_add_printf(b->out, "%s", b->n++ ? b->between : "");
	evbuffer_add_printf(b->out,
			    json ? "{\"lower_bound\":%g,\"width\":%g,\"count\":%" PRIu64 "}"
				 : "%g,%g:%" PRIu64,
			    low, width, n);
}

static void put_bins(struct evbuffer *out, const struct hist *h, bool interval, const char *between)
{
	struct bins b = {.out = out, .between = between};

	if (h)
		hist_bins(h, interval, put_bin, &b);
}

static void text_hist(struct print *p, const char *name, const struct scope_number *n)
{
	unsigned n_bounds;
	const double *bounds = scope_bounds(name, strlen(name), &n_bounds);

	evbuffer_add_printf(p->out, "%s:", name);
	if (!n->hist || !hist_count(n->hist)) {
		evbuffer_add_printf(p->out, " No recorded values\n");
		return;
	}
	switch (p->how) {
	case WEFT_BUCKETS_SUMMARY:
		evbuffer_add(p->out, " ", 1);
		text_quantiles(p->out, n->hist);
		break;
	case WEFT_BUCKETS_DETAILED:
		evbuffer_add_printf(p->out, "\n  totals=");
		put_bins(p->out, n->hist, false, ", ");
		evbuffer_add_printf(p->out, "\n  intervals=");
		put_bins(p->out, n->hist, true, ", ");
		evbuffer_add_printf(p->out, "\n  summary=");
		text_quantiles(p->out, n->hist);
		break;
	default:
		for (unsigned i = 0; i < n_bounds; i++) {
			struct bucket b =
				bucket_at(n->hist, bounds, i, p->how == WEFT_BUCKETS_DISJOINT);

			evbuffer_add_printf(p->out, " B%g(%" PRIu64 ",%" PRIu64 ")", bounds[i],
					    b.interval, b.all);
		}
	}
	evbuffer_add(p->out, "\n", 1);
}

static void text_one(struct print *p, const char *name, const struct scope_number *n)
{
	if (n->kind == WEFT_HISTOGRAM)
		text_hist(p, name, n);
	else
		evbuffer_add_printf(p->out, "%s: %" PRId64 "\n", name, n->value);
}

int weft_scope_text_as(struct evbuffer *out, const struct weft_scope_query *q,
		       enum weft_scope_buckets how)
{
	struct print p = {.out = out, .one = text_one, .how = how};
	int err = scope_match_new(q, &p.match);

	if (err)
		return err;
	print_all(&p);
	p.histograms = true;
	if (scope_match_kind(p.match, WEFT_HISTOGRAM))
		print_all(&p);
	scope_match_free(p.match);
	return 0;
}

int weft_scope_text(struct evbuffer *out, const struct weft_scope_query *q)
{
	return weft_scope_text_as(out, q, WEFT_BUCKETS_SUMMARY);
}

/* ---- JSON */
static void json_string(struct evbuffer *out, const char *s)
{
	evbuffer_add(out, "\"", 1);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			evbuffer_add_printf(out, "\\%c", c);
		else if (c < 0x20)
			evbuffer_add_printf(out, "\\u%04x", c);
		else
			evbuffer_add(out, s, 1);
	}
	evbuffer_add(out, "\"", 1);
}

static void json_double(struct evbuffer *out, double v)
{
	if (isnan(v))
		evbuffer_add(out, "null", 4);
	else
		evbuffer_add_printf(out, "%g", v);
}

static void json_quantiles(struct evbuffer *out, const struct hist *h)
{
	double interval[SCOPE_QUANTILES], all[SCOPE_QUANTILES];

	for (unsigned i = 0; i < SCOPE_QUANTILES; i++)
		interval[i] = all[i] = NAN;
	if (h) {
		hist_quantiles(h, true, interval);
		hist_quantiles(h, false, all);
	}
	for (unsigned i = 0; i < SCOPE_QUANTILES; i++) {
		evbuffer_add_printf(out, "%s{\"interval\":", i ? "," : "");
		json_double(out, interval[i]);
		evbuffer_add_printf(out, ",\"cumulative\":");
		json_double(out, all[i]);
		evbuffer_add(out, "}", 1);
	}
}

static void json_buckets(struct evbuffer *out, const char *name, const struct hist *h,
			 bool disjoint)
{
	unsigned n;
	const double *bounds = scope_bounds(name, strlen(name), &n);

	for (unsigned i = 0; i < n; i++) {
		struct bucket b = bucket_at(h, bounds, i, disjoint);

		evbuffer_add_printf(out,
				    "%s{\"upper_bound\":%.15g,\"interval\":%" PRIu64
				    ",\"cumulative\":%" PRIu64 "}",
				    i ? "," : "", bounds[i], b.interval, b.all);
	}
}

static void json_one(struct print *p, const char *name, const struct scope_number *n)
{
	evbuffer_add_printf(p->out, "%s{\"name\":", p->first ? "" : ",");
	p->first = false;
	json_string(p->out, name);
	if (n->kind != WEFT_HISTOGRAM) {
		evbuffer_add_printf(p->out, ",\"value\":%" PRId64 "}", n->value);
		return;
	}
	switch (p->how) {
	case WEFT_BUCKETS_SUMMARY:
		evbuffer_add_printf(p->out, ",\"values\":[");
		json_quantiles(p->out, n->hist);
		break;
	case WEFT_BUCKETS_DETAILED:
		evbuffer_add_printf(p->out, ",\"totals\":[");
		put_bins(p->out, n->hist, false, ",");
		evbuffer_add_printf(p->out, "],\"intervals\":[");
		put_bins(p->out, n->hist, true, ",");
		evbuffer_add_printf(p->out, "],\"percentiles\":[");
		json_quantiles(p->out, n->hist);
		break;
	default:
		evbuffer_add_printf(p->out, ",\"buckets\":[");
		json_buckets(p->out, name, n->hist, p->how == WEFT_BUCKETS_DISJOINT);
	}
	evbuffer_add(p->out, "]}", 2);
}

/* Nothing where no histogram is asked for, as Envoy. */
static void json_histograms(struct print *p)
{
	struct evbuffer *out = p->out, *all = evbuffer_new();
	bool first = p->first,
	     listed = p->how == WEFT_BUCKETS_CUMULATIVE || p->how == WEFT_BUCKETS_DISJOINT;

	p->out = all;
	p->histograms = p->first = true;
	print_all(p);
	p->out = out;
	if (!p->first) {
		evbuffer_add_printf(out, "%s{\"histograms\":", first ? "" : ",");
		if (!listed) {
			evbuffer_add_printf(out, "{\"supported_%s\":[",
					    p->how == WEFT_BUCKETS_DETAILED ? "percentiles"
									    : "quantiles");
			for (unsigned i = 0; i < SCOPE_QUANTILES; i++)
				evbuffer_add_printf(out, "%s%g", i ? "," : "", scope_quantiles[i]);
			evbuffer_add_printf(out, "],\"%s\":",
					    p->how == WEFT_BUCKETS_DETAILED ? "details"
									    : "computed_quantiles");
		}
		evbuffer_add(out, "[", 1);
		evbuffer_add_buffer(out, all);
		evbuffer_add_printf(out, "]%s}", listed ? "" : "}");
	}
	evbuffer_free(all);
}

int weft_scope_json_as(struct evbuffer *out, const struct weft_scope_query *q,
		       enum weft_scope_buckets how)
{
	struct print p = {.out = out, .one = json_one, .first = true, .how = how};
	int err = scope_match_new(q, &p.match);

	if (err)
		return err;
	evbuffer_add_printf(out, "{\"stats\":[");
	print_all(&p);
	if (scope_match_kind(p.match, WEFT_HISTOGRAM))
		json_histograms(&p);
	evbuffer_add_printf(out, "]}");
	scope_match_free(p.match);
	return 0;
}

int weft_scope_json(struct evbuffer *out, const struct weft_scope_query *q)
{
	return weft_scope_json_as(out, q, WEFT_BUCKETS_SUMMARY);
}
