/* The command operators by name, and their arguments. */
#include "proxy/l4/format_priv.h"
#include "proxy/l4/format_want.h"
#include "proxy/net/tls_more.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { META_KEYS_MAX = 16 };
enum args {
	ARGS_NONE,
	ARGS_HEADER,
	ARGS_TIME,
	ARGS_META,
	ARGS_WORD,
	ARGS_GRPC,
	ARGS_ENV,
	ARGS_HOST,
	ARGS_SPACES,
	ARGS_PATH,
	ARGS_TYPED_META,
	ARGS_COMMON,
	ARGS_STATE,
	ARGS_XFCC,
};
static const struct {
	const char *name;
	fop_read *read;
	unsigned arg;
	enum args args;
} table[] = {
	{"REQ", fop_header, H_REQ, ARGS_HEADER},
	{"RESP", fop_header, H_RESP, ARGS_HEADER},
	{"TRAILER", fop_header, H_TRAILER, ARGS_HEADER},
	{"QUERY_PARAM", fop_query, 0, ARGS_WORD},
	{"START_TIME", fop_start_time, 0, ARGS_TIME},
	{"EMIT_TIME", fop_emit_time, 0, ARGS_TIME},
	{"START_TIME_LOCAL", fop_start_time, 1, ARGS_TIME},
	{"EMIT_TIME_LOCAL", fop_emit_time, 1, ARGS_TIME},
	{"PATH", fop_path, P_PATH | P_ORIG, ARGS_PATH},
	{"COMMON_DURATION", fop_common, 0, ARGS_COMMON},
	{"ROUNDTRIP_DURATION", fop_word, W_NOTHING, ARGS_NONE},
	{"BYTES_RETRANSMITTED", fop_number, B_ZERO, ARGS_NONE},
	{"PACKETS_RETRANSMITTED", fop_number, B_ZERO, ARGS_NONE},
	{"REQUEST_HEADERS_BYTES", fop_number, B_REQ_HEADERS, ARGS_NONE},
	{"RESPONSE_HEADERS_BYTES", fop_number, B_RESP_HEADERS, ARGS_NONE},
	{"RESPONSE_TRAILERS_BYTES", fop_number, B_RESP_TRAILERS, ARGS_NONE},
	{"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", fop_number, B_RX_HEAD, ARGS_NONE},
	{"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", fop_number, B_TX_HEAD, ARGS_NONE},
	{"STREAM_ID", fop_word, W_REQUEST_ID, ARGS_NONE},
	{"UNIQUE_ID", fop_unique, 0, ARGS_NONE},
	{"UPSTREAM_HOST_NAME_WITHOUT_PORT", fop_host, 0, ARGS_NONE},
	{"CUSTOM_FLAGS", fop_word, W_EMPTY, ARGS_NONE},
	{"UPSTREAM_PEER_CERT_V_START", fop_tls, T_START | T_UP, ARGS_TIME},
	{"UPSTREAM_PEER_CERT_V_END", fop_tls, T_END | T_UP, ARGS_TIME},
	{"UPSTREAM_PEER_IP_SAN", fop_tls, T_PEER_IP | T_UP, ARGS_NONE},
	{"UPSTREAM_LOCAL_DNS_SAN", fop_tls, T_LOCAL_DNS | T_UP, ARGS_NONE},
	{"CLUSTER_METADATA", fop_metadata, M_CLUSTER, ARGS_META},
	{"METADATA", fop_metadata, 0, ARGS_TYPED_META},
	{"DURATION", fop_duration, D_ALL, ARGS_NONE},
	{"REQUEST_DURATION", fop_duration, D_REQUEST, ARGS_NONE},
	{"REQUEST_TX_DURATION", fop_duration, D_REQUEST_TX, ARGS_NONE},
	{"RESPONSE_DURATION", fop_duration, D_RESPONSE, ARGS_NONE},
	{"RESPONSE_TX_DURATION", fop_duration, D_RESPONSE_TX, ARGS_NONE},
	{"DOWNSTREAM_HANDSHAKE_DURATION", fop_duration, D_HANDSHAKE, ARGS_NONE},
	{"BYTES_RECEIVED", fop_number, B_RX, ARGS_NONE},
	{"BYTES_SENT", fop_number, B_TX, ARGS_NONE},
	{"DOWNSTREAM_HEADER_BYTES_RECEIVED", fop_number, B_RX_HEAD_WIRE, ARGS_NONE},
	{"DOWNSTREAM_HEADER_BYTES_SENT", fop_number, B_TX_HEAD_WIRE, ARGS_NONE},
	{"UPSTREAM_WIRE_BYTES_SENT", fop_number, B_UP_TX, ARGS_NONE},
	{"UPSTREAM_WIRE_BYTES_RECEIVED", fop_number, B_UP_RX, ARGS_NONE},
	{"DOWNSTREAM_WIRE_BYTES_SENT", fop_number, B_DOWN_TX, ARGS_NONE},
	{"DOWNSTREAM_WIRE_BYTES_RECEIVED", fop_number, B_DOWN_RX, ARGS_NONE},
	{"UPSTREAM_REQUEST_ATTEMPT_COUNT", fop_number, B_ATTEMPTS, ARGS_NONE},
	{"CONNECTION_ID", fop_number, B_CONN, ARGS_NONE},
	{"UPSTREAM_CONNECTION_ID", fop_number, B_UP_CONN, ARGS_NONE},
	{"RESPONSE_CODE", fop_code, 0, ARGS_NONE},
	{"RESPONSE_FLAGS", fop_flags, 0, ARGS_NONE},
	{"RESPONSE_FLAGS_LONG", fop_flags, 1, ARGS_NONE},
	{"PROTOCOL", fop_word, W_PROTOCOL, ARGS_NONE},
	{"UPSTREAM_PROTOCOL", fop_word, W_UP_PROTOCOL, ARGS_NONE},
	{"RESPONSE_CODE_DETAILS", fop_word, W_DETAILS, ARGS_SPACES},
	{"CONNECTION_TERMINATION_DETAILS", fop_word, W_TERMINATION, ARGS_NONE},
	{"UPSTREAM_HOST_NAME", fop_word, W_UP_HOST_NAME, ARGS_NONE},
	{"UPSTREAM_CLUSTER", fop_word, W_UP_CLUSTER, ARGS_NONE},
	{"UPSTREAM_CLUSTER_RAW", fop_word, W_UP_CLUSTER_RAW, ARGS_NONE},
	{"UPSTREAM_TRANSPORT_FAILURE_REASON", fop_word, W_UP_FAILURE, ARGS_NONE},
	{"DOWNSTREAM_TRANSPORT_FAILURE_REASON", fop_word, W_DOWN_FAILURE, ARGS_NONE},
	{"REQUESTED_SERVER_NAME", fop_word, W_SNI, ARGS_NONE},
	{"ROUTE_NAME", fop_word, W_ROUTE, ARGS_NONE},
	{"FILTER_CHAIN_NAME", fop_word, W_CHAIN, ARGS_NONE},
	{"ACCESS_LOG_TYPE", fop_word, W_LOG_TYPE, ARGS_NONE},
	{"LOCAL_REPLY_BODY", fop_word, W_BODY, ARGS_NONE},
	{"TRACE_ID", fop_word, W_TRACE, ARGS_NONE},
	{"UPSTREAM_HOST", fop_address, A_UP_HOST, ARGS_NONE},
	{"UPSTREAM_LOCAL_ADDRESS", fop_address, A_UP_LOCAL, ARGS_NONE},
	{"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", fop_address, A_UP_LOCAL | A_NO_PORT, ARGS_NONE},
	{"UPSTREAM_LOCAL_PORT", fop_address, A_UP_LOCAL | A_PORT, ARGS_NONE},
	{"UPSTREAM_REMOTE_ADDRESS", fop_address, A_UP_REMOTE, ARGS_NONE},
	{"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", fop_address, A_UP_REMOTE | A_NO_PORT, ARGS_NONE},
	{"UPSTREAM_REMOTE_PORT", fop_address, A_UP_REMOTE | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_ADDRESS", fop_address, A_LOCAL, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", fop_address, A_LOCAL | A_NO_PORT, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_PORT", fop_address, A_LOCAL | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_REMOTE_ADDRESS", fop_address, A_REMOTE, ARGS_NONE},
	{"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", fop_address, A_REMOTE | A_NO_PORT, ARGS_NONE},
	{"DOWNSTREAM_REMOTE_PORT", fop_address, A_REMOTE | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_DIRECT_REMOTE_ADDRESS", fop_address, A_DIRECT_REMOTE, ARGS_NONE},
	{"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", fop_address, A_DIRECT_REMOTE | A_NO_PORT,
	 ARGS_NONE},
	{"DOWNSTREAM_DIRECT_REMOTE_PORT", fop_address, A_DIRECT_REMOTE | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_TLS_VERSION", fop_tls, T_VERSION, ARGS_NONE},
	{"DOWNSTREAM_TLS_CIPHER", fop_tls, T_CIPHER, ARGS_NONE},
	{"DOWNSTREAM_PEER_SUBJECT", fop_tls, T_PEER_SUBJECT, ARGS_NONE},
	{"DOWNSTREAM_PEER_ISSUER", fop_tls, T_PEER_ISSUER, ARGS_NONE},
	{"DOWNSTREAM_PEER_SERIAL", fop_tls, T_PEER_SERIAL, ARGS_NONE},
	{"DOWNSTREAM_PEER_FINGERPRINT_256", fop_tls, T_PEER_SHA256, ARGS_NONE},
	{"DOWNSTREAM_PEER_URI_SAN", fop_tls, T_PEER_URI, ARGS_NONE},
	{"DOWNSTREAM_PEER_DNS_SAN", fop_tls, T_PEER_DNS, ARGS_NONE},
	{"DOWNSTREAM_PEER_IP_SAN", fop_tls, T_PEER_IP, ARGS_NONE},
	{"DOWNSTREAM_PEER_EMAIL_SAN", fop_tls, T_PEER_EMAIL, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_URI_SAN", fop_tls, T_LOCAL_URI, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_DNS_SAN", fop_tls, T_LOCAL_DNS, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_SUBJECT", fop_tls, T_LOCAL_SUBJECT, ARGS_NONE},
	{"DOWNSTREAM_PEER_CERT_V_START", fop_tls, T_START, ARGS_TIME},
	{"DOWNSTREAM_PEER_CERT_V_END", fop_tls, T_END, ARGS_TIME},
	{"UPSTREAM_TLS_VERSION", fop_tls, T_VERSION | T_UP, ARGS_NONE},
	{"UPSTREAM_TLS_CIPHER", fop_tls, T_CIPHER | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_SUBJECT", fop_tls, T_PEER_SUBJECT | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_ISSUER", fop_tls, T_PEER_ISSUER | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_URI_SAN", fop_tls, T_PEER_URI | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_DNS_SAN", fop_tls, T_PEER_DNS | T_UP, ARGS_NONE},
	{"UPSTREAM_LOCAL_URI_SAN", fop_tls, T_LOCAL_URI | T_UP, ARGS_NONE},
	{"DYNAMIC_METADATA", fop_metadata, M_DYNAMIC, ARGS_META},
	{"GRPC_STATUS", fop_grpc, G_CAMEL, ARGS_GRPC},
	{"GRPC_STATUS_NUMBER", fop_grpc, G_NUMBER, ARGS_NONE},
	{"HOSTNAME", fop_fixed, 0, ARGS_HOST},
	{"DOWNSTREAM_DIRECT_LOCAL_ADDRESS", fop_address, A_DIRECT_LOCAL, ARGS_NONE},
	{"DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", fop_address, A_DIRECT_LOCAL | A_NO_PORT,
	 ARGS_NONE},
	{"DOWNSTREAM_DIRECT_LOCAL_PORT", fop_address, A_DIRECT_LOCAL | A_PORT, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_EMAIL_SAN", fop_tls, T_LOCAL_EMAIL, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_IP_SAN", fop_tls, T_LOCAL_IP, ARGS_NONE},
	{"DOWNSTREAM_LOCAL_OTHERNAME_SAN", fop_tls, T_LOCAL_OTHER, ARGS_NONE},
	{"DOWNSTREAM_PEER_CERT", fop_tls, T_PEER_CERT, ARGS_NONE},
	{"DOWNSTREAM_PEER_FINGERPRINT_1", fop_tls, T_PEER_SHA1, ARGS_NONE},
	{"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", fop_tls, T_CHAIN_SHA1, ARGS_NONE},
	{"DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", fop_tls, T_CHAIN_SHA256, ARGS_NONE},
	{"DOWNSTREAM_PEER_CHAIN_SERIALS", fop_tls, T_CHAIN_SERIAL, ARGS_NONE},
	{"DOWNSTREAM_PEER_OTHERNAME_SAN", fop_tls, T_PEER_OTHER, ARGS_NONE},
	{"DOWNSTREAM_TLS_SESSION_ID", fop_tls, T_SESSION, ARGS_NONE},
	{"UPSTREAM_TLS_SESSION_ID", fop_tls, T_SESSION | T_UP, ARGS_NONE},
	{"UPSTREAM_LOCAL_IP_SAN", fop_tls, T_LOCAL_IP | T_UP, ARGS_NONE},
	{"UPSTREAM_PEER_CERT", fop_tls, T_PEER_CERT | T_UP, ARGS_NONE},
	{"UPSTREAM_HEADER_BYTES_SENT", fop_number, B_UP_TX_HEAD_WIRE, ARGS_NONE},
	{"UPSTREAM_HEADER_BYTES_RECEIVED", fop_number, B_UP_RX_HEAD_WIRE, ARGS_NONE},
	{"UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", fop_number, B_UP_TX_HEAD, ARGS_NONE},
	{"UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", fop_number, B_UP_RX_HEAD, ARGS_NONE},
	{"UPSTREAM_CONNECTION_POOL_READY_DURATION", fop_duration, D_POOL, ARGS_NONE},
	{"VIRTUAL_CLUSTER_NAME", fop_word, W_VCLUSTER, ARGS_NONE},
	{"TLS_JA3_FINGERPRINT", fop_word, W_JA3, ARGS_NONE},
	{"TLS_JA4_FINGERPRINT", fop_word, W_JA4, ARGS_NONE},
	{"STREAM_INFO_REQ", fop_header, H_REQ, ARGS_HEADER},
	{"UPSTREAM_METADATA", fop_metadata, M_HOST, ARGS_META},
	{"FILTER_STATE", fop_state, 0, ARGS_STATE},
	{"UPSTREAM_FILTER_STATE", fop_state, 1, ARGS_STATE},
	{"XFCC_VALUE", fop_xfcc, 0, ARGS_XFCC},
	{"ENVIRONMENT", fop_fixed, 0, ARGS_ENV},
};

static atomic_bool host_metadata, sent;

bool weft_format_wants_sent(void)
{
	return atomic_load_explicit(&sent, memory_order_relaxed);
}

bool weft_format_wants_host_metadata(void)
{
	return atomic_load_explicit(&host_metadata, memory_order_relaxed);
}

static int header_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op, char *args)
{
	char *alt = strchr(args, '?'), *p;

	for (p = args; *p; p++) {
		if (!isalnum((unsigned char)*p) && !strchr("!#$%&'*+-.^_`|~", *p) &&
		    !(*p == '?' && p == alt) && !(*p == ':' && (p == args || p == alt + 1)))
			return weft_cfg_fail(
				c, at, "must name one header, or two with '?' between, has \"%s\"",
				args);
		*p = (char)tolower((unsigned char)*p);
	}
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
	return 0;
}

/* "ns:key:key" */
static int meta_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op, char *args)
{
	const char **path = weft_arena_alloc(c->arena, (META_KEYS_MAX + 1) * sizeof(*path));
	char *colon = strchr(args, ':');
	size_t n = 0;

	op->s = args;
	op->path = path;
	while (colon && n < META_KEYS_MAX) {
		*colon++ = 0;
		path[n++] = colon;
		colon = strchr(colon, ':');
	}
	return colon ? weft_cfg_fail(c, at, "has more than %d metadata keys", META_KEYS_MAX) : 0;
}

/* "TYPE:ns:key" */
static int typed_meta_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op,
			   char *args)
{
	static const char *const kinds[] = {"DYNAMIC", "CLUSTER",      "UPSTREAM_HOST",
					    "ROUTE",   "VIRTUAL_HOST", "LISTENER"};
	char *colon = strchr(args, ':');
	unsigned i = 0;

	if (colon)
		*colon = 0;
	while (i < sizeof(kinds) / sizeof(*kinds) && strcmp(args, kinds[i]))
		i++;
	if (i == sizeof(kinds) / sizeof(*kinds))
		return weft_cfg_fail(c, at,
				     "%%METADATA%% takes DYNAMIC, CLUSTER, ROUTE, UPSTREAM_HOST, "
				     "LISTENER or VIRTUAL_HOST, has \"%s\"",
				     args);
	op->arg = i;
	if (i == M_HOST)
		atomic_store_explicit(&host_metadata, true, memory_order_relaxed);
	return meta_args(c, at, op, colon ? colon + 1 : args + strlen(args));
}

