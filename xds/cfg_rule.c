/* Value rules, each with the sentence that says what was wanted and what was found. */
#include "xds/cfg_priv.h"
#include "xds/yaml_priv.h"
#include <inttypes.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOW_MAX = 96, NUM_MAX = 40 };

static const char *show(const char *s, size_t n, char dst[SHOW_MAX])
{
	const struct yev e = {.type = YEV_SCALAR, .v = s, .n = n};

	return yaml_scalar_show(&e, dst, SHOW_MAX);
}

/* A bound or a value as people write it. */
struct number {
	double v;
	bool whole, duration;
	int64_t exact; /* of whole numbers and durations (ns) */
};

static const char *number_text(const struct number *x, double v, char dst[NUM_MAX])
{
	if (x->duration)
		yaml_duration_text((int64_t)v / 1000000000, (int32_t)((int64_t)v % 1000000000), dst,
				   NUM_MAX);
	else if (x->whole)
		snprintf(dst, NUM_MAX, "%.0f", v);
	else
		snprintf(dst, NUM_MAX, "%g", v);
	return dst;
}

static const char *value_text(const struct number *x, char dst[NUM_MAX])
{
	if (!x->whole || x->duration)
		return number_text(x, x->duration ? (double)x->exact : x->v, dst);
	snprintf(dst, NUM_MAX, "%" PRId64, x->exact);
	return dst;
}

struct range {
	bool has_lo, has_hi, lo_open, hi_open;
	double lo, hi;
};

static struct range range_of(struct cfg_rules r, bool duration)
{
	enum cfg_rule_kind gt = duration ? RULE_DUR_GT : RULE_GT,
			   gte = duration ? RULE_DUR_GTE : RULE_GTE,
			   lt = duration ? RULE_DUR_LT : RULE_LT,
			   lte = duration ? RULE_DUR_LTE : RULE_LTE;
	struct range x = {0};

	for (size_t i = 0; i < r.n; i++) {
		enum cfg_rule_kind k = r.v[i].kind;

		if (k == gt || k == gte) {
			x.has_lo = true;
			x.lo_open = k == gt;
			x.lo = r.v[i].number;
		} else if (k == lt || k == lte) {
			x.has_hi = true;
			x.hi_open = k == lt;
			x.hi = r.v[i].number;
		}
	}
	return x;
}

/* Bounds of whole numbers are told inclusive. */
static void bad_range(struct cfg_walk *w, const struct weft_path *at, const struct number *x,
		      struct range r)
{
	char lo[NUM_MAX], hi[NUM_MAX], is[NUM_MAX];

	if (x->whole && !x->duration) {
		r.lo += r.lo_open;
		r.hi -= r.hi_open;
		r.lo_open = r.hi_open = false;
	}
	number_text(x, r.lo, lo);
	number_text(x, r.hi, hi);
	value_text(x, is);
	if (r.has_lo && r.has_hi && !r.lo_open && !r.hi_open)
		cfg_bad(w, at, "must be %s..%s, is %s", lo, hi, is);
	else if (r.has_lo && r.has_hi)
		cfg_bad(w, at, "must be %s %s and %s %s, is %s", r.lo_open ? "above" : "at least",
			lo, r.hi_open ? "below" : "at most", hi, is);
	else if (r.has_lo)
		cfg_bad(w, at, "must be %s %s, is %s", r.lo_open ? "above" : "at least", lo, is);
	else
		cfg_bad(w, at, "must be %s %s, is %s", r.hi_open ? "below" : "at most", hi, is);
	cfg_unsound(w);
}

static bool inside(double v, struct range r)
{
	if (r.has_lo && !(r.lo_open ? v > r.lo : v >= r.lo))
		return false;
	return !r.has_hi || (r.hi_open ? v < r.hi : v <= r.hi);
}

static void check_number(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
			 const struct number *x)
{
	double v = x->duration ? (double)x->exact : x->v;
	struct range range = range_of(r, x->duration);
	char is[NUM_MAX], want[NUM_MAX];

	if (!inside(v, range)) {
		bad_range(w, at, x, range);
		return;
	}
	for (size_t i = 0; i < r.n && !x->duration; i++) {
		if (r.v[i].kind == RULE_CONST && v != r.v[i].number)
			cfg_bad(w, at, "must be %s, is %s", number_text(x, r.v[i].number, want),
				value_text(x, is));
		if (r.v[i].kind == RULE_NOT_IN && v == r.v[i].number)
			cfg_bad(w, at, "must not be %s", value_text(x, is));
	}
}

static void check_enum(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		       const ProtobufCEnumDescriptor *d, int v)
{
	const ProtobufCEnumValue *named = protobuf_c_enum_descriptor_get_value(d, v);

	/* whatever the rules say: nothing can act on a value that has no meaning yet */
	if (!named) {
		cfg_bad(w, at, "%d is not a value of %s", v, d->short_name);
		return;
	}
	for (size_t i = 0; i < r.n; i++) {
		if (r.v[i].kind == RULE_NOT_IN && (int)r.v[i].number == v)
			cfg_bad(w, at, "must not be %s", named->name);
		if (r.v[i].kind == RULE_CONST && (int)r.v[i].number != v)
			cfg_bad(w, at, "must be %d, is %s", (int)r.v[i].number, named->name);
	}
}

