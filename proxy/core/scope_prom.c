/* Statistics as Envoy's /stats/prometheus: names without what changes, which becomes labels. */
#include "proxy/core/arena.h"
#include "proxy/core/scope_priv.h"

#include <ctype.h>
#include <event2/buffer.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { METRIC_MAX = 512, LABELS_MAX = 24 };

struct label {
	const char *name;
	const char *v;
	size_t n;
};
struct labels {
	struct label v[LABELS_MAX];
	unsigned n;
};
/* A metric's samples: an item of a class over all its scopes, or one number by name. */
struct metric {
	char *name; /* "envoy_cluster_upstream_rq" */
	const struct weft_scope *first;
	size_t from, to; /* of the list, for an item */
	struct scope_number number;
	bool item;
};
struct metrics {
	struct metric *v;
	size_t n, cap;
};

static void label_add(struct labels *l, const char *name, const char *v, size_t n)
{
	if (l->n < LABELS_MAX)
		l->v[l->n++] = (struct label){name, v, n};
}

/* Where a word's value stands in a name: "vhost.VALUE.rest". */
static const struct tag {
	const char *word, *label;
} words[] = {
	{"vhost", "envoy_virtual_host"}, {"vcluster", "envoy_virtual_cluster"},
	{"route", "envoy_route"},	 {"grpc", "envoy_grpc_bridge_service"},
	{"ciphers", "envoy_ssl_cipher"}, {"user_agent", "envoy_http_user_agent"},
};

static bool is_code(const char *s, size_t n)
{
	return n == 3 && s[0] >= '1' && s[0] <= '5' && isdigit((unsigned char)s[1]) &&
	       isdigit((unsigned char)s[2]);
}

static bool is_code_class(const char *s, size_t n)
{
	return n == 3 && s[0] >= '1' && s[0] <= '5' && s[1] == 'x' && s[2] == 'x';
}

/* The item's name less its tags, appended to dst; tags to l (they point into item). */
static void item_extract(const char *item, char *dst, size_t cap, struct labels *l)
{
	size_t len = strlen(dst);
	const char *p = item;

	while (*p) {
		size_t n = strcspn(p, ".");
		const char *next = p + n + (p[n] == '.'), *label = NULL;
		const char *us = memrchr(p, '_', n);

		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]) && *next; i++)
			if (strlen(words[i].word) == n && !memcmp(words[i].word, p, n))
				label = words[i].label;
		if (us && !p[n] && us > p + 3 && !memcmp(us - 3, "_rq", 3) &&
		    is_code(us + 1, n - (size_t)(us + 1 - p))) {
			label_add(l, "envoy_response_code", us + 1, 3);
			n -= 4;
		} else if (us && !p[n] && us > p + 3 && !memcmp(us - 3, "_rq", 3) &&
			   is_code_class(us + 1, n - (size_t)(us + 1 - p))) {
			label_add(l, "envoy_response_code_class", us + 1, 1);
			n -= 3;
			/* upstream_rq_2xx is upstream_rq_xx{class="2"} */
			len += (size_t)snprintf(dst + len, len < cap ? cap - len : 0, "_%.*sxx",
						(int)n, p);
			p = next;
			continue;
		}
		if (len < cap)
			len += (size_t)snprintf(dst + len, cap - len, "_%.*s", (int)n, p);
		p = next;
		if (label) {
			size_t vn = strcspn(p, ".");

			label_add(l, label, p, vn);
			p += vn + (p[vn] == '.');
			if (!strcmp(label, "envoy_grpc_bridge_service")) {
				vn = strcspn(p, ".");
				if (p[vn]) {
					label_add(l, "envoy_grpc_bridge_method", p, vn);
					p += vn + 1;
				}
			}
		}
	}
}

static void sanitize(char *s)
{
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && *s != '_' && *s != ':')
			*s = '_';
}

/* Where infix splits the scope's name: the length of the first part; 0: it has one part. */
static size_t split(const struct weft_scope *s)
{
	const char *infix = scope_class(s)->infix, *name = weft_scope_name(s), *at = name,
		   *found = NULL;
	size_t n = infix ? strlen(infix) : 0;

	while (n && (at = strchr(at + 1, '.')))
		if (!strncmp(at + 1, infix, n) && at[1 + n] == '.')
			found = at;
	return found ? (size_t)(found - name) : 0;
}

