/* Scalars of a document, each with the message that says what it must be. */
#include "xds/wire.h"
#include "xds/yaml_dec.h"
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SHOW_MAX = 96, NAMES_MAX = 64 };

bool yaml_fail(struct dec *d, const struct weft_path *at, const struct yev *e, const char *fmt, ...)
{
	struct weft_err *err = weft_errs_next(d->t->errs);
	va_list ap;

	(*d->t->n_errors)++;
	va_start(ap, fmt);
	weft_vfail(err, at, EINVAL, fmt, ap);
	va_end(ap);
	if (err)
		yaml_err_place(err, d->t->file, e->line, e->col);
	return false;
}

bool yaml_wrong(struct dec *d, const struct weft_path *at, const struct yev *e, const char *want)
{
	char is[SHOW_MAX];

	return yaml_fail(d, at, e, "must be %s, is %s", want, yaml_scalar_show(e, is, sizeof(is)));
}

bool yaml_value_int(struct dec *d, const struct weft_path *at, const struct yev *e,
		    ProtobufCType type, void *dst)
{
	bool wide = weft_value_sizeof(type) == 8, negative;
	bool is_unsigned = type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_FIXED32 ||
			   type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_FIXED64;
	uint64_t max =
		is_unsigned ? (wide ? UINT64_MAX : UINT32_MAX) : (wide ? INT64_MAX : INT32_MAX);
	uint64_t v;
	int r = yaml_scalar_u64(e->v, &negative, &v);

	if (r == -EINVAL)
		return yaml_wrong(d, at, e, "a whole number");
	if (r < 0 || v > max + (negative && !is_unsigned) || (negative && is_unsigned && v))
		return yaml_fail(d, at, e, "must be %s%llu..%llu, is %.40s", is_unsigned ? "" : "-",
				 is_unsigned ? 0ULL : (unsigned long long)max + 1,
				 (unsigned long long)max, e->v);
	v = negative ? 0 - v : v;
	if (wide)
		memcpy(dst, &v, 8);
	else
		memcpy(dst, &(uint32_t){(uint32_t)v}, 4);
	return true;
}

bool yaml_value_float(struct dec *d, const struct weft_path *at, const struct yev *e,
		      ProtobufCType type, void *dst)
{
	struct yev number = *e;
	enum yaml_sort sort;
	double v;
	char *end;

	number.plain = true; /* protobuf's JSON form allows "1.5" */
	sort = yaml_scalar_sort(&number);

	if (sort == YAML_STRING && !strcmp(e->v, "NaN"))
		v = NAN;
	else if (sort == YAML_STRING && (!strcmp(e->v, "Infinity") || !strcmp(e->v, "-Infinity")))
		v = e->v[0] == '-' ? -INFINITY : INFINITY;
	else if (sort != YAML_INT && sort != YAML_FLOAT)
		return yaml_wrong(d, at, e, "a number");
	else {
		v = strtod(e->v, &end);
		if (*end)
			return yaml_wrong(d, at, e, "a decimal number");
		if (isinf(v) || (type == PROTOBUF_C_TYPE_FLOAT && fabs(v) > (double)FLT_MAX))
			return yaml_fail(d, at, e, "number out of range: %.40s", e->v);
	}
	if (type == PROTOBUF_C_TYPE_DOUBLE)
		memcpy(dst, &v, 8);
	else
		memcpy(dst, &(float){(float)v}, 4);
	return true;
}

bool yaml_value_enum(struct dec *d, const struct weft_path *at, const struct yev *e,
		     const ProtobufCEnumDescriptor *desc, void *dst)
{
	char is[SHOW_MAX], all[128] = "";
	const char *near = NULL, *names[NAMES_MAX];
	struct yev plain = *e;
	size_t n = 0, used = 0;

	plain.plain = true;
	if (strcmp(desc->package_name, "weft.kube") != 0 && yaml_scalar_sort(&plain) == YAML_INT &&
	    (e->plain || d->envoy))
		return yaml_value_int(d, at, e, PROTOBUF_C_TYPE_INT32, dst);
	for (unsigned i = 0; i < desc->n_values; i++) {
		if (!(d->envoy ? strcasecmp : strcmp)(desc->values[i].name, e->v) &&
		    strlen(e->v) == e->n) {
			memcpy(dst, &desc->values[i].value, 4);
			return true;
		}
		if (!strcasecmp(desc->values[i].name, e->v))
			near = desc->values[i].name;
		if (n < NAMES_MAX)
			names[n++] = desc->values[i].name;
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s",
						 i ? ", " : "", desc->values[i].name);
	}
	if (!near)
		near = weft_suggest(e->v, names, n);
	return yaml_fail(d, at, e, "must be one of %s; is %s%s%s%s", all,
			 yaml_scalar_show(e, is, sizeof(is)), near ? "; did you mean " : "",
			 near ? near : "", near ? "?" : "");
}

