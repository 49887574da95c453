/* Command operators of requests, responses and connections. */
#include "proxy/l4/format_priv.h"

#include "proxy/codec/grpc.h"
#include "proxy/core/worker.h"
#include "proxy/upstream/cluster.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fval_str(struct fval *v, const char *s)
{
	if (!s || !*s)
		return;
	v->kind = FV_STRING;
	v->s = s;
	v->n = strlen(s);
}

void fval_word(struct fval *v, const char *s)
{
	size_t n = 0;

	if (!s || !*s)
		return;
	for (; *s && n < FVAL_TEXT - 1; s++)
		v->text[n++] = isspace((unsigned char)*s) ? '_' : *s;
	v->kind = FV_STRING;
	v->s = v->text;
	v->n = n;
}

/* ---- headers */
static const struct weft_headers *list(const struct fop *op, const struct weft_format_in *in)
{
	return op->arg == H_REQ ? in->req : op->arg == H_RESP ? in->resp : in->trailers;
}

void fop_header(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_headers *h = list(op, in);
	const struct weft_header *f;

	if (!h)
		return;
	f = op->id ? weft_headers_get(h, op->id) : weft_headers_find(h, op->s, op->n);
	if (!f && op->alt)
		f = op->alt_id ? weft_headers_get(h, op->alt_id) : weft_headers_find(h, op->alt, 0);
	if (!f)
		return;
	v->kind = FV_STRING;
	v->s = f->value;
	v->n = f->value_len;
}

void fop_query(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const char *path = in->req ? weft_headers_value(in->req, WEFT_H_PATH) : "",
		   *q = strchr(path, '?');

	if (!q || !(v->s = weft_query_get(q + 1, strlen(q + 1), op->s, in->req->arena, &v->n)))
		return;
	v->kind = FV_STRING;
}

void fop_path(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_header *h = NULL;
	const char *q;

	if (!in->req)
		return;
	if (op->arg & P_ORIG)
		h = weft_headers_find(in->req, "x-envoy-original-path", 0);
	if (!h && op->arg & P_PATH)
		h = weft_headers_get(in->req, WEFT_H_PATH);
	if (!h)
		return;
	v->kind = FV_STRING;
	v->s = h->value;
	v->n = h->value_len;
	q = op->arg & P_NO_QUERY ? memchr(h->value, '?', h->value_len) : NULL;
	if (q)
		v->n = (size_t)(q - h->value);
}

/* ---- counts */
void fop_number(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	bool packed_up; /* by HPACK: what is sent is not what is meant */
	uint64_t n;

	if (op->arg >= B_REQ_HEADERS) {
		const struct weft_headers *h = op->arg == B_REQ_HEADERS	    ? in->req
					       : op->arg == B_RESP_HEADERS  ? in->resp
					       : op->arg == B_RESP_TRAILERS ? in->trailers
									    : NULL;

		fval_num(v, h ? h->bytes : 0);
		return;
	}
	if (!i)
		return;
	packed_up = i->up_protocol && !strcmp(i->up_protocol, "HTTP/2");
	switch (op->arg) {
	case B_RX:
		n = i->rx_bytes;
		break;
	case B_TX:
		n = i->tx_bytes;
		break;
	case B_RX_HEAD:
		n = i->protocol == WEFT_HTTP_2 ? i->rx_head_bytes : i->rx_head_wire;
		break;
	case B_TX_HEAD:
		n = i->protocol == WEFT_HTTP_2 ? i->tx_head_bytes : i->tx_head_wire;
		break;
	case B_UP_TX:
		n = i->up_tx_wire;
		break;
	case B_UP_RX:
		n = i->up_rx_wire;
		break;
	case B_DOWN_TX:
		n = i->down_tx_wire;
		break;
	case B_DOWN_RX:
		n = i->down_rx_wire;
		break;
	case B_ATTEMPTS:
		n = i->attempts;
		break;
	case B_CONN:
		n = i->down ? i->down->id : 0;
		break;
	case B_RX_HEAD_WIRE:
		n = i->rx_head_wire;
		break;
	case B_TX_HEAD_WIRE:
		n = i->tx_head_wire;
		break;
	case B_UP_RX_HEAD:
		n = packed_up ? i->up_rx_head_bytes : i->up_rx_head_wire;
		break;
	case B_UP_TX_HEAD:
		n = packed_up ? i->up_tx_head_bytes : i->up_tx_head_wire;
		break;
	case B_UP_RX_HEAD_WIRE:
		n = i->up_rx_head_wire;
		break;
	case B_UP_TX_HEAD_WIRE:
		n = i->up_tx_head_wire;
		break;
	default:
		n = i->up_conn_id;
	}
	fval_num(v, (int64_t)n);
}

void fop_code(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	if (in->info)
		fval_num(v, in->info->status);
}

