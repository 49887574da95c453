/* The command operators. */
#include "proxy/l4/format_priv.h"

#include "proxy/core/worker.h"
#include "proxy/upstream/cluster.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void str(struct fval *v, const char *s)
{
	if (!s || !*s)
		return;
	v->kind = FV_STRING;
	v->s = s;
	v->n = strlen(s);
}

/* A sentence as one word. */
static void word(struct fval *v, const char *s)
{
	size_t n = 0;

	if (!s || !*s)
		return;
	for (; *s && n < FVAL_TEXT - 1; s++)
		v->text[n++] = isspace((unsigned char)*s) ? '_' : *s;
	v->text[n] = 0;
	str(v, v->text);
}

static void num(struct fval *v, int64_t n)
{
	v->kind = FV_NUMBER;
	v->num = n;
}

/* ---- headers */
enum { H_REQ, H_RESP, H_TRAILER };

static const struct weft_headers *list(const struct fop *op, const struct weft_format_in *in)
{
	return op->arg == H_REQ ? in->req : op->arg == H_RESP ? in->resp : in->trailers;
}

static void op_header(const struct fop *op, const struct weft_format_in *in, struct fval *v)
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

static void op_query(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const char *path = in->req ? weft_headers_value(in->req, WEFT_H_PATH) : "",
		   *q = strchr(path, '?');

	if (!q || !(v->s = weft_query_get(q + 1, strlen(q + 1), op->s, in->req->arena, &v->n)))
		return;
	v->kind = FV_STRING;
}

/* ---- times */
static const char *default_time = "%Y-%m-%dT%H:%M:%E3SZ";

static void put_time(struct fval *v, const char *fmt, uint64_t wall_ns)
{
	time_t s = (time_t)(wall_ns / 1000000000);
	unsigned long ns = (unsigned long)(wall_ns % 1000000000);
	char one[8] = "%";
	struct tm tm;
	size_t n = 0;

	gmtime_r(&s, &tm);
	for (; *fmt && n + 64 < FVAL_TEXT; fmt++) {
		if (*fmt != '%') {
			v->text[n++] = *fmt;
			continue;
		}
		fmt++;
		if (*fmt == 'E' && isdigit((unsigned char)fmt[1]) && fmt[2] == 'S') {
			char frac[16];

			snprintf(frac, sizeof(frac), "%09lu", ns);
			n += (size_t)snprintf(v->text + n, 24, "%02d.%.*s", tm.tm_sec, fmt[1] - '0',
					      frac);
			fmt += 2;
		} else if (isdigit((unsigned char)*fmt) && fmt[1] == 'f') {
			char frac[16];

			snprintf(frac, sizeof(frac), "%09lu", ns);
			n += (size_t)snprintf(v->text + n, 16, "%.*s", *fmt - '0', frac);
			fmt++;
		} else if (*fmt == 'f') {
			n += (size_t)snprintf(v->text + n, 16, "%09lu", ns);
		} else if (*fmt == 's') {
			n += (size_t)snprintf(v->text + n, 24, "%lld", (long long)s);
		} else if (*fmt) {
			one[1] = *fmt;
			one[2] = 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
			n += strftime(v->text + n, 64, one, &tm);
#pragma GCC diagnostic pop
		} else {
			break;
		}
	}
	v->text[n] = 0;
	v->kind = FV_STRING;
	v->s = v->text;
	v->n = n;
}

static void op_start_time(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	if (in->info)
		put_time(v, op->s ? op->s : default_time, in->info->start_wall_ns);
}

