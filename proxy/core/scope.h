/* Statistics under Envoy's names. A class declares the names of one kind of thing once (a .def
 * list: help and kind beside each); a scope is one thing of it: "cluster.NAME." with its numbers in
 * one block. Adding is one relaxed atomic. As text "cluster.NAME.upstream_rq_total: 5"; for
 * Prometheus envoy_cluster_upstream_rq_total{envoy_cluster_name="NAME"}. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evbuffer;
enum weft_scope_kind { WEFT_COUNTER, WEFT_GAUGE, WEFT_HISTOGRAM };
struct weft_scope_item {
	const char *name; /* "upstream_rq_total" */
	enum weft_scope_kind kind;
	const char *help; /* without a full stop; histograms: with the unit */
};
struct weft_scope_class {
	const char
		*prefix; /* "cluster": text "cluster.NAME.item", Prometheus "envoy_cluster_item" */
	const char *tag; /* "envoy_cluster_name"; NULL: one of a kind, no NAME in the text */
	const struct weft_scope_item *v;
	size_t n;
	bool codes;	       /* has CODE counters: "<code_item>_200", "_2xx" and "_completed" */
	const char *code_item; /* "upstream_rq" */
	/* Of NAMEs in two parts, "ADDRESS.http.PREFIX": infix "http" and the second part's tag. */
	const char *infix, *tag2;
};
struct weft_scope;
/* Refcounted by name: the same class and name give the same scope and numbers. Any thread (takes
 * the registry's lock). */
struct weft_scope *weft_scope_get(const struct weft_scope_class *cls, const char *name);
void weft_scope_unref(
	struct weft_scope *s); /* NULL is fine. The last one removes it from every listing */
const char *weft_scope_name(const struct weft_scope *s);
/* item: index in the class. Any thread, no lock. A NULL scope is fine: nothing happens. */
void weft_scope_add(struct weft_scope *s, unsigned item, int64_t n);
void weft_scope_set(struct weft_scope *s, unsigned item, int64_t v);
int64_t weft_scope_value(const struct weft_scope *s, unsigned item);	 /* histogram: its count */
void weft_scope_record(struct weft_scope *s, unsigned item, uint64_t v); /* histogram */
void weft_scope_code(struct weft_scope *s,
		     unsigned http_status); /* 100..599: counts the code and its class; 0: what
					       was completed alone */
/* Dynamic names inside a scope (per-route stats, grpc methods): made on first use, at most 10,000 a
 * scope. */
void weft_scope_add_named(struct weft_scope *s, const char *item, int64_t n);
void weft_scope_record_named(struct weft_scope *s, const char *item, uint64_t v); /* histogram */
int64_t weft_scope_value_named(const struct weft_scope *s, const char *item);	  /* 0: not there */
/* One-off counters and gauges whose full name is given ("server.live"): never removed. */
void weft_scope_global_set(const char *full_name, enum weft_scope_kind kind, int64_t v);
void weft_scope_global_add(const char *full_name, enum weft_scope_kind kind, int64_t n);

/* How all of it is told, by full name ("cluster.a.upstream_rq_total"). Main thread; what it points
 * to lives on. */
struct weft_scope_view {
	void *ctx;
	bool (*keep)(void *ctx, const char *name, size_t n); /* NULL: all */
	/* Bounds of a histogram's buckets, rising; NULL: Envoy's own. */
	const double *(*bounds)(void *ctx, const char *name, size_t n, unsigned *ret_n);
	const char *const *labels; /* name and value, name and value: of every metric */
	size_t n_labels;
};
void weft_scope_view(const struct weft_scope_view *v); /* NULL: as at first */

struct weft_scope_query {
	bool used_only;	    /* only what was ever touched */
	const char *filter; /* POSIX-like substring or PCRE of the name; NULL: all */
	const char *type;   /* "Counters" "Gauges" "Histograms" "All"; NULL: all */
};
/* Main thread. */
int weft_scope_text(struct evbuffer *out,
		    const struct weft_scope_query *q); /* /stats; -EINVAL: bad regex */
int weft_scope_json(struct evbuffer *out,
		    const struct weft_scope_query *q); /* /stats?format=json */
int weft_scope_prometheus(struct evbuffer *out,
			  const struct weft_scope_query *q); /* /stats/prometheus */
void weft_scope_reset_counters(void);			     /* histograms too, as Envoy */
/* Ends an interval of the histograms; call once a stats_flush_interval (5 s). Main thread. */
void weft_scope_flush(void);
/* Total memory and number of scopes, for /memory. */
size_t weft_scope_bytes(void);
