/* HTTP filters there are, and a list of them from configuration. */
#include "proxy/http/hcm_priv.h"

#include <string.h>

static const struct weft_http_filter *const filters[] = {
#define HTTP_FILTER(name) &weft_http_filter_##name,
#include "proxy/http/filters/filters.def"
#undef HTTP_FILTER
};
enum { N_FILTERS = sizeof(filters) / sizeof(*filters), ADDED_MAX = 16 };
static const struct weft_http_filter *added[ADDED_MAX];

void weft_http_filter_register(const struct weft_http_filter *f)
{
	for (unsigned i = 0; i < ADDED_MAX; i++) {
		if (added[i] == f)
			return;
		if (!added[i]) {
			added[i] = f;
			return;
		}
	}
}

/* The i-th there is; NULL: no more. */
static const struct weft_http_filter *nth(unsigned i)
{
	if (i < N_FILTERS)
		return filters[i];
	return i < N_FILTERS + ADDED_MAX ? added[i - N_FILTERS] : NULL;
}

const struct weft_http_filter *weft_http_filter_find(const ProtobufCMessageDescriptor *config)
{
	const struct weft_http_filter *f;

	for (unsigned i = 0; (f = nth(i)); i++)
		if (f->ext.config == config)
			return f;
	return NULL;
}

const struct weft_http_filter *weft_http_filter_by_name(const char *canonical_name)
{
	const struct weft_http_filter *f;

	for (unsigned i = 0; (f = nth(i)); i++)
		if (!strcmp(f->ext.name, canonical_name))
			return f;
	return NULL;
}

static int item_prepare(struct weft_cfg *c, const struct weft_path *at, const http_filter_msg *m,
			struct http_item *it)
{
	struct weft_path tc = {at, "typed_config", -1};
	const ProtobufCMessageDescriptor *d;
	const ProtobufCMessage *msg;

	if (m->config_type_case !=
		    ENVOY__EXTENSIONS__FILTERS__NETWORK__HTTP_CONNECTION_MANAGER__V3__HTTP_FILTER__CONFIG_TYPE_TYPED_CONFIG ||
	    !m->typed_config)
		return weft_cfg_fail(c, at, "typed_config must be set (filter \"%s\")",
				     m->name ?: "");
	d = weft_cfg_type(m->typed_config->type_url ?: "");
	if (m->is_optional && (!d || !weft_http_filter_find(d))) {
		weft_cfg_warn(c, &tc,
			      "%s is not a filter that is supported; left out, as it is "
			      "optional",
			      m->typed_config->type_url ?: "");
		return 0;
	}
	msg = weft_cfg_any(c, &tc, m->typed_config, NULL);
	if (!msg)
		return -EINVAL;
	it->f = weft_http_filter_find(msg->descriptor);
	if (!it->f)
		return weft_cfg_fail(c, &tc, "%s is not an HTTP filter that is supported",
				     msg->descriptor->name);
	it->name = weft_arena_strdup(c->arena, m->name && *m->name ? m->name : it->f->ext.name);
	it->disabled = m->disabled;
	it->conf = msg;
	return it->f->ext.prepare ? it->f->ext.prepare(c, &tc, msg, &it->conf) : 0;
}

static void unref_scope(void *s)
{
	weft_scope_unref(s);
}

struct weft_scope *weft_http_filter_scope(struct weft_cfg *c, const struct weft_scope_class *cls)
{
	const struct weft_net_context *x = c->context;
	struct weft_scope *s = weft_scope_get(cls, x && x->http_prefix ? x->http_prefix : "");

	weft_arena_cleanup(c->arena, unref_scope, s);
	return s;
}

static bool wants(const struct http_item *it, enum http_call k)
{
	return k == HTTP_HEADERS ? it->f->headers != NULL
	       : k == HTTP_DATA	 ? it->f->data != NULL
				 : it->f->trailers != NULL;
}

static void fill_next(struct http_chain *ch)
{
	for (unsigned k = 0; k < HTTP_CALLS; k++) {
		uint8_t next = HTTP_NONE;

		for (unsigned i = ch->n; i-- > 0;) {
			if (wants(&ch->v[i], k))
				next = (uint8_t)i;
			ch->next[WEFT_REQUEST][k][i] = next;
		}
		next = HTTP_NONE;
		for (unsigned i = 0; i < ch->n; i++) {
			if (wants(&ch->v[i], k) && !ch->v[i].f->terminal)
				next = (uint8_t)i;
			ch->next[WEFT_RESPONSE][k][i] = next;
		}
	}
}

static int check_terminal(struct weft_cfg *c, const struct weft_path *at, const struct http_item *v,
			  size_t n)
{
	int err = 0;

	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		if (v[i].f->terminal && i + 1 < n)
			err = weft_cfg_fail(c, &p,
					    "filter \"%s\" ends the chain and must be last, %zu "
					    "more follow",
					    v[i].name, n - 1 - i);
		if (!v[i].f->terminal && i + 1 == n)
			err = weft_cfg_fail(c, &p,
					    "the last filter must be one that ends the chain "
					    "(router), is \"%s\"",
					    v[i].name);
		if (v[i].f->terminal && v[i].disabled)
			err = weft_cfg_fail(c, &p,
					    "disabled: the filter that ends the chain "
					    "cannot be disabled");
		for (size_t j = 0; j < i; j++)
			if (!strcmp(v[i].name, v[j].name))
				weft_cfg_warn(c, &p,
					      "name \"%s\" is that of http_filters[%zu] too: a "
					      "route's configuration is for both",
					      v[i].name, j);
	}
	return err;
}

int weft_http_chain_prepare(struct weft_cfg *c, const struct weft_path *at,
			    http_filter_msg *const *v, size_t n, const struct http_chain **ret)
{
	struct http_chain *ch = weft_arena_alloc(c->arena, sizeof(*ch));
	struct http_item *items = weft_arena_alloc(c->arena, (n + 1) * sizeof(*items));
	int err = 0;

	*ret = ch;
	ch->v = items;
	if (!n)
		return weft_cfg_fail(c, at, "must have a filter: envoy.filters.http.router");
	if (n > WEFT_HTTP_FILTERS_MAX)
		return weft_cfg_fail(c, at, "must have at most %d filters, has %zu",
				     WEFT_HTTP_FILTERS_MAX, n);
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};
		struct http_item *it = &items[ch->n];

		if (item_prepare(c, &p, v[i], it)) {
			err = -EINVAL;
			continue;
		}
		if (!it->f)
			continue;
		it->state = (uint32_t)ch->state_bytes;
		/* never empty: its address tells one filter from another */
		ch->state_bytes += ((it->f->ext.state_size ?: 1) + 15) & ~(size_t)15;
		ch->per_route |= it->f->ext.per_route != NULL;
		ch->n++;
	}
	if (err)
		return err;
	if (!ch->n)
		return weft_cfg_fail(c, at, "must have a filter: envoy.filters.http.router");
	fill_next(ch);
	return check_terminal(c, at, items, ch->n);
}