/* "KEY", "KEY:PLAIN", "KEY:TYPED", "KEY:FIELD:NAME" */
static int state_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op, char *args)
{
	char *how = strchr(args, ':'), *field;

	if (how == args)
		return weft_cfg_fail(c, at, "%%FILTER_STATE%% needs a key, has \"%s\"", args);
	op->s = args;
	if (!how)
		return 0;
	*how++ = 0;
	field = strchr(how, ':');
	if (field)
		*field++ = 0;
	if (strcmp(how, "PLAIN") && strcmp(how, "TYPED") && strcmp(how, "FIELD"))
		return weft_cfg_fail(
			c, at,
			"%%FILTER_STATE%% takes PLAIN, TYPED or FIELD behind ':', has \"%s\"", how);
	if ((*how == 'F') != (field && *field))
		return weft_cfg_fail(c, at,
				     "%%FILTER_STATE%% takes the name of a field with FIELD alone");
	return 0;
}

/* "WQ:ORIG_OR_PATH" */
static int path_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op, char *args)
{
	char *from = args ? strchr(args, ':') : NULL;

	if (!args)
		return 0;
	if (from)
		*from++ = 0;
	if (!strcmp(args, "NQ"))
		op->arg |= P_NO_QUERY;
	else if (*args && strcmp(args, "WQ"))
		return weft_cfg_fail(c, at, "%%PATH%% takes WQ or NQ, has \"%s\"", args);
	if (!from || !*from || !strcmp(from, "ORIG_OR_PATH"))
		return 0;
	if (strcmp(from, "ORIG") && strcmp(from, "PATH"))
		return weft_cfg_fail(
			c, at, "%%PATH%% takes ORIG, PATH or ORIG_OR_PATH behind ':', has \"%s\"",
			from);
	op->arg &= ~(unsigned)(*from == 'O' ? P_PATH : P_ORIG);
	return 0;
}