static void op_emit_time(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	put_time(v, op->s ? op->s : default_time,
		 (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

enum { D_ALL, D_REQUEST, D_RESPONSE, D_RESPONSE_TX, D_REQUEST_TX, D_HANDSHAKE };

static void op_duration(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	uint64_t from, to;

	if (!i)
		return;
	from = i->start_ns;
	to = 0;
	switch (op->arg) {
	case D_ALL:
		to = i->end_ns ? i->end_ns : weft_now_ns();
		break;
	case D_REQUEST:
		to = i->last_rx_ns;
		break;
	case D_RESPONSE:
		to = i->up_first_rx_ns;
		break;
	case D_RESPONSE_TX:
		from = i->up_first_rx_ns;
		to = from ? i->last_tx_ns : 0;
		break;
	case D_REQUEST_TX:
		to = i->up_last_tx_ns;
		break;
	default:
		from = i->down ? i->down->start_ns : 0;
		to = i->down && i->down->tls ? i->down->ready_ns : 0;
	}
	if (from && to >= from && to)
		num(v, (int64_t)((to - from) / 1000000));
}

/* ---- counts */
enum {
	B_RX,
	B_TX,
	B_RX_HEAD,
	B_TX_HEAD,
	B_UP_TX,
	B_UP_RX,
	B_DOWN_TX,
	B_DOWN_RX,
	B_ATTEMPTS,
	B_CONN,
	B_UP_CONN
};

static void op_number(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	uint64_t n;

	if (!i)
		return;
	switch (op->arg) {
	case B_RX:
		n = i->rx_bytes;
		break;
	case B_TX:
		n = i->tx_bytes;
		break;
	case B_RX_HEAD:
		n = i->rx_head_bytes;
		break;
	case B_TX_HEAD:
		n = i->tx_head_bytes;
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
	default:
		n = i->up_conn_id;
	}
	num(v, (int64_t)n);
}

static void op_code(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	if (in->info)
		num(v, in->info->status);
}

static void op_flags(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	size_t n = 0;
	unsigned f;

	if (!in->info || !in->info->flags)
		return;
	for (f = 0; f < WEFT_FLAG_COUNT; f++) {
		const char *s = op->arg ? weft_flag_long(f) : weft_flag_short(f);

		if (!(in->info->flags >> f & 1) || n + strlen(s) + 2 > FVAL_TEXT)
			continue;
		n += (size_t)snprintf(v->text + n, FVAL_TEXT - n, "%s%s", n ? "," : "", s);
	}
	v->kind = FV_STRING;
	v->s = v->text;
	v->n = n;
}

/* ---- words */
enum {
	W_PROTOCOL,
	W_DETAILS,
	W_TERMINATION,
	W_UP_HOST_NAME,
	W_UP_CLUSTER,
	W_UP_CLUSTER_RAW,
	W_UP_PROTOCOL,
	W_UP_FAILURE,
	W_DOWN_FAILURE,
	W_SNI,
	W_ROUTE,
	W_VHOST,
	W_CHAIN,
	W_LOG_TYPE,
	W_BODY,
	W_TRACE,
	W_LISTENER,
};

static const char *protocol(enum weft_http p)
{
	return p == WEFT_HTTP_2	   ? "HTTP/2"
	       : p == WEFT_HTTP_11 ? "HTTP/1.1"
	       : p == WEFT_HTTP_10 ? "HTTP/1.0"
				   : NULL;
}

static void op_word(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;

	if (op->arg == W_LOG_TYPE || op->arg == W_BODY) {
		str(v, op->arg == W_BODY ? in->body : in->log_type ? in->log_type : "NotSet");
		return;
	}
	if (!i)
		return;
	switch (op->arg) {
	case W_PROTOCOL:
		str(v, protocol(i->protocol));
		break;
	case W_DETAILS:
		word(v, i->details);
		break;
	case W_TERMINATION:
		word(v, i->termination_details);
		break;
	case W_UP_HOST_NAME:
		str(v, i->host ? *i->host->hostname ? i->host->hostname : i->host->text : NULL);
		break;
	case W_UP_CLUSTER:
		str(v, i->cluster ? i->cluster->alt_stat_name && *i->cluster->alt_stat_name
					    ? i->cluster->alt_stat_name
					    : i->cluster->name
				  : NULL);
		break;
	case W_UP_CLUSTER_RAW:
		str(v, i->cluster ? i->cluster->name : NULL);
		break;
	case W_UP_PROTOCOL:
		str(v, i->up_protocol);
		break;
	case W_UP_FAILURE:
		word(v, i->up_failure);
		break;
	case W_DOWN_FAILURE:
		word(v, i->down_failure);
		break;
	case W_SNI:
		str(v, i->requested_server_name ? i->requested_server_name
		       : i->down		? i->down->sni
						: NULL);
		break;
	case W_ROUTE:
		str(v, i->route_name);
		break;
	case W_VHOST:
		str(v, i->vhost_name);
		break;
	case W_CHAIN:
		str(v, i->filter_chain_name);
		break;
	case W_TRACE:
		str(v, i->trace_id);
		break;
	default:
		str(v, i->listener_name);
	}
}

/* ---- addresses */
enum {
	A_UP_HOST,
	A_UP_LOCAL,
	A_UP_REMOTE,
	A_LOCAL,
	A_REMOTE,
	A_DIRECT_REMOTE,
	A_WHAT = 0xf,
	A_NO_PORT = 0x10,
	A_PORT = 0x20
};

static void op_address(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	struct weft_sockaddr a = {0};
	const char *path = NULL;

	if (!i)
		return;
	switch (op->arg & A_WHAT) {
	case A_UP_HOST:
		if (i->host)
			a = i->host->addr, path = i->host->unix_path;
		break;
	case A_UP_LOCAL:
		a = i->up_local;
		break;
	case A_UP_REMOTE:
		a = i->up_remote;
		break;
	case A_LOCAL:
		if (i->down)
			a = i->down->local, path = i->down->unix_path;
		break;
	case A_REMOTE:
		a = i->remote;
		break;
	default:
		if (i->down)
			a = i->down->direct_remote.ip.family ? i->down->direct_remote
							     : i->down->remote;
	}
	if (!a.ip.family) {
		str(v, path);
		return;
	}
	if (op->arg & A_PORT) {
		num(v, a.port);
		return;
	}
	if (op->arg & A_NO_PORT)
		weft_ip_text(&a.ip, v->text, FVAL_TEXT);
	else
		weft_sockaddr_text(&a, v->text, FVAL_TEXT);
	str(v, v->text);
}

/* ---- TLS */
enum {
	T_VERSION,
	T_CIPHER,
	T_PEER_SUBJECT,
	T_PEER_ISSUER,
	T_PEER_SERIAL,
	T_PEER_SHA256,
	T_PEER_URI,
	T_PEER_DNS,
	T_PEER_IP,
	T_PEER_EMAIL,
	T_LOCAL_URI,
	T_LOCAL_DNS,
	T_LOCAL_SUBJECT,
	T_SESSION,
	T_START,
	T_END,
	T_UP = 0x40,
};

static void join(struct fval *v, const char *const *l)
{
	size_t n = 0;

	for (; l && *l && n + strlen(*l) + 2 < FVAL_TEXT; l++)
		n += (size_t)snprintf(v->text + n, FVAL_TEXT - n, "%s%s", n ? "," : "", *l);
	if (n)
		str(v, v->text);
}

static void op_tls(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const struct weft_info *i = in->info;
	const struct weft_tls_info *t = !i		 ? NULL
					: op->arg & T_UP ? i->up_tls
					: i->down	 ? i->down->tls
							 : NULL;

	if (!t)
		return;
	switch (op->arg & ~(unsigned)T_UP) {
	case T_VERSION:
		str(v, t->version);
		break;
	case T_CIPHER:
		str(v, t->cipher);
		break;
	case T_PEER_SUBJECT:
		str(v, t->peer_subject);
		break;
	case T_PEER_ISSUER:
		str(v, t->peer_issuer);
		break;
	case T_PEER_SERIAL:
		str(v, t->peer_serial);
		break;
	case T_PEER_SHA256:
		str(v, t->peer_sha256);
		break;
	case T_PEER_URI:
		join(v, t->peer_uri);
		break;
	case T_PEER_DNS:
		join(v, t->peer_dns);
		break;
	case T_PEER_IP:
		join(v, t->peer_ip);
		break;
	case T_PEER_EMAIL:
		join(v, t->peer_email);
		break;
	case T_LOCAL_URI:
		join(v, t->local_uri);
		break;
	case T_LOCAL_DNS:
		join(v, t->local_dns);
		break;
	case T_LOCAL_SUBJECT:
		str(v, t->local_subject);
		break;
	case T_START:
		if (t->peer_presented)
			put_time(v, op->s ? op->s : "%Y-%m-%dT%H:%M:%SZ",
				 (uint64_t)t->peer_not_before * 1000000000);
		break;
	default:
		if (t->peer_presented)
			put_time(v, op->s ? op->s : "%Y-%m-%dT%H:%M:%SZ",
				 (uint64_t)t->peer_not_after * 1000000000);
	}
}

/* ---- the rest */
static void op_metadata(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	const Google__Protobuf__Struct *s = in->info ? weft_info_meta_get(in->info, op->s) : NULL;
	size_t n = 0;

	while (op->path && op->path[n])
		n++;
	if (!s || !n)
		return;
	v->v = weft_struct_path(s, op->path, n);
	if (v->v && v->v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND__NOT_SET)
		v->kind = FV_STRUCT;
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
enum { G_CAMEL, G_SNAKE, G_NUMBER };

static int of_http(int status)
{
	switch (status) {
	case 400:
		return 13;
	case 401:
		return 16;
	case 403:
		return 7;
	case 404:
		return 12;
	case 429:
	case 502:
	case 503:
	case 504:
		return 14;
	default:
		return 2;
	}
}

int format_grpc_status(const struct weft_format_in *in)
{
	const struct weft_header *h =
		in->trailers ? weft_headers_get(in->trailers, WEFT_H_GRPC_STATUS) : NULL;
	unsigned n = 0;
	uint32_t i;

	if (!h && in->resp)
		h = weft_headers_get(in->resp, WEFT_H_GRPC_STATUS);
	if (!h || !h->value_len)
		return in->info && in->info->status > 0 ? of_http(in->info->status) : -1;
	for (i = 0; i < h->value_len; i++) {
		if (!isdigit((unsigned char)h->value[i]) || i == 6)
			return 2;
		n = n * 10 + (unsigned)(h->value[i] - '0');
	}
	return (int)n;
}

static void op_grpc(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	int n;

	if (!in->req ||
	    strncmp(weft_headers_value(in->req, WEFT_H_CONTENT_TYPE), "application/grpc", 16))
		return;
	n = format_grpc_status(in);
	if (n < 0)
		return;
	if (n > 16 || op->arg == G_NUMBER)
		num(v, n);
	else
		str(v, op->arg == G_SNAKE ? grpc_snake[n] : grpc_names[n]);
}

static void op_fixed(const struct fop *op, const struct weft_format_in *in, struct fval *v)
{
	str(v, op->s);
}

/* ---- by name */
enum args {
	ARGS_NONE,
	ARGS_HEADER,
	ARGS_TIME,
	ARGS_META,
	ARGS_WORD,
	ARGS_GRPC,
	ARGS_ENV,
	ARGS_HOST
};
static const struct {
	const char *name;
	fop_read *read;
	unsigned arg;
	enum args args;
} table[] = {
	{"REQ", op_header, H_REQ, ARGS_HEADER},
	{"RESP", op_header, H_RESP, ARGS_HEADER},
	{"TRAILER", op_header, H_TRAILER, ARGS_HEADER},
	{"QUERY_PARAM", op_query, 0, ARGS_WORD},
	{"START_TIME", op_start_time, 0, ARGS_TIME},
	{"EMIT_TIME", op_emit_time, 0, ARGS_TIME},
	{"DURATION", op_duration, D_ALL, ARGS_NONE},
	{"REQUEST_DURATION", op_duration, D_REQUEST, ARGS_NONE},
	{"REQUEST_TX_DURATION", op_duration, D_REQUEST_TX, ARGS_NONE},
	{"RESPONSE_DURATION", op_duration, D_RESPONSE, ARGS_NONE},
	{"RESPONSE_TX_DURATION", op_duration, D_RESPONSE_TX, ARGS_NONE},
	{"DOWNSTREAM_HANDSHAKE_DURATION", op_duration, D_HANDSHAKE, ARGS_NONE},
	{"BYTES_RECEIVED", op_number, B_RX, ARGS_NONE},
	{"BYTES_SENT", op_number, B_TX, ARGS_NONE},
	{"DOWNSTREAM_HEADER_BYTES_RECEIVED", op_number, B_RX_HEAD, ARGS_NONE},
	{"DOWNSTREAM_HEADER_BYTES_SENT", op_number, B_TX_HEAD, ARGS_NONE},
	{"UPSTREAM_WIRE_BYTES_SENT", op_number, B_UP_TX, ARGS_NONE},
	{"UPSTREAM_WIRE_BYTES_RECEIVED", op_number, B_UP_RX, ARGS_NONE},
	{"DOWNSTREAM_WIRE_BYTES_SENT", op_number, B_DOWN_TX, ARGS_NONE},
	{"DOWNSTREAM_WIRE_BYTES_RECEIVED", op_number, B_DOWN_RX, ARGS_NONE},
	{"UPSTREAM_REQUEST_ATTEMPT_COUNT", op_number, B_ATTEMPTS, ARGS_NONE},
	{"CONNECTION_ID", op_number, B_CONN, ARGS_NONE},
	{"UPSTREAM_CONNECTION_ID", op_number, B_UP_CONN, ARGS_NONE},
	{"RESPONSE_CODE", op_code, 0, ARGS_NONE},
	{"RESPONSE_FLAGS", op_flags, 0, ARGS_NONE},
	{"RESPONSE_FLAGS_LONG", op_flags, 1, ARGS_NONE},
	{"PROTOCOL", op_word, W_PROTOCOL, ARGS_NONE},
	{"UPSTREAM_PROTOCOL", op_word, W_UP_PROTOCOL, ARGS_NONE},
	{"RESPONSE_CODE_DETAILS", op_word, W_DETAILS, ARGS_NONE},
	{"CONNECTION_TERMINATION_DETAILS", op_word, W_TERMINATION, ARGS_NONE},
	{"UPSTREAM_HOST_NAME", op_word, W_UP_HOST_NAME, ARGS_NONE},
	{"UPSTREAM_CLUSTER", op_word, W_UP_CLUSTER, ARGS_NONE},
	{"UPSTREAM_CLUSTER_RAW", op_word, W_UP_CLUSTER_RAW, ARGS_NONE},
	{"UPSTREAM_TRANSPORT_FAILURE_REASON", op_word, W_UP_FAILURE, ARGS_NONE},
	{"DOWNSTREAM_TRANSPORT_FAILURE_REASON", op_word, W_DOWN_FAILURE, ARGS_NONE},
	{"REQUESTED_SERVER_NAME", op_word, W_SNI, ARGS_NONE},
	{"ROUTE_NAME", op_word, W_ROUTE, ARGS_NONE},
	{"VIRTUAL_HOST_NAME", op_word, W_VHOST, ARGS_NONE},
	{"FILTER_CHAIN_NAME", op_word, W_CHAIN, ARGS_NONE},
	{"ACCESS_LOG_TYPE", op_word, W_LOG_TYPE, ARGS_NONE},
	{"LOCAL_REPLY_BODY", op_word, W_BODY, ARGS_NONE},
	{"TRACE_ID", op_word, W_TRACE, ARGS_NONE},
	{"UPSTREAM_HOST", op_address, A_UP_HOST, ARGS_NONE},
	{"UPSTREAM_LOCAL_ADDRESS", op_address, A_UP_LOCAL, ARGS_NONE},
	{"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", op_address, A_UP_LOCAL | A_NO_PORT, ARGS_NONE},
	{"UPSTREAM_LOCAL_PORT", op_address, A_UP_LOCAL | A_PORT, ARGS_NONE},
	{"UPSTREAM_REMOTE_ADDRESS", op_address, A_UP_REMOTE, ARGS_NONE},
	{"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", op_address, A_UP_REMOTE | A_NO_PORT, ARGS_NONE},
	{"UPSTREAM_REMOTE_PORT", op_address, A_UP_REMOTE | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_ADDRESS", op_address, A_LOCAL, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", op_address, A_LOCAL | A_NO_PORT, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_PORT", op_address, A_LOCAL | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_REMOTE_ADDRESS", op_address, A_REMOTE, ARGS_NONE},
	{"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", op_address, A_REMOTE | A_NO_PORT, ARGS_NONE},
	{"DOWNSTREAM_REMOTE_PORT", op_address, A_REMOTE | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_DIRECT_REMOTE_ADDRESS", op_address, A_DIRECT_REMOTE, ARGS_NONE},
	{"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", op_address, A_DIRECT_REMOTE | A_NO_PORT,
	 ARGS_NONE},
	{"DOWNSTREAM_DIRECT_REMOTE_PORT", op_address, A_DIRECT_REMOTE | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_TLS_VERSION", op_tls, T_VERSION, ARGS_NONE},
	{"DOWNSTREAM_TLS_CIPHER", op_tls, T_CIPHER, ARGS_NONE},
	{"DOWNSTREAM_PEER_SUBJECT", op_tls, T_PEER_SUBJECT, ARGS_NONE},
	{"DOWNSTREAM_PEER_ISSUER", op_tls, T_PEER_ISSUER, ARGS_NONE},
	{"DOWNSTREAM_PEER_SERIAL", op_tls, T_PEER_SERIAL, ARGS_NONE},
	{"DOWNSTREAM_PEER_FINGERPRINT_256", op_tls, T_PEER_SHA256, ARGS_NONE},
	{"DOWNSTREAM_PEER_URI_SAN", op_tls, T_PEER_URI, ARGS_NONE},
	{"DOWNSTREAM_PEER_DNS_SAN", op_tls, T_PEER_DNS, ARGS_NONE},
	{"DOWNSTREAM_PEER_IP_SAN", op_tls, T_PEER_IP, ARGS_NONE},
	{"DOWNSTREAM_PEER_EMAIL_SAN", op_tls, T_PEER_EMAIL, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_URI_SAN", op_tls, T_LOCAL_URI, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_DNS_SAN", op_tls, T_LOCAL_DNS, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_SUBJECT", op_tls, T_LOCAL_SUBJECT, ARGS_NONE},
	{"DOWNSTREAM_PEER_CERT_V_START", op_tls, T_START, ARGS_TIME},
	{"DOWNSTREAM_PEER_CERT_V_END", op_tls, T_END, ARGS_TIME},
	{"UPSTREAM_TLS_VERSION", op_tls, T_VERSION | T_UP, ARGS_NONE},
	{"UPSTREAM_TLS_CIPHER", op_tls, T_CIPHER | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_SUBJECT", op_tls, T_PEER_SUBJECT | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_ISSUER", op_tls, T_PEER_ISSUER | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_URI_SAN", op_tls, T_PEER_URI | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_DNS_SAN", op_tls, T_PEER_DNS | T_UP, ARGS_NONE},
	{"UPSTREAM_LOCAL_URI_SAN", op_tls, T_LOCAL_URI | T_UP, ARGS_NONE},
	{"DYNAMIC_METADATA", op_metadata, 0, ARGS_META},
	{"GRPC_STATUS", op_grpc, G_CAMEL, ARGS_GRPC},
	{"GRPC_STATUS_NUMBER", op_grpc, G_NUMBER, ARGS_NONE},
	{"HOSTNAME", op_fixed, 0, ARGS_HOST},
	{"ENVIRONMENT", op_fixed, 0, ARGS_ENV},
};

static void header_args(struct weft_cfg *c, struct fop *op, char *args)
{
	char *alt = strchr(args, '?'), *p;

	for (p = args; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	if (alt)
		*alt++ = 0;
	if (!strcmp(args, "host"))
		args = weft_arena_strdup(c->arena, ":authority");
	if (alt && !strcmp(alt, "host"))
		alt = weft_arena_strdup(c->arena, ":authority");
	op->s = args;
	op->n = strlen(args);
	op->id = weft_hid_of(args, op->n);
	op->alt = alt && *alt ? alt : NULL;
	op->alt_id = op->alt ? weft_hid_of(alt, strlen(alt)) : WEFT_H_OTHER;
}

/* "ns:key:key" */
static int meta_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op, char *args)
{
	const char **path = weft_arena_alloc(c->arena, 18 * sizeof(*path));
	char *colon = strchr(args, ':');
	size_t n = 0;

	op->s = args;
	op->path = path;
	while (colon && n < 16) {
		*colon++ = 0;
		path[n++] = colon;
		colon = strchr(colon, ':');
	}
	return n ? 0
		 : weft_cfg_fail(c, at, "%%DYNAMIC_METADATA%% needs NAMESPACE:KEY, has \"%.60s\"",
				 args);
}

int format_op(struct weft_cfg *c, const struct weft_path *at, const char *name, size_t name_n,
	      const char *args, size_t args_n, bool has_args, size_t max, struct fop *op)
{
	char *a = has_args ? weft_arena_strndup(c->arena, args, args_n) : NULL, host[256];
	const char *names[sizeof(table) / sizeof(*table)], *near;
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(*table); i++) {
		names[i] = table[i].name;
		if (strlen(table[i].name) == name_n && !memcmp(table[i].name, name, name_n))
			break;
	}
	if (i == sizeof(table) / sizeof(*table)) {
		char text[64];

		snprintf(text, sizeof(text), "%.*s", (int)(name_n < 60 ? name_n : 60), name);
		near = weft_suggest(text, names, i);
		return weft_cfg_fail(
			c, at, "%%%s%% is not a command operator that is supported%s%s%s", text,
			near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
	}
	op->read = table[i].read;
	op->arg = table[i].arg;
	op->max = max;
	switch (table[i].args) {
	case ARGS_NONE:
		if (has_args)
			return weft_cfg_fail(c, at, "%%%s%% takes no arguments, has \"%s\"",
					     table[i].name, a);
		return 0;
	case ARGS_TIME:
		op->s = a && *a ? a : NULL;
		return 0;
	case ARGS_GRPC:
		if (a && !strcmp(a, "SNAKE_STRING"))
			op->arg = G_SNAKE;
		else if (a && !strcmp(a, "NUMBER"))
			op->arg = G_NUMBER;
		else if (a && strcmp(a, "CAMEL_STRING"))
			return weft_cfg_fail(
				c, at,
				"%%GRPC_STATUS%% takes CAMEL_STRING, SNAKE_STRING or NUMBER, has "
				"\"%s\"",
				a);
		return 0;
	case ARGS_HOST:
		op->s = !gethostname(host, sizeof(host)) ? weft_arena_strdup(c->arena, host) : "";
		return 0;
	default:
		break;
	}
	if (!a || !*a)
		return weft_cfg_fail(c, at, "%%%s%% needs an argument in parentheses",
				     table[i].name);
	switch (table[i].args) {
	case ARGS_HEADER:
		header_args(c, op, a);
		return 0;
	case ARGS_META:
		return meta_args(c, at, op, a);
	case ARGS_ENV:
		op->s = getenv(a) ? weft_arena_strdup(c->arena, getenv(a)) : "";
		return 0;
	default:
		op->s = a;
		return 0;
	}
}
