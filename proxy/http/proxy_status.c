#include "proxy/http/proxy_status.h"

#include <stdio.h>
#include <string.h>

#define NAME(x)                                                                                    \
	ENVOY__EXTENSIONS__FILTERS__NETWORK__HTTP_CONNECTION_MANAGER__V3__HTTP_CONNECTION_MANAGER__PROXY_STATUS_CONFIG__PROXY_NAME_##x

void weft_proxy_status_prepare(struct weft_cfg *c, const hcm_msg *m, struct weft_hcm_conf *conf)
{
	const Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager__ProxyStatusConfig
		*o = m->proxy_status_config;
	const struct weft_net_context *x = c->context;
	struct weft_proxy_status *p;
	const char *name = conf->server_name;

	if (!o)
		return;
	p = weft_arena_alloc(c->arena, sizeof(*p));
	if (o->proxy_name_case == NAME(USE_NODE_ID))
		name = x && x->node ? x->node : "";
	else if (o->proxy_name_case == NAME(LITERAL_PROXY_NAME))
		name = o->literal_proxy_name;
	p->name = weft_arena_strdup(c->arena, name);
	p->details = !o->remove_details;
	p->termination = !o->remove_connection_termination_details;
	p->flags = !o->remove_response_flags;
	p->set_code = o->set_recommended_response_code;
	conf->proxy_status = p;
}

/* Of the flags that are set the first one here says what went wrong: Envoy's order. RFC 9209 §2.3:
 * the code that is recommended; 0: none. */
static const struct problem {
	enum weft_flag flag;
	int code;
	const char *name;
} problems[] = {
	{WEFT_FLAG_LH, 503, "destination_unavailable"},
	{WEFT_FLAG_UH, 503, "destination_unavailable"},
	{WEFT_FLAG_UT, 504, "http_response_timeout"},
	{WEFT_FLAG_LR, 504, "connection_timeout"},
	{WEFT_FLAG_UR, 502, "connection_terminated"},
	{WEFT_FLAG_UF, 502, "connection_refused"},
	{WEFT_FLAG_UC, 502, "connection_terminated"},
	{WEFT_FLAG_UO, 503, "connection_limit_reached"},
	{WEFT_FLAG_NR, 500, "destination_not_found"},
	{WEFT_FLAG_RL, 503, "connection_limit_reached"},
	{WEFT_FLAG_RLSE, 503, "connection_limit_reached"},
	{WEFT_FLAG_URX, 503, "destination_unavailable"},
	{WEFT_FLAG_SI, 504, "http_response_timeout"},
	{WEFT_FLAG_IH, 0, "http_request_error"},
	{WEFT_FLAG_UMSDR, 504, "http_response_timeout"},
	{WEFT_FLAG_NFCF, 500, "proxy_configuration_error"},
	{WEFT_FLAG_UPE, 502, "http_protocol_error"},
	{WEFT_FLAG_NC, 503, "destination_unavailable"},
	{WEFT_FLAG_DF, 502, "dns_error"},
};

/* details="via_upstream; UF": the quotes' own escapes. */
static const char *details_of(const struct weft_proxy_status *p, const struct weft_info *info,
			      struct weft_arena *a)
{
	const char *text = info->details, *s;
	const char *flags = NULL;
	char *to, *out;

	if (p->termination && info->termination_details)
		text = weft_arena_printf(a, "%s; %s", text, info->termination_details);
	for (uint64_t o = info->flag_order; p->flags && o; o >>= 8)
		flags = weft_arena_printf(a, "%s%s%s", flags ?: "", flags ? "," : "",
					  weft_flag_short((enum weft_flag)((o & 0xff) - 1)));
	if (flags)
		text = weft_arena_printf(a, "%s; %s", text, flags);
	out = to = weft_arena_alloc(a, 2 * strlen(text) + 1);
	for (s = text; *s; s++) {
		if (*s == '"' || *s == '\\')
			*to++ = '\\';
		*to++ = (unsigned char)*s < ' ' ? ' ' : *s;
	}
	return out;
}

void weft_proxy_status_apply(const struct weft_proxy_status *p, const struct weft_info *info,
			     struct weft_headers *h)
{
	const char *there = weft_headers_joined(h, "proxy-status", 12, NULL);
	const struct problem *w = problems, *end = w + sizeof(problems) / sizeof(*problems);
	const char *text;
	char code[8];

	while (w < end && !(info->flags >> w->flag & 1))
		w++;
	if (w == end)
		return;
	text = weft_arena_printf(h->arena, "%s%s%s; error=%s", there ?: "", there ? ", " : "",
				 p->name, w->name);
	if (p->details && info->details)
		text = weft_arena_printf(h->arena, "%s; details=\"%s\"", text,
					 details_of(p, info, h->arena));
	weft_headers_set(h, "proxy-status", 12, text, strlen(text));
	if (!p->set_code || !w->code)
		return;
	snprintf(code, sizeof(code), "%d", w->code);
	weft_headers_set_id(h, WEFT_H_STATUS, code, 3);
}
