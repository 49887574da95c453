/* How scopes keep their numbers; read by those that print them. Private to scope*.c. */
#pragma once
#include "proxy/core/scope.h"
#include <stdatomic.h>

/* Log-linear: two significant digits. Bins of 15 are made when one of them is first met. */
enum { HIST_DECADES = 13, HIST_GROUP = 15, HIST_GROUPS = 6, HIST_BINS = HIST_GROUP * HIST_GROUPS };
struct hist_group {
	_Atomic uint64_t now[HIST_GROUP];
	uint64_t mark[HIST_GROUP]; /* as at the last flush */
	uint64_t last[HIST_GROUP]; /* what came between the last two flushes */
};
struct hist_decade {
	_Atomic(struct hist_group *) groups[HIST_GROUPS];
};
struct hist {
	_Atomic uint64_t zero, sum;
	uint64_t zero_mark, zero_last;
	_Atomic(struct hist_decade *) decades[HIST_DECADES];
};
enum { SCOPE_QUANTILES = 10 };
extern const double scope_quantiles[SCOPE_QUANTILES]; /* 0..100 */
struct hist *hist_new(void);
void hist_free(struct hist *h);
size_t hist_bytes(const struct hist *h);
void hist_record(struct hist *h, uint64_t v);
void hist_flush(struct hist *h);
void hist_reset(struct hist *h);
/* NaN where nothing was recorded. interval: of the last interval, else of all. */
void hist_quantiles(const struct hist *h, bool interval, double ret[SCOPE_QUANTILES]);
uint64_t hist_count(const struct hist *h);
/* How many values were at most le. */
uint64_t hist_below(const struct hist *h, bool interval, double le);
void hist_bins(const struct hist *h, bool interval,
	       void (*fn)(void *ctx, double low, double width, uint64_t n), void *ctx);
/* Upper bounds of Envoy's buckets. */
enum { SCOPE_BOUNDS = 19 };
extern const double scope_buckets[SCOPE_BOUNDS];

enum { SCOPE_GROUP = 15, SCOPE_NAMED_MAX = 10000, SCOPE_BUCKETS = 256 };
struct scope_group {
	_Atomic int64_t v[SCOPE_GROUP]; /* a histogram's is a struct hist * */
	_Atomic uint64_t used;
};
struct scope_named { /* never removed while its scope lives */
	struct scope_named *next;
	_Atomic int64_t value;
	_Atomic(struct hist *) hist;
	_Atomic bool used;
	enum weft_scope_kind kind;
	uint64_t hash;
	char name[];
};
struct scope_buckets {
	_Atomic(struct scope_named *) v[SCOPE_BUCKETS];
	_Atomic uint32_t n;
};

/* One number as it is printed. */
struct scope_number {
	const char *item; /* without the scope's prefix */
	enum weft_scope_kind kind;
	const char *help; /* NULL */
	int64_t value;
	const struct hist *hist; /* NULL: nothing was recorded */
	bool used;
	bool fixed; /* an item of the class: `index` */
	unsigned index;
};
struct scope_list { /* of scopes, ordered by class and name; the registry is locked */
	const struct weft_scope **v;
	size_t n;
};
struct scope_list scope_list_lock(void);
void scope_list_unlock(struct scope_list *l);
const struct weft_scope_class *scope_class(const struct weft_scope *s);
/* "cluster.NAME." */
int scope_prefix(const struct weft_scope *s, char *dst, size_t cap);
size_t scope_prefix_len(const struct weft_scope *s);
struct scope_number scope_item(const struct weft_scope *s, unsigned item);
/* Those that are not items of the class; malloc'ed with their names, in order of name. */
struct scope_number *scope_extra(const struct weft_scope *s, size_t *ret_n);
void scope_extra_free(struct scope_number *v, size_t n);

extern struct weft_scope_view scope_view;
const double *scope_bounds(const char *full_name, size_t len, unsigned *ret_n);

struct scope_match; /* a query made ready */
int scope_match_new(const struct weft_scope_query *q, struct scope_match **ret);
void scope_match_free(struct scope_match *m);
bool scope_match_kind(const struct scope_match *m, enum weft_scope_kind k);
bool scope_match(const struct scope_match *m, const struct scope_number *n, const char *full_name,
		 size_t len);