static void metric_head(const struct weft_scope *s, char *dst, size_t cap)
{
	const struct weft_scope_class *c = scope_class(s);

	snprintf(dst, cap, "envoy%s%s%s%s%s%s", c->prefix[0] ? "_" : "", c->prefix,
		 split(s) ? "_" : "", split(s) ? c->infix : "",
		 !c->tag && weft_scope_name(s)[0] ? "_" : "", c->tag ? "" : weft_scope_name(s));
}

static void scope_labels(const struct weft_scope *s, struct labels *l)
{
	const struct weft_scope_class *c = scope_class(s);
	const char *name = weft_scope_name(s);
	size_t at = split(s), len = strlen(name);

	if (!c->tag)
		return;
	label_add(l, c->tag, name, at ? at : len);
	if (at) {
		size_t skip = at + strlen(c->infix) + 2;

		label_add(l, c->tag2, name + skip, len - skip);
	}
}

static struct metric *metric_add(struct metrics *m, const struct weft_scope *s, const char *item)
{
	char name[METRIC_MAX] = "";
	struct labels l = {0};

	if (m->n == m->cap) {
		m->cap = m->cap ? 2 * m->cap : 256;
		m->v = weft_xrealloc(m->v, m->cap * sizeof(*m->v));
	}
	metric_head(s, name, sizeof(name));
	item_extract(item, name, sizeof(name), &l);
	sanitize(name);
	m->v[m->n] = (struct metric){.name = weft_xstrdup(name), .first = s};
	return &m->v[m->n++];
}

static void put_labels(struct evbuffer *out, const struct labels *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		evbuffer_add_printf(out, "%s%s=\"", i ? "," : "", l->v[i].name);
		for (size_t k = 0; k < l->v[i].n; k++) {
			char c = l->v[i].v[k];

			if (c == '\n')
				evbuffer_add(out, "\\n", 2);
			else if (c == '"' || c == '\\')
				evbuffer_add_printf(out, "\\%c", c);
			else
				evbuffer_add(out, &c, 1);
		}
		evbuffer_add(out, "\"", 1);
	}
}

static void put_hist(struct evbuffer *out, const char *name, const struct labels *l,
		     const struct hist *h, const char *full)
{
	uint64_t n = hist_count(h);
	unsigned n_bounds;
	const double *bounds = scope_bounds(full, strlen(full), &n_bounds);

	for (unsigned i = 0; i <= n_bounds; i++) {
		uint64_t below = i < n_bounds ? hist_below(h, false, bounds[i]) : n;

		evbuffer_add_printf(out, "%s_bucket{", name);
		put_labels(out, l);
		evbuffer_add_printf(out, l->n ? ",le=\"" : "le=\"");
		if (i < n_bounds)
			evbuffer_add_printf(out, "%.10g", bounds[i]);
		else
			evbuffer_add(out, "+Inf", 4);
		evbuffer_add_printf(out, "\"} %" PRIu64 "\n", below < n ? below : n);
	}
	evbuffer_add_printf(out, "%s_sum{", name);
	put_labels(out, l);
	evbuffer_add_printf(out, "} %" PRIu64 "\n%s_count{", atomic_load(&h->sum), name);
	put_labels(out, l);
	evbuffer_add_printf(out, "} %" PRIu64 "\n", n);
}

struct prom {
	struct evbuffer *out;
	struct scope_match *match;
	const char *typed; /* the metric whose TYPE was printed last */
	char *full;
	size_t cap;
};

static bool wanted(struct prom *p, const struct weft_scope *s, const struct scope_number *n)
{
	size_t prefix = scope_prefix_len(s), len = strlen(n->item);

	if (n->kind == WEFT_HISTOGRAM && !n->hist)
		return false;
	if (prefix + len + 1 > p->cap) {
		p->cap = prefix + len + 256;
		p->full = weft_xrealloc(p->full, p->cap);
	}
	scope_prefix(s, p->full, p->cap);
	memcpy(p->full + prefix, n->item, len + 1);
	return scope_match(p->match, n, p->full, prefix + len);
}