/* The next flag, in the order they came; those beyond the first eight after them. */
static int next_flag(uint64_t *left, uint64_t *order)
{
	int f = (int)(*order & 0xff) - 1;

	if (!*left)
		return -1;
	*order >>= 8;
	if (f < 0)
		f = __builtin_ctzll(*left);
	*left &= ~(1ull << f);
	return f;
}

void fop_flags(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	uint64_t left, order;
	size_t n = 0;
	int f;

	if (!in->info)
		return;
	if (!in->info->flags) {
		fval_str(v, "-");
		return;
	}
	left = in->info->flags;
	order = in->info->flag_order;
	while ((f = next_flag(&left, &order)) >= 0) {
		const char *s = op->arg ? weft_flag_long((enum weft_flag)f)
					: weft_flag_short((enum weft_flag)f);

		if (n + strlen(s) + 2 > FVAL_TEXT)
			continue;
		n += (size_t)snprintf(v->text + n, FVAL_TEXT - n, "%s%s", n ? "," : "", s);
	}
	v->kind = FV_STRING;
	v->s = v->text;
	v->n = n;
}

/* ---- words */
static const char *protocol(enum weft_http p)
{
	return p == WEFT_HTTP_2	   ? "HTTP/2"
	       : p == WEFT_HTTP_11 ? "HTTP/1.1"
	       : p == WEFT_HTTP_10 ? "HTTP/1.0"
				   : NULL;
}

/* A client may send any bytes as SNI; what is no name of a host is told as Envoy does. */
static void server_name(struct fval *v, const char *s)
{
	static const char invalid[] = "invalid:";
	size_t n = sizeof(invalid) - 1, i = 0;

	while (s && (isalnum((unsigned char)s[i]) || (s[i] && strchr(".-_", s[i]))))
		i++;
	if (!s || !s[i]) {
		fval_str(v, s);
		return;
	}
	memcpy(v->text, invalid, n);
	for (; *s && n < FVAL_TEXT; s++)
		v->text[n++] = isalnum((unsigned char)*s) || strchr(".-", *s)
				       ? (char)tolower((unsigned char)*s)
				       : '_';
	v->kind = FV_STRING;
	v->s = v->text;
	v->n = n;
}

void fop_word(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;

	if (op->arg == W_LOG_TYPE) {
		fval_str(v, in->log_type ? in->log_type : "NotSet");
		return;
	}
	if (op->arg == W_BODY) { /* may be empty */
		v->kind = FV_STRING;
		v->s = in->body ? in->body : "";
		v->n = strlen(v->s);
		return;
	}
	if (!i)
		return;
	switch (op->arg & ~(unsigned)W_SPACES) {
	case W_NOTHING:
		break;
	case W_VCLUSTER:
		fval_str(v, i->vcluster_name);
		break;
	case W_JA3:
	case W_JA4:
		if (i->down && i->down->origin)
			fval_str(v, (op->arg & ~(unsigned)W_SPACES) == W_JA3
					    ? i->down->origin->ja3
					    : i->down->origin->ja4);
		break;
	case W_EMPTY:
		v->kind = FV_STRING;
		v->s = "";
		break;
	case W_REQUEST_ID:
		fval_str(v, i->request_id);
		break;
	case W_PROTOCOL:
		fval_str(v, protocol(i->protocol));
		break;
	case W_DETAILS:
		if (op->arg & W_SPACES)
			fval_str(v, i->details);
		else
			fval_word(v, i->details);
		break;
	case W_TERMINATION:
		fval_word(v, i->termination_details);
		break;
	case W_UP_HOST_NAME:
		fval_str(v,
			 i->host ? *i->host->hostname ? i->host->hostname : i->host->text : NULL);
		break;
	case W_UP_CLUSTER:
		fval_str(v, i->cluster ? i->cluster->alt_stat_name && *i->cluster->alt_stat_name
						 ? i->cluster->alt_stat_name
						 : i->cluster->name
				       : NULL);
		break;
	case W_UP_CLUSTER_RAW:
		fval_str(v, i->cluster ? i->cluster->name : NULL);
		break;
	case W_UP_PROTOCOL:
		fval_str(v, i->up_protocol);
		break;
	case W_UP_FAILURE:
		fval_word(v, i->up_failure);
		break;
	case W_DOWN_FAILURE:
		fval_word(v, i->down_failure);
		break;
	case W_SNI:
		server_name(v, i->requested_server_name ? i->requested_server_name
			       : i->down		? i->down->sni
							: NULL);
		break;
	case W_ROUTE:
		fval_str(v, i->route_name);
		break;
	case W_CHAIN:
		fval_str(v, i->filter_chain_name);
		break;
	case W_TRACE:
		fval_str(v, i->trace_id);
		break;
	default:
		fval_str(v, i->listener_name);
	}
}