/* RFC 9110 token, with the colon that begins a pseudo-header. */
static bool is_header_name(const char *s, size_t n)
{
	static const char marks[] = "!#$%&'*+-.^_|~`";

	if (n && *s == ':') {
		s++;
		n--;
	}
	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (!(c >= '0' && c <= '9') && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
		    (!c || !strchr(marks, c)))
			return false;
	}
	return n > 0;
}

/* strict: no control bytes but the tab; else no NUL and no line ends. */
static bool is_header_value(const char *s, size_t n, bool strict)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == 0 || c == '\n' || c == '\r' ||
		    (strict && ((c < 0x20 && c != '\t') || c == 0x7f)))
			return false;
	}
	return true;
}

/* The few expressions are compiled once each; r stands in a table that lives as long. */
static bool matches(const struct cfg_rule *r, const char *s)
{
	static struct {
		const struct cfg_rule *rule;
		regex_t re;
	} kept[8];
	size_t i = 0;

	while (kept[i].rule && kept[i].rule != r)
		if (++i == sizeof(kept) / sizeof(kept[0]))
			abort(); /* rules.def grew: enlarge kept */
	if (!kept[i].rule) {
		if (regcomp(&kept[i].re, r->text, REG_EXTENDED | REG_NOSUB) != 0)
			abort(); /* a test compiles them all */
		kept[i].rule = r;
	}
	return regexec(&kept[i].re, s, 0, NULL, 0) == 0;
}

static bool ends(const char *s, size_t n, const char *tail)
{
	size_t len = strlen(tail);

	return n >= len && !memcmp(s + n - len, tail, len);
}

static void check_text_rule(struct cfg_walk *w, const struct weft_path *at,
			    const struct cfg_rule *r, const char *s, size_t n)
{
	char is[SHOW_MAX];

	switch (r->kind) {
	case RULE_HEADER_NAME:
		/* without "strict" Envoy takes anything but line ends; no such name could be sent
		 */
		if (!is_header_name(s, n) && (n || r->number != 0))
			cfg_bad(w, at, "must be a header name, is %s", show(s, n, is));
		break;
	case RULE_HEADER_VALUE:
		if (!is_header_value(s, n, r->number != 0))
			cfg_bad(w, at, "must be without control characters, is %s", show(s, n, is));
		break;
	case RULE_PREFIX:
		if (strncmp(s, r->text, strlen(r->text)) != 0)
			cfg_bad(w, at, "must begin with \"%s\", is %s", r->text, show(s, n, is));
		break;
	case RULE_SUFFIX:
		if (!ends(s, n, r->text))
			cfg_bad(w, at, "must end with \"%s\", is %s", r->text, show(s, n, is));
		break;
	case RULE_CONTAINS:
	case RULE_NOT_CONTAINS:
		if (!strstr(s, r->text) != (r->kind == RULE_NOT_CONTAINS))
			cfg_bad(w, at, "must %scontain \"%s\", is %s",
				r->kind == RULE_NOT_CONTAINS ? "not " : "", r->text,
				show(s, n, is));
		break;
	case RULE_PATTERN:
		if (!matches(r, s))
			cfg_bad(w, at, "must match %s, is %s", r->text, show(s, n, is));
		break;
	case RULE_ONE_OF:
		if (!cfg_word(r->text, s, n))
			cfg_bad(w, at, "must be one of %.120s; is %s", r->text, show(s, n, is));
		break;
	default:
		break;
	}
}

static void check_text(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		       const char *s, size_t n)
{
	/* an empty value is told once, as that */
	for (size_t i = 0; i < r.n; i++) {
		if (r.v[i].kind == RULE_IGNORE_EMPTY && n == 0)
			return;
		if (r.v[i].kind == RULE_MIN_LEN && (double)n < r.v[i].number) {
			if (n == 0)
				cfg_bad(w, at, "must not be empty");
			else
				cfg_bad(w, at, "must have at least %.0f bytes, has %zu",
					r.v[i].number, n);
			return;
		}
		if (r.v[i].kind == RULE_MAX_LEN && (double)n > r.v[i].number) {
			cfg_bad(w, at, "must have at most %.0f bytes, has %zu", r.v[i].number, n);
			return;
		}
	}
	for (size_t i = 0; i < r.n; i++)
		check_text_rule(w, at, &r.v[i], s, n);
}

