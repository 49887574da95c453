/* What of a connection or request is logged: envoy.config.accesslog.v3.AccessLogFilter. */
#include "proxy/l4/als_priv.h"

#include "proxy/core/worker.h"
#include "proxy/policy/match.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

enum { DEPTH_MAX = 16 };

struct comparison {
	Envoy__Config__Accesslog__V3__ComparisonFilter__Op op;
	uint64_t value;
};
struct weft_access_filter {
	Envoy__Config__Accesslog__V3__AccessLogFilter__FilterSpecifierCase kind;
	struct comparison cmp;
	uint32_t sampled, of; /* of so many */
	bool independent;
	const struct weft_access_filter **v; /* and, or */
	size_t n;
	struct weft_hdrmatch header;
	uint64_t set; /* flags, statuses or types, as bits */
	bool exclude, missing;
	struct weft_metamatch meta;
};

#define KIND(x) ENVOY__CONFIG__ACCESSLOG__V3__ACCESS_LOG_FILTER__FILTER_SPECIFIER_##x

static const struct {
	const char *name;
	unsigned number;
} log_types[] = {
	{"NotSet", 0},
	{"TcpUpstreamConnected", 1},
	{"TcpPeriodic", 2},
	{"TcpConnectionEnd", 3},
	{"DownstreamStart", 4},
	{"DownstreamPeriodic", 5},
	{"DownstreamEnd", 6},
	{"UpstreamPoolReady", 7},
	{"UpstreamPeriodic", 8},
	{"UpstreamEnd", 9},
	{"DownstreamTunnelSuccessfullyEstablished", 10},
	{"UdpTunnelUpstreamConnected", 11},
	{"UdpPeriodic", 12},
	{"UdpSessionEnd", 13},
};

/* ---- compiling */
static int comparison(struct weft_cfg *c, const struct weft_path *at,
		      const Envoy__Config__Accesslog__V3__ComparisonFilter *m,
		      struct comparison *ret)
{
	struct weft_path p = {at, "comparison", -1};

	if (!m || !m->value)
		return weft_cfg_fail(c, &p, "must be set, with a value");
	ret->op = m->op;
	ret->value = m->value->default_value;
	return 0;
}

static int filter_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Accesslog__V3__AccessLogFilter *m, unsigned depth,
			  const struct weft_access_filter **ret);

static int all(struct weft_cfg *c, const struct weft_path *at,
	       Envoy__Config__Accesslog__V3__AccessLogFilter *const *v, size_t n, unsigned depth,
	       struct weft_access_filter *f)
{
	size_t i;
	int err = 0;

	f->v = weft_arena_alloc(c->arena, (n + 1) * sizeof(*f->v));
	f->n = n;
	for (i = 0; i < n; i++) {
		struct weft_path p = {at, "filters", (int)i};

		err |= filter_prepare(c, &p, v[i], depth + 1, &f->v[i]);
	}
	return err ? -EINVAL : 0;
}

static int flags(struct weft_cfg *c, const struct weft_path *at,
		 const Envoy__Config__Accesslog__V3__ResponseFlagFilter *m,
		 struct weft_access_filter *f)
{
	size_t i;
	int err = 0;

	if (!m->n_flags)
		f->set = UINT64_MAX;
	for (i = 0; i < m->n_flags; i++) {
		struct weft_path p = {at, "flags", (int)i};
		enum weft_flag fl = 0;

		while (fl < WEFT_FLAG_COUNT && strcmp(weft_flag_short(fl), m->flags[i]))
			fl++;
		if (fl < WEFT_FLAG_COUNT)
			f->set |= 1ull << fl;
		else
			err = weft_cfg_fail(c, &p,
					    "must be a response flag that is given here, is \"%s\"",
					    m->flags[i]);
	}
	return err;
}

static void percent(const Envoy__Type__V3__FractionalPercent *m, struct weft_access_filter *f)
{
	static const uint32_t of[] = {100, 10000, 1000000};

	f->sampled = m ? m->numerator : 0;
	f->of = of[m ? (unsigned)m->denominator % 3 : 0];
}

static int kind_prepare(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Config__Accesslog__V3__AccessLogFilter *m, unsigned depth,
			struct weft_access_filter *f)
{
	struct weft_path hdr = {at, "header", -1}, meta = {at, "matcher", -1};
	size_t i;

	switch (m->filter_specifier_case) {
	case KIND(STATUS_CODE_FILTER):
		return comparison(c, at, m->status_code_filter->comparison, &f->cmp);
	case KIND(DURATION_FILTER):
		return comparison(c, at, m->duration_filter->comparison, &f->cmp);
	case KIND(NOT_HEALTH_CHECK_FILTER):
		return 0;
	case KIND(RUNTIME_FILTER):
		percent(m->runtime_filter->percent_sampled, f);
		f->independent = m->runtime_filter->use_independent_randomness;
		return 0;
	case KIND(AND_FILTER):
		return all(c, at, m->and_filter->filters, m->and_filter->n_filters, depth, f);
	case KIND(OR_FILTER):
		return all(c, at, m->or_filter->filters, m->or_filter->n_filters, depth, f);
	case KIND(HEADER_FILTER):
		if (!m->header_filter->header)
			return weft_cfg_fail(c, &hdr, "must be set");
		return weft_hdrmatch_prepare(c, &hdr, m->header_filter->header, &f->header);
	case KIND(RESPONSE_FLAG_FILTER):
		return flags(c, at, m->response_flag_filter, f);
	case KIND(GRPC_STATUS_FILTER):
		for (i = 0; i < m->grpc_status_filter->n_statuses; i++)
			f->set |= 1ull << ((unsigned)m->grpc_status_filter->statuses[i] & 63);
		f->exclude = m->grpc_status_filter->exclude;
		return 0;
	case KIND(METADATA_FILTER):
		f->missing = weft_cfg_bool(m->metadata_filter->match_if_key_not_found, true);
		if (!m->metadata_filter->matcher)
			return weft_cfg_fail(c, &meta, "must be set");
		return weft_metamatch_prepare(c, &meta, m->metadata_filter->matcher, &f->meta);
	case KIND(LOG_TYPE_FILTER):
		for (i = 0; i < m->log_type_filter->n_types; i++)
			f->set |= 1ull << ((unsigned)m->log_type_filter->types[i] & 63);
		f->exclude = m->log_type_filter->exclude;
		return 0;
	default:
		return weft_cfg_fail(c, at, "is not an access log filter that is supported");
	}
}