/* ---- the rest */
static const Envoy__Config__Core__V3__Metadata *metadata_of(const struct weft_info *i, unsigned of)
{
	switch (of) {
	case M_CLUSTER:
		return i->cluster && i->cluster->msg ? i->cluster->msg->metadata : NULL;
	case M_HOST:
		return i->up_metadata;
	case M_ROUTE:
		return i->route_metadata;
	case M_VHOST:
		return i->vhost_metadata;
	default:
		return i->listener_metadata;
	}
}

void fop_metadata(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const Google__Protobuf__Struct *s = NULL;
	size_t n = 0;

	if (in->info && op->arg == M_DYNAMIC)
		s = weft_info_meta_get(in->info, op->s);
	else if (in->info && metadata_of(in->info, op->arg))
		s = weft_metadata_ns(metadata_of(in->info, op->arg), op->s);
	while (op->path && op->path[n])
		n++;
	if (!s)
		return;
	if (n) {
		v->v = weft_struct_path(s, op->path, n);
	} else {
		google__protobuf__value__init(&v->whole);
		v->whole.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
		v->whole.struct_value = (Google__Protobuf__Struct *)s;
		v->v = &v->whole;
	}
	if (v->v && v->v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND__NOT_SET)
		v->kind = FV_STRUCT;
}

/* Objects of the filter state: nothing that is served here makes one that has a text. */
void fop_state(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
}

/* The name alone: without the port of "name:port", "1.2.3.4:port" and "[1::2]:port". */
void fop_host(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_host *h = in->info ? in->info->host : NULL;
	const char *colon;

	if (!h)
		return;
	fval_str(v, *h->hostname ? h->hostname : h->text);
	if (v->kind != FV_STRING || v->s[0] == '/')
		return;
	colon = strrchr(v->s, ':');
	if (colon && (memchr(v->s, ':', (size_t)(colon - v->s)) == NULL || colon[-1] == ']'))
		v->n = (size_t)(colon - v->s);
	if (v->s[0] == '[' && v->n && v->s[v->n - 1] == ']') {
		v->s++;
		v->n -= 2;
	}
}

void fop_unique(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	uint64_t a = weft_rand64(), b = weft_rand64();

	snprintf(v->text, FVAL_TEXT, "%08x-%04x-4%03x-%04x-%012llx", (unsigned)(a >> 32),
		 (unsigned)(a >> 16) & 0xffff, (unsigned)a & 0xfff,
		 ((unsigned)(b >> 48) & 0x3fff) | 0x8000, (unsigned long long)(b & 0xffffffffffff));
	fval_str(v, v->text);
}

static const char *const grpc_names[] = {
	"OK",	    "Canceled",	      "Unknown",	  "InvalidArgument",   "DeadlineExceeded",
	"NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
	"Aborted",  "OutOfRange",     "Unimplemented",	  "Internal",	       "Unavailable",
	"DataLoss", "Unauthenticated"};
static const char *const grpc_snake[] = {"OK",
					 "CANCELLED",
					 "UNKNOWN",
					 "INVALID_ARGUMENT",
					 "DEADLINE_EXCEEDED",
					 "NOT_FOUND",
					 "ALREADY_EXISTS",
					 "PERMISSION_DENIED",
					 "RESOURCE_EXHAUSTED",
					 "FAILED_PRECONDITION",
					 "ABORTED",
					 "OUT_OF_RANGE",
					 "UNIMPLEMENTED",
					 "INTERNAL",
					 "UNAVAILABLE",
					 "DATA_LOSS",
					 "UNAUTHENTICATED"};

int format_grpc_status(const struct weft_format_in *in)
{
	const struct weft_header *h =
		in->trailers ? weft_headers_get(in->trailers, WEFT_H_GRPC_STATUS) : NULL;
	unsigned n = 0;
	uint32_t i;

	if (!h && in->resp)
		h = weft_headers_get(in->resp, WEFT_H_GRPC_STATUS);
	if (!h || !h->value_len)
		return in->info && in->info->status > 0 ? weft_grpc_of_http(in->info->status) : -1;
	for (i = 0; i < h->value_len; i++) {
		if (!isdigit((unsigned char)h->value[i]) || i == 6)
			return 2;
		n = n * 10 + (unsigned)(h->value[i] - '0');
	}
	return (int)n;
}

void fop_grpc(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	int n;

	if (!in->req ||
	    strncmp(weft_headers_value(in->req, WEFT_H_CONTENT_TYPE), "application/grpc", 16))
		return;
	n = format_grpc_status(in);
	if (n < 0)
		return;
	if (n > 16 || op->arg == G_NUMBER)
		fval_num(v, n);
	else
		fval_str(v, op->arg == G_SNAKE ? grpc_snake[n] : grpc_names[n]);
}

void fop_fixed(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	fval_str(v, op->s);
}