static void check_duration(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
			   const Google__Protobuf__Duration *d)
{
	const int64_t max = 100LL * 366 * 86400;
	struct number x = {.duration = true};
	char is[48];

	if (d->seconds < 0 || d->nanos < 0) {
		yaml_duration_text(d->seconds, d->nanos, is, sizeof(is));
		cfg_bad(w, at, "must not be negative, is %s", is);
		return;
	}
	if (d->nanos > 999999999 || d->seconds > max) {
		cfg_bad(w, at, "is not a duration of at most 100 years: %lld s and %d ns",
			(long long)d->seconds, d->nanos);
		return;
	}
	x.exact = d->seconds * 1000000000 + d->nanos;
	check_number(w, at, r, &x);
}

static void check_scalar(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
			 const ProtobufCFieldDescriptor *f, const void *v)
{
	const ProtobufCBinaryData *b = v;
	struct number x = {.whole = true};
	const char *s;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		s = *(const char *const *)v ? *(const char *const *)v : "";
		check_text(w, at, r, s, strlen(s));
		return;
	case PROTOBUF_C_TYPE_BYTES:
		check_text(w, at, r, b->len ? (const char *)b->data : "", b->len);
		return;
	case PROTOBUF_C_TYPE_ENUM:
		check_enum(w, at, r, f->descriptor, *(const int *)v);
		return;
	case PROTOBUF_C_TYPE_DOUBLE:
		x = (struct number){.v = *(const double *)v};
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		x = (struct number){.v = (double)*(const float *)v};
		break;
	case PROTOBUF_C_TYPE_BOOL:
		x.exact = *(const protobuf_c_boolean *)v;
		break;
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		x.exact = *(const int32_t *)v;
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		x.exact = *(const uint32_t *)v;
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		x.exact = *(const uint64_t *)v > INT64_MAX ? INT64_MAX : *(const int64_t *)v;
		break;
	default:
		x.exact = *(const int64_t *)v;
	}
	if (x.whole)
		x.v = (double)x.exact;
	check_number(w, at, r, &x);
}

static void check_any(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		      const Google__Protobuf__Any *any)
{
	const char *url = any->type_url ? any->type_url : "";
	char is[SHOW_MAX];

	for (size_t i = 0; i < r.n; i++)
		if (r.v[i].kind == RULE_ANY_OF && !cfg_word(r.v[i].text, url, strlen(url)))
			cfg_bad(w, at, "must be of type %.120s, is %s", r.v[i].text,
				show(url, strlen(url), is));
}

void cfg_rules_value(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		     const ProtobufCFieldDescriptor *f, const void *v)
{
	const ProtobufCMessage *m;
	const ProtobufCFieldDescriptor *in;

	if (f->type != PROTOBUF_C_TYPE_MESSAGE) {
		check_scalar(w, at, r, f, v);
		return;
	}
	m = *(const ProtobufCMessage *const *)v;
	if (!m)
		return;
	in = m->descriptor->fields;
	switch (cfg_form_of(f)) {
	case CFG_DURATION:
		check_duration(w, at, r, (const Google__Protobuf__Duration *)m);
		break;
	case CFG_WRAPPER:
		check_scalar(w, at, r, in, (const char *)m + in->offset);
		break;
	case CFG_ANY:
		check_any(w, at, r, (const Google__Protobuf__Any *)m);
		break;
	default:
		break;
	}
}

static int order(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void check_unique(struct cfg_walk *w, const struct weft_path *at,
			 const ProtobufCFieldDescriptor *f, const void *v, size_t n)
{
	const double *x = v;
	const char **s;
	char is[SHOW_MAX];

	if (f->type == PROTOBUF_C_TYPE_DOUBLE)
		for (size_t i = 1; i < n; i++)
			for (size_t k = 0; k < i && n <= 1000; k++)
				if (x[i] == x[k]) {
					cfg_bad(w, at, "%g is given twice", x[i]);
					return;
				}
	if (f->type != PROTOBUF_C_TYPE_STRING || n < 2)
		return;
	s = weft_xcalloc(n, sizeof(*s));
	memcpy(s, v, n * sizeof(*s));
	qsort(s, n, sizeof(*s), order);
	for (size_t i = 1; i < n; i++)
		if (!strcmp(s[i - 1], s[i])) {
			cfg_bad(w, at, "%s is given twice", show(s[i], strlen(s[i]), is));
			break;
		}
	free(s);
}

void cfg_rules_list(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		    const ProtobufCFieldDescriptor *f, const void *v, size_t n)
{
	for (size_t i = 0; i < r.n; i++) {
		const struct cfg_rule *k = &r.v[i];

		if (k->kind == RULE_MIN_ITEMS && (double)n < k->number) {
			cfg_bad(w, at, "must have at least %.0f item%s, has %zu", k->number,
				k->number == 1 ? "" : "s", n);
			cfg_unsound(w);
		} else if (k->kind == RULE_MAX_ITEMS && (double)n > k->number)
			cfg_bad(w, at, "must have at most %.0f items, has %zu", k->number, n);
		else if (k->kind == RULE_UNIQUE)
			check_unique(w, at, f, v, n);
	}
}
