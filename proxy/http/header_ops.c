#include "proxy/http/header_ops.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

struct weft_hdrop {
	const char *name, *value; /* value: where it has no operators */
	size_t name_n, value_n;
	const struct weft_format *format;
	Envoy__Config__Core__V3__HeaderValueOption__HeaderAppendAction how;
	bool keep_empty;
};

static const char *lower(struct weft_arena *a, const char *s)
{
	char *low = weft_arena_strdup(a, s ? s : ""), *p;

	for (p = low; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return low;
}

static int name_check(struct weft_cfg *c, const struct weft_path *at, const char *name)
{
	const char *p;

	if (!*name)
		return weft_cfg_fail(c, at, "must be a header name, is empty");
	if (*name == ':' || !strcmp(name, "host"))
		return weft_cfg_fail(
			c, at,
			"must not be a pseudo header or host, is \"%s\"; host_rewrite_literal "
			"and path rewrites change those",
			name);
	for (p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("!#$%&'*+-.^_`|~", *p))
			return weft_cfg_fail(c, at, "must be a header name, is \"%.60s\"", name);
	return 0;
}

static int add_prepare(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__HeaderValueOption *m, struct weft_hdrop *to)
{
	struct weft_path ph = {at, "header", -1}, pk = {&ph, "key", -1}, pv = {&ph, "value", -1},
			 pa = {at, "append_action", -1};
	const char *v;

	if (!m->header)
		return weft_cfg_fail(c, &ph, "must be set");
	to->name = lower(c->arena, m->header->key);
	to->name_n = strlen(to->name);
	to->how = m->append_action;
	to->keep_empty = m->keep_empty_value;
	if (m->append) {
		if (m->append_action)
			return weft_cfg_fail(c, &pa, "must not stand with append");
		to->how =
			m->append->value
				? ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__APPEND_IF_EXISTS_OR_ADD
				: ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD;
	}
	if (name_check(c, &pk, to->name))
		return -EINVAL;
	if (m->header->has_raw_value && m->header->raw_value.len) {
		if (m->header->value && *m->header->value)
			return weft_cfg_fail(c, &pv, "must not stand with raw_value");
		v = weft_arena_strndup(c->arena, (char *)m->header->raw_value.data,
				       m->header->raw_value.len);
		if (strlen(v) != m->header->raw_value.len)
			return weft_cfg_fail(c, &ph, "raw_value must not have a NUL byte");
	} else {
		v = m->header->value ? m->header->value : "";
	}
	if (strpbrk(v, "\r\n"))
		return weft_cfg_fail(c, &pv, "must not have a line break");
	if (strchr(v, '%'))
		return weft_format_prepare(c, &pv, v, &to->format);
	to->value = weft_arena_strdup(c->arena, v);
	to->value_n = strlen(v);
	return 0;
}

int weft_hdrops_prepare(struct weft_cfg *c, const struct weft_path *at_add,
			Envoy__Config__Core__V3__HeaderValueOption *const *add, size_t n_add,
			struct weft_hdrops *ret)
{
	struct weft_hdrop *v;
	size_t i;
	int err = 0;

	if (!n_add)
		return 0;
	v = weft_arena_alloc(c->arena, n_add * sizeof(*v));
	for (i = 0; i < n_add; i++) {
		struct weft_path p = {at_add->up, at_add->field, (int)i};

		if (add_prepare(c, &p, add[i], &v[i]))
			err = -EINVAL;
	}
	ret->add = v;
	ret->n_add = n_add;
	return err;
}

int weft_hdrops_prepare_del(struct weft_cfg *c, const struct weft_path *at_del, char *const *del,
			    size_t n_del, struct weft_hdrops *ret)
{
	const char **v;
	size_t i;
	int err = 0;

	if (!n_del)
		return 0;
	v = weft_arena_alloc(c->arena, n_del * sizeof(*v));
	for (i = 0; i < n_del; i++) {
		struct weft_path p = {at_del->up, at_del->field, (int)i};

		v[i] = lower(c->arena, del[i]);
		if (name_check(c, &p, v[i]))
			err = -EINVAL;
	}
	ret->del = v;
	ret->n_del = n_del;
	return err;
}

void weft_hdrop_put(struct weft_headers *h, const char *name, size_t name_n, const char *value,
		    size_t value_n,
		    Envoy__Config__Core__V3__HeaderValueOption__HeaderAppendAction how)
{
	switch ((int)how) {
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__ADD_IF_ABSENT:
		if (!weft_headers_find(h, name, name_n))
			weft_headers_add(h, name, name_n, value, value_n);
		break;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS:
		if (weft_headers_find(h, name, name_n))
			weft_headers_set(h, name, name_n, value, value_n);
		break;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS_OR_ADD:
		weft_headers_set(h, name, name_n, value, value_n);
		break;
	default:
		weft_headers_add(h, name, name_n, value, value_n);
	}
}

int weft_hdrop_prepare(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__HeaderValueOption *m,
		       const struct weft_hdrop **ret)
{
	struct weft_hdrop *o = weft_arena_alloc(c->arena, sizeof(*o));

	*ret = o;
	return add_prepare(c, at, m, o);
}

static const char *value_of(const struct weft_hdrop *o, const struct weft_format_in *in,
			    struct weft_arena *a, size_t *ret_n)
{
	const char *v = o->value;
	bool empty = false;

	*ret_n = o->value_n;
	if (o->format) {
		v = weft_format_string(o->format, in, a, ret_n, &empty);
		if (empty)
			*ret_n = 0;
	}
	if (*ret_n)
		return v;
	return o->keep_empty ? "" : NULL;
}

void weft_hdrop_apply(const struct weft_hdrop *o, const struct weft_format_in *in,
		      struct weft_headers *h)
{
	size_t n;
	const char *v = value_of(o, in, h->arena, &n);

	if (v)
		weft_hdrop_put(h, o->name, o->name_n, v, n, o->how);
}

void weft_hdrops_apply(const struct weft_hdrops *o, const struct weft_format_in *in,
		       struct weft_headers *h)
{
	size_t i;

	for (i = 0; i < o->n_del; i++)
		weft_headers_remove(h, o->del[i], strlen(o->del[i]));
	for (i = 0; i < o->n_add; i++)
		weft_hdrop_apply(&o->add[i], in, h);
}