/* "FROM:TO:ms" */
static int common_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op,
		       const char *args)
{
	const char *to = strchr(args, ':'), *unit = to ? strchr(to + 1, ':') : NULL;
	int a = to ? fop_time_point(args, (size_t)(to - args)) : -1;
	int b = to ? fop_time_point(to + 1, unit ? (size_t)(unit - to - 1) : strlen(to + 1)) : -1;
	unsigned ns = unit ? 0 : 1000000;

	if (unit)
		ns = !strcmp(unit, ":ms") ? 1000000 : !strcmp(unit, ":us") ? 1000 : 0;
	if (unit && !strcmp(unit, ":ns"))
		ns = 1;
	if (a < 0 || b < 0 || !ns)
		return weft_cfg_fail(
			c, at,
			"%%COMMON_DURATION%% takes FROM:TO or FROM:TO:ms|us|ns with time "
			"points that are known here (DS_RX_BEG DS_RX_END US_CX_BEG "
			"US_CX_END US_HS_END US_TX_BEG US_TX_END US_RX_BEG US_RX_END "
			"DS_TX_BEG DS_TX_END), has \"%s\"",
			args);
	op->path = NULL;
	op->arg = (unsigned)a | (unsigned)b << 8;
	op->max = ns; /* a number has no length: the place of its unit */
	return 0;
}

