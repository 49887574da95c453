#include "xds/stream_split.h"
#include "proxy/core/arena.h"
#include <string.h>

static bool varint(struct xspan *s, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 10 && s->n; i++) {
		uint8_t b = *s->p++;

		s->n--;
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (!(b & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

static bool cut(struct xspan *s, uint64_t n, struct xspan *ret)
{
	if (n > s->n)
		return false;
	*ret = (struct xspan){s->p, (size_t)n};
	s->p += n;
	s->n -= (size_t)n;
	return true;
}

/* The next field. 1: a length-delimited one is in *ret; 0: another kind, or the end; -1: broken. */
static int next(struct xspan *s, uint64_t *ret_number, struct xspan *ret)
{
	uint64_t tag, n;

	if (!s->n || !varint(s, &tag) || tag >> 3 == 0)
		return -1;
	*ret_number = tag >> 3;
	switch (tag & 7) {
	case 0:
		return varint(s, &n) ? 0 : -1;
	case 1:
		return cut(s, 8, ret) ? 0 : -1;
	case 2:
		return varint(s, &n) && cut(s, n, ret) ? 1 : -1;
	case 5:
		return cut(s, 4, ret) ? 0 : -1;
	default:
		return -1;
	}
}

static bool is_text(struct xspan s)
{
	return !s.n || !memchr(s.p, 0, s.n);
}

static void add(struct xspans *v, struct xspan s)
{
	if (!(v->n & (v->n - 1)))
		v->v = weft_xrealloc(v->v, (v->n ? 2 * v->n : 1) * sizeof(*v->v));
	v->v[v->n++] = s;
}

static bool keep(struct xresponse *r, uint64_t field, bool delta, struct xspan value)
{
	switch (field) {
	case 1:
		r->version = value;
		return is_text(value);
	case 2:
		add(&r->up, value);
		return true;
	case 4:
		r->type_url = value;
		return is_text(value);
	case 5:
		r->nonce = value;
		return is_text(value);
	case 6:
		if (!delta)
			return weft_xds_split_name(value, &r->control_plane);
		add(&r->gone, value);
		return is_text(value);
	case 7:
		return !delta || weft_xds_split_name(value, &r->control_plane);
	default:
		return true;
	}
}

bool weft_xds_split(struct xspan s, bool delta, struct xresponse *ret)
{
	struct xspan value;
	uint64_t field;
	int r;

	while (s.n) {
		r = next(&s, &field, &value);
		if (r < 0 || (r > 0 && !keep(ret, field, delta, value)))
			return false;
	}
	return true;
}

bool weft_xds_split_item(struct xspan s, struct xitem *ret)
{
	struct xspan value;
	uint64_t field;
	int r;

	*ret = (struct xitem){0};
	while (s.n) {
		r = next(&s, &field, &value);
		if (r < 0)
			return false;
		if (r == 0)
			continue;
		if (field == 1)
			ret->version = value;
		else if (field == 2)
			ret->any = value;
		else if (field == 3)
			ret->name = value;
		else if (field == 6)
			ret->ttl = value;
	}
	return is_text(ret->version) && is_text(ret->name);
}

bool weft_xds_split_any(struct xspan s, struct xspan *ret_url, struct xspan *ret_value)
{
	struct xspan value;
	uint64_t field;
	int r;

	*ret_url = *ret_value = (struct xspan){0};
	while (s.n) {
		r = next(&s, &field, &value);
		if (r < 0)
			return false;
		if (r > 0 && field == 1)
			*ret_url = value;
		else if (r > 0 && field == 2)
			*ret_value = value;
	}
	return is_text(*ret_url);
}

bool weft_xds_split_name(struct xspan s, struct xspan *ret)
{
	struct xspan value;
	uint64_t field;
	int r;

	*ret = (struct xspan){0};
	while (s.n) {
		r = next(&s, &field, &value);
		if (r < 0)
			return false;
		if (r > 0 && field == 1) {
			*ret = value;
			return is_text(value);
		}
	}
	return true;
}