bool yaml_value_string(struct dec *d, const struct weft_path *at, const struct yev *e, bool int_too,
		       bool float_too, char **dst)
{
	enum yaml_sort sort = yaml_scalar_sort(e);
	char is[SHOW_MAX];

	if (memchr(e->v, 0, e->n))
		return yaml_fail(d, at, e, "string holds a NUL character: %s",
				 yaml_scalar_show(e, is, sizeof(is)));
	if (sort == YAML_NULL)
		return yaml_wrong(d, at, e, "a string");
	if (sort != YAML_STRING && !(int_too && sort == YAML_INT) &&
	    !(float_too && sort == YAML_FLOAT)) /* as Envoy reads 1.5 */
		return yaml_fail(d, at, e, "must be a string, is %s; write it in quotes",
				 yaml_scalar_show(e, is, sizeof(is)));
	*dst = weft_arena_memdup(d->t->a, e->v, e->n + 1);
	return true;
}

bool yaml_value_bytes(struct dec *d, const struct weft_path *at, const struct yev *e,
		      ProtobufCBinaryData *dst)
{
	dst->data = weft_arena_alloc(d->t->a, e->n + 1);
	if (yaml_base64_decode(e->v, e->n, dst->data, &dst->len) == 0)
		return true;
	return yaml_wrong(d, at, e, "base64");
}

bool yaml_value_bool(struct dec *d, const struct weft_path *at, const struct yev *e, void *dst)
{
	struct yev plain = *e;
	enum yaml_sort sort;
	protobuf_c_boolean v;

	plain.plain = e->plain || d->envoy; /* "true" too */
	sort = yaml_scalar_sort(&plain);
	if (sort != YAML_BOOL && !(sort == YAML_YESNO && e->plain && d->envoy))
		return yaml_wrong(d, at, e, "true or false");
	/* true, yes, on */
	v = strchr("tTyY", e->v[0]) || !strcasecmp(e->v, "on");
	memcpy(dst, &v, sizeof(v));
	return true;
}

bool yaml_value_duration(struct dec *d, const struct weft_path *at, const struct yev *e,
			 Google__Protobuf__Duration *m)
{
	int r;

	if (e->type != YEV_SCALAR || yaml_scalar_sort(e) != YAML_STRING)
		return yaml_wrong(d, at, e, "a duration such as 90s or 1h30m");
	r = yaml_duration_parse(e->v, &m->seconds, &m->nanos);
	if (r == -ERANGE)
		return yaml_fail(d, at, e, "duration above 100 years: %.40s", e->v);
	if (r < 0)
		return yaml_wrong(d, at, e, "a duration such as 90s or 1h30m");
	m->has_seconds = true;
	m->has_nanos = m->nanos != 0;
	return true;
}

bool yaml_duration_fits(struct dec *d, const struct weft_path *at, const struct yev *e,
			const Google__Protobuf__Duration *m)
{
	const int64_t max = 100LL * 366 * 86400 - 1;

	if (m->seconds > max || m->seconds < -max || m->nanos > 999999999 ||
	    m->nanos < -999999999 || (m->seconds < 0 && m->nanos > 0) ||
	    (m->seconds > 0 && m->nanos < 0))
		return yaml_fail(d, at, e, "must be a duration of at most 100 years");
	return true;
}

bool yaml_value_time(struct dec *d, const struct weft_path *at, const struct yev *e,
		     Google__Protobuf__Timestamp *m)
{
	if (e->type != YEV_SCALAR || yaml_time_parse(e->v, &m->seconds, &m->nanos) < 0)
		return yaml_wrong(d, at, e, "a time such as 2026-01-31T12:00:00Z");
	m->has_seconds = true;
	m->has_nanos = m->nanos != 0;
	return true;
}