static int xfcc_args(struct weft_cfg *c, const struct weft_path *at, struct fop *op,
		     const char *args)
{
	static const char *const keys[] = {"by", "hash", "cert", "chain", "subject", "uri", "dns"};

	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		if (!strcasecmp(args, keys[i]))
			op->s = keys[i];
	return op->s ? 0
		     : weft_cfg_fail(c, at,
				     "%%XFCC_VALUE%% takes By, Hash, Cert, Chain, Subject, URI or "
				     "DNS, has \"%s\"",
				     args);
}

static bool takes_length(enum args a)
{
	return a == ARGS_HEADER || a == ARGS_WORD || a == ARGS_ENV || a == ARGS_PATH ||
	       a == ARGS_STATE || a == ARGS_TYPED_META;
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
	if (table[i].read == fop_number &&
	    (table[i].arg == B_DOWN_TX || table[i].arg == B_TX_HEAD_WIRE))
		atomic_store_explicit(&sent, true, memory_order_relaxed);
	if (table[i].read == fop_metadata && table[i].arg == M_HOST)
		atomic_store_explicit(&host_metadata, true, memory_order_relaxed);
	op->arg = table[i].arg;
	op->max = max;
	if (table[i].read == fop_tls && ((table[i].arg & ~(unsigned)T_UP) >= T_MORE ||
					 (table[i].arg & ~(unsigned)T_UP) == T_SESSION))
		weft_tls_more_want();
	if (max != SIZE_MAX && !takes_length(table[i].args))
		return weft_cfg_fail(c, at, "%%%s%% takes no length, has %zu", table[i].name, max);
	switch (table[i].args) {
	case ARGS_NONE:
	case ARGS_HOST:
		if (a && *a)
			return weft_cfg_fail(c, at, "%%%s%% takes no arguments, has \"%s\"",
					     table[i].name, a ? a : "");
		if (table[i].args == ARGS_HOST)
			op->s = !gethostname(host, sizeof(host)) ? weft_arena_strdup(c->arena, host)
								 : "";
		return 0;
	case ARGS_SPACES:
		if (a && !strcmp(a, "ALLOW_WHITESPACES"))
			op->arg |= W_SPACES;
		else if (a && *a)
			return weft_cfg_fail(c, at, "%%%s%% takes ALLOW_WHITESPACES, has \"%s\"",
					     table[i].name, a);
		return 0;
	case ARGS_PATH:
		return path_args(c, at, op, a);
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
	default:
		break;
	}
	if (!a || !*a)
		return weft_cfg_fail(c, at, "%%%s%% needs an argument in parentheses",
				     table[i].name);
	switch (table[i].args) {
	case ARGS_HEADER:
		return header_args(c, at, op, a);
	case ARGS_META:
		return meta_args(c, at, op, a);
	case ARGS_STATE:
		return state_args(c, at, op, a);
	case ARGS_TYPED_META:
		return typed_meta_args(c, at, op, a);
	case ARGS_COMMON:
		return common_args(c, at, op, a);
	case ARGS_XFCC:
		return xfcc_args(c, at, op, a);
	case ARGS_ENV:
		op->s = getenv(a) ? weft_arena_strdup(c->arena, getenv(a)) : "-";
		return 0;
	default:
		op->s = a;
		return 0;
	}
}
