#include "proxy/codec/h2.h"
#include "proxy/codec/h2_priv.h"
#include "proxy/core/arena.h"
#include <stdlib.h>

enum {
	DEFAULT_STREAMS = 100,
	DEFAULT_STREAM_WINDOW = 256 << 10,
	DEFAULT_CONN_WINDOW = 16 << 20,
	DEFAULT_MAX_FRAME = 1 << 20,
	DEFAULT_HEADER_LIST = 16 << 10,
	DEFAULT_SEND_FRAME = 16375,
	CONTINUATION_BYTES = 16 << 10, /* what each of a long block is thought to hold */
	WINDOW_LIMIT = INT32_MAX,
};

void *weft_h2_owner(const struct weft_h2 *h)
{
	return h->owner;
}

void weft_h2_shutdown_notice(struct weft_h2 *h)
{
	nghttp2_submit_shutdown_notice(h->ng);
}

/* Submitted by the next send: streams that come in until then are still served. */
void weft_h2_goaway(struct weft_h2 *h, uint32_t code)
{
	h->goaway_sent = h->goaway_due = true;
	h->goaway_code = code;
}

void weft_h2_ping(struct weft_h2 *h)
{
	nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, NULL);
}

void weft_h2_ping_opaque(struct weft_h2 *h, const uint8_t opaque[8])
{
	nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, opaque);
}

uint32_t weft_h2_peer_max_header_list(const struct weft_h2 *h)
{
	return nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE);
}

bool weft_h2_peer_connect_protocol(const struct weft_h2 *h)
{
	return nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL);
}

uint32_t weft_h2_streams(const struct weft_h2 *h)
{
	return h->n_streams;
}

bool weft_h2_in_head(const struct weft_h2 *h)
{
	return h->in_head;
}

size_t weft_h2_queued(const struct weft_h2 *h)
{
	return nghttp2_session_get_outbound_queue_size(h->ng);
}

uint32_t weft_h2_peer_max_streams(const struct weft_h2 *h)
{
	return nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

static uint32_t window(uint32_t asked, uint32_t otherwise)
{
	asked = asked ?: otherwise;
	return asked < WINDOW_LIMIT ? asked : WINDOW_LIMIT;
}

static void fill_defaults(struct weft_h2_conf *c)
{
	c->max_streams = c->max_streams ?: DEFAULT_STREAMS;
	c->stream_window = window(c->stream_window, DEFAULT_STREAM_WINDOW);
	c->conn_window = window(c->conn_window, DEFAULT_CONN_WINDOW);
	c->stream_window_max = window(c->stream_window_max, WEFT_H2_STREAM_WINDOW_MAX);
	if (c->stream_window_max < c->stream_window)
		c->stream_window_max = c->stream_window;
	c->max_frame = c->max_frame ?: DEFAULT_MAX_FRAME;
	c->max_header_list = c->max_header_list ?: DEFAULT_HEADER_LIST;
	c->max_headers = c->max_headers ?: WEFT_H2_HEADERS_MAX;
	c->max_control = c->max_control ?: WEFT_H2_ACKS_MAX;
	c->max_send_frame = c->max_send_frame ?: DEFAULT_SEND_FRAME;
}

static nghttp2_session *session_new(struct weft_h2 *h)
{
	nghttp2_session_callbacks *cb;
	nghttp2_option *o;
	nghttp2_session *ng;

	if (nghttp2_session_callbacks_new(&cb) || nghttp2_option_new(&o))
		abort();
	weft_h2_recv_hooks(cb);
	weft_h2_send_hooks(cb);
	nghttp2_option_set_no_auto_window_update(o, 1);
	nghttp2_option_set_no_closed_streams(o, 1);
	nghttp2_option_set_peer_max_concurrent_streams(o, DEFAULT_STREAMS);
	nghttp2_option_set_max_outbound_ack(o, h->conf.max_control);
	nghttp2_option_set_max_send_header_block_length(o, WEFT_H2_SEND_BLOCK_MAX);
	if (h->conf.set_table_size)
		nghttp2_option_set_max_deflate_dynamic_table_size(o, h->conf.table_size);
	nghttp2_option_set_max_settings(o, WEFT_H2_SETTINGS_MAX);
	nghttp2_option_set_max_continuations(
		o, WEFT_H2_CONTINUATIONS_MAX + h->conf.max_header_list / CONTINUATION_BYTES);
	/* Its own limit (33 a second) would cut tunnels whose clients abort a lot; ours looks at
	 * unanswered ones. */
	nghttp2_option_set_stream_reset_rate_limit(o, UINT32_MAX, UINT32_MAX);
	if (h->conf.server ? nghttp2_session_server_new3(&ng, cb, h, o, weft_h2_mem())
			   : nghttp2_session_client_new3(&ng, cb, h, o, weft_h2_mem()))
		abort();
	nghttp2_option_del(o);
	nghttp2_session_callbacks_del(cb);
	return ng;
}

static void submit_settings(struct weft_h2 *h)
{
	const struct weft_h2_conf *c = &h->conf;
	nghttp2_settings_entry e[] = {
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, c->stream_window},
		{NGHTTP2_SETTINGS_MAX_FRAME_SIZE, c->max_frame},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, c->max_header_list},
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
		{0, 0},
		{0, 0},
	};
	size_t n = 4;

	if (c->server)
		e[3] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
						c->max_streams};
	if (c->server && c->connect_protocol)
		e[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1};
	if (c->set_table_size)
		e[n++] =
			(nghttp2_settings_entry){NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, c->table_size};
	if (nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, e, n) ||
	    nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0,
						  (int32_t)c->conn_window))
		abort(); /* only values out of range: the program's mistake */
}

struct weft_h2 *weft_h2_new(const struct weft_h2_conf *conf, const struct weft_h2_ops *ops,
			    void *owner)
{
	struct weft_h2 *h = weft_xcalloc(1, sizeof(*h));

	h->conf = *conf;
	h->ops = ops;
	h->owner = owner;
	h->noise.since = h->rapid.since = weft_h2_coarse_now();
	TAILQ_INIT(&h->streams);
	fill_defaults(&h->conf);
	h->ng = session_new(h);
	submit_settings(h);
	return h;
}

void weft_h2_free(struct weft_h2 *h)
{
	struct weft_h2_stream *s;

	if (!h)
		return;
	while ((s = TAILQ_FIRST(&h->streams))) {
		if (s->announced)
			h->ops->closed(s, WEFT_H2_CANCEL);
		weft_h2_stream_free(s);
	}
	nghttp2_session_del(h->ng);
	weft_h2_block_clear(&h->block);
	free(h->block.v);
	free(h->block.rc);
	free(h);
}