static void put_number(struct prom *p, const struct metric *m, const struct weft_scope *s,
		       const struct scope_number *n)
{
	static const char *const kinds[] = {"counter", "gauge", "histogram"};
	char ignored[METRIC_MAX] = "";
	struct labels l = {0};

	if (!wanted(p, s, n))
		return;
	if (!p->typed || strcmp(p->typed, m->name) != 0) {
		if (n->help)
			evbuffer_add_printf(p->out, "# HELP %s %s\n", m->name, n->help);
		evbuffer_add_printf(p->out, "# TYPE %s %s\n", m->name, kinds[n->kind]);
	}
	p->typed = m->name;
	item_extract(n->item, ignored, sizeof(ignored), &l);
	scope_labels(s, &l);
	for (size_t i = 0; i < scope_view.n_labels; i++)
		label_add(&l, scope_view.labels[2 * i], scope_view.labels[2 * i + 1],
			  strlen(scope_view.labels[2 * i + 1]));
	if (n->kind == WEFT_HISTOGRAM) {
		put_hist(p->out, m->name, &l, n->hist, p->full);
		return;
	}
	evbuffer_add_printf(p->out, "%s{", m->name);
	put_labels(p->out, &l);
	evbuffer_add_printf(p->out, "} %" PRId64 "\n", n->value);
}

static int by_metric(const void *a, const void *b)
{
	const struct metric *x = a, *y = b;
	int d = strcmp(x->name, y->name);

	/* samples of one metric stay together by kind: a name has one TYPE */
	if (!d)
		d = (int)x->number.kind - (int)y->number.kind;
	return d ? d : (x->first > y->first) - (x->first < y->first);
}

/* Scopes of one class stand together; one with an infix in its name is another metric. */
static bool same_metrics(const struct weft_scope *a, const struct weft_scope *b)
{
	const struct weft_scope_class *c = scope_class(a);

	return c == scope_class(b) && !split(a) == !split(b) &&
	       (c->tag || !strcmp(weft_scope_name(a), weft_scope_name(b)));
}

static void collect(struct metrics *m, const struct scope_list *l)
{
	for (size_t from = 0, to; from < l->n; from = to) {
		const struct weft_scope_class *c = scope_class(l->v[from]);

		for (to = from + 1; to < l->n && same_metrics(l->v[from], l->v[to]); to++)
			;
		for (unsigned i = 0; i < c->n; i++) {
			struct metric *k = metric_add(m, l->v[from], c->v[i].name);

			k->item = true;
			k->from = from;
			k->to = to;
			k->number = (struct scope_number){.kind = c->v[i].kind, .index = i};
		}
	}
	for (size_t i = 0; i < l->n; i++) {
		size_t n;
		struct scope_number *extra = scope_extra(l->v[i], &n);

		for (size_t k = 0; k < n; k++)
			metric_add(m, l->v[i], extra[k].item)->number = extra[k];
		free(extra); /* the names went to the metrics */
	}
	if (m->n)
		qsort(m->v, m->n, sizeof(*m->v), by_metric);
}

int weft_scope_prometheus(struct evbuffer *out, const struct weft_scope_query *q)
{
	struct prom p = {.out = out};
	struct metrics m = {0};
	struct scope_list l;
	int err = scope_match_new(q, &p.match);

	if (err)
		return err;
	l = scope_list_lock();
	collect(&m, &l);
	for (size_t i = 0; i < m.n; i++) {
		struct metric *k = &m.v[i];

		/* one name of two kinds would not be valid: the first kind stands */
		if (i && !strcmp(k->name, m.v[i - 1].name) &&
		    k->number.kind != m.v[i - 1].number.kind) {
			k->number.kind = m.v[i - 1].number.kind;
			continue;
		}
		if (!k->item)
			put_number(&p, k, k->first, &k->number);
		for (size_t s = k->from; k->item && s < k->to; s++) {
			struct scope_number n = scope_item(l.v[s], k->number.index);

			put_number(&p, k, l.v[s], &n);
		}
	}
	scope_list_unlock(&l);
	for (size_t i = 0; i < m.n; i++) {
		if (!m.v[i].item)
			free((char *)m.v[i].number.item);
		free(m.v[i].name);
	}
	free(m.v);
	free(p.full);
	scope_match_free(p.match);
	return 0;
}