static int filter_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Accesslog__V3__AccessLogFilter *m, unsigned depth,
			  const struct weft_access_filter **ret)
{
	struct weft_access_filter *f = weft_arena_alloc(c->arena, sizeof(*f));
	const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(
		m->base.descriptor, m->filter_specifier_case);
	struct weft_path p = {at, d ? d->name : "filter_specifier", -1};

	if (depth > DEPTH_MAX)
		return weft_cfg_fail(c, at, "is nested deeper than %d", DEPTH_MAX);
	f->kind = m->filter_specifier_case;
	*ret = f;
	return kind_prepare(c, &p, m, depth, f);
}

int weft_access_filter_prepare(struct weft_cfg *c, const struct weft_path *at,
			       const Envoy__Config__Accesslog__V3__AccessLogFilter *m,
			       const struct weft_access_filter **ret)
{
	return filter_prepare(c, at, m, 0, ret);
}

/* ---- deciding */
static bool compare(const struct comparison *c, uint64_t v)
{
	switch (c->op) {
	case ENVOY__CONFIG__ACCESSLOG__V3__COMPARISON_FILTER__OP__GE:
		return v >= c->value;
	case ENVOY__CONFIG__ACCESSLOG__V3__COMPARISON_FILTER__OP__LE:
		return v <= c->value;
	case ENVOY__CONFIG__ACCESSLOG__V3__COMPARISON_FILTER__OP__NE:
		return v != c->value;
	default:
		return v == c->value;
	}
}

/* The first eight digits of a UUID. */
static bool number_of(const char *id, uint64_t *ret)
{
	char first[9] = "", *end;

	if (!id || strlen(id) < 8)
		return false;
	memcpy(first, id, 8);
	*ret = strtoull(first, &end, 16);
	return isxdigit((unsigned char)first[0]) && !*end;
}

static bool sampled(const struct weft_access_filter *f, const struct weft_info *i)
{
	uint64_t r;

	/* the same request is taken or left out by all who see its id, Envoys too */
	if (f->independent || !number_of(i->request_id, &r))
		r = weft_rand64();
	return r % f->of < f->sampled;
}

static bool header(const struct weft_access_filter *f, const struct weft_headers *h)
{
	static const struct weft_headers none;

	return weft_hdrmatch(&f->header, h ? h : &none) == WEFT_MATCH_YES;
}

static bool metadata(const struct weft_access_filter *f, const struct weft_info *i)
{
	const Google__Protobuf__Struct *s = weft_info_meta_get(i, f->meta.ns);
	const Google__Protobuf__Value *v =
		s ? weft_struct_path(s, f->meta.path, f->meta.n_path) : NULL;

	if (!v || v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND__NOT_SET ||
	    v->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE)
		return f->missing;
	return weft_metamatch(&f->meta, s) == WEFT_MATCH_YES;
}

static bool log_type(const struct weft_access_filter *f, const char *name)
{
	size_t i;

	for (i = 0; name && i < sizeof(log_types) / sizeof(*log_types); i++)
		if (!strcmp(log_types[i].name, name))
			return (f->set >> log_types[i].number & 1) != f->exclude;
	return (f->set & 1) != f->exclude; /* NotSet */
}

static bool grpc(const struct weft_access_filter *f, const struct weft_format_in *in)
{
	int status = format_grpc_status(in);

	return (status >= 0 && status < 64 && f->set >> status & 1) != f->exclude;
}

bool weft_access_filter_match(const struct weft_access_filter *f, const struct weft_format_in *in)
{
	const struct weft_info *info = in->info;
	size_t i;

	switch (f->kind) {
	case KIND(STATUS_CODE_FILTER):
		return compare(&f->cmp, info->status > 0 ? (uint64_t)info->status : 0);
	case KIND(DURATION_FILTER):
		return compare(&f->cmp,
			       ((info->end_ns ? info->end_ns : weft_now_ns()) - info->start_ns) /
				       1000000);
	case KIND(NOT_HEALTH_CHECK_FILTER):
		return !info->health_check;
	case KIND(RUNTIME_FILTER):
		return sampled(f, info);
	case KIND(AND_FILTER):
		for (i = 0; i < f->n; i++)
			if (!weft_access_filter_match(f->v[i], in))
				return false;
		return true;
	case KIND(OR_FILTER):
		for (i = 0; i < f->n; i++)
			if (weft_access_filter_match(f->v[i], in))
				return true;
		return false;
	case KIND(HEADER_FILTER):
		return header(f, in->req);
	case KIND(RESPONSE_FLAG_FILTER):
		return info->flags & f->set;
	case KIND(GRPC_STATUS_FILTER):
		return grpc(f, in);
	case KIND(METADATA_FILTER):
		return metadata(f, info);
	case KIND(LOG_TYPE_FILTER):
		return log_type(f, in->log_type);
	default:
		return true;
	}
}
