/* Requests while a resource is short: refused, or the last of their connection. */
#include "proxy/core/overload.h"
#include "proxy/http/stream_priv.h"

/* No filter sees what is refused: that would take more of what is short. */
static const struct http_chain none = {
	.next = {[0 ... WEFT_DIRS -
		  1] = {[0 ... HTTP_CALLS - 1] = {[0 ... WEFT_HTTP_FILTERS_MAX - 1] = HTTP_NONE}}}};

static void add_header(void *ctx, struct weft_headers *h)
{
	weft_headers_add(h, "x-envoy-local-overloaded", 24, "true", 4);
}

bool weft_hcm_overloaded(struct weft_stream *s)
{
	if (s->c->conf->bypass_overload || !weft_overload_hit(WEFT_OVERLOAD_STOP_REQUESTS))
		return false;
	weft_stream_choose_chain(s, &none);
	hcm_count(s->c, WEFT_HTTP_downstream_rq_overload_close);
	weft_stream_reply(s, 503, "overload", "envoy overloaded",
			  s->c->conf->append_overload ? add_header : NULL, NULL);
	return true;
}

bool weft_hcm_no_keepalive(struct hcm_conn *c)
{
	if (c->conf->bypass_overload || c->drain != HCM_OPEN ||
	    !weft_overload_hit(WEFT_OVERLOAD_NO_KEEPALIVE))
		return false;
	hcm_count(c, WEFT_HTTP_downstream_cx_overload_disable_keepalive);
	return true;
}
