/* Inside of format*.c only: command operators. */
#pragma once
#include "proxy/l4/als.h"
#include <string.h>

enum { FVAL_TEXT = 512 };
struct fval {
	enum { FV_NONE, FV_STRING, FV_NUMBER, FV_STRUCT } kind;
	const char *s; /* may point into text */
	size_t n;
	int64_t num;
	const Google__Protobuf__Value *v; /* FV_STRUCT */
	Google__Protobuf__Value whole;	  /* for v, where a Struct itself is meant */
	char text[FVAL_TEXT];
};
struct fop;
typedef void fop_read(const struct fop *op, const struct weft_format_in *in, struct fval *v);
struct fop {
	fop_read *read;	     /* NULL: literal text */
	const char *s, *alt; /* literal; header names; first argument */
	size_t n;
	enum weft_hid id, alt_id;
	const char *const *path; /* NULL-terminated: metadata keys */
	unsigned arg;		 /* what kind, of a family of operators */
	size_t max;		 /* ":Z"; SIZE_MAX: whole */
};
/* A line as it grows: memory of the caller's first, then of the heap. */
struct fbuf {
	char *p;
	size_t n, cap;
	size_t max;	/* bytes; beyond: cut */
	bool cut, heap; /* heap: p is to be freed */
};
void fbuf_grow(struct fbuf *b, size_t n);
static inline void fbuf_add(struct fbuf *b, const char *s, size_t n)
{
	if (n > b->cap - b->n) {
		fbuf_grow(b, n);
		if (n > b->cap - b->n)
			return;
	}
	memcpy(b->p + b->n, s, n);
	b->n += n;
}
void fbuf_number(struct fbuf *b, int64_t v);
void format_put(const struct weft_format *f, const struct weft_format_in *in, struct fbuf *out);

/* Of trailers, else headers, else the HTTP status; -1: none. */
int format_grpc_status(const struct weft_format_in *in);

/* One operator "%NAME(args):max%" without its percent signs. -EINVAL: the error was added. */
int format_op(struct weft_cfg *c, const struct weft_path *at, const char *name, size_t name_n,
	      const char *args, size_t args_n, bool has_args, size_t max, struct fop *op);

/* ---- what operators read: fop.arg says which of a family */
enum { H_REQ, H_RESP, H_TRAILER };

enum { D_ALL, D_REQUEST, D_RESPONSE, D_RESPONSE_TX, D_REQUEST_TX, D_HANDSHAKE, D_POOL };

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
	B_UP_CONN,
	B_RX_HEAD_WIRE,
	B_TX_HEAD_WIRE,
	B_UP_RX_HEAD,
	B_UP_TX_HEAD,
	B_UP_RX_HEAD_WIRE,
	B_UP_TX_HEAD_WIRE,
	B_REQ_HEADERS,
	B_RESP_HEADERS,
	B_RESP_TRAILERS,
	B_ZERO
};

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
	W_CHAIN,
	W_LOG_TYPE,
	W_BODY,
	W_TRACE,
	W_LISTENER,
	W_REQUEST_ID,
	W_NOTHING,
	W_VCLUSTER,
	W_JA3,
	W_JA4,
	W_EMPTY,
	W_SPACES = 0x100, /* may have white space */
};

enum {
	A_UP_HOST,
	A_UP_LOCAL,
	A_UP_REMOTE,
	A_LOCAL,
	A_REMOTE,
	A_DIRECT_REMOTE,
	A_DIRECT_LOCAL,
	A_WHAT = 0xf,
	A_NO_PORT = 0x10,
	A_PORT = 0x20
};

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
	T_MORE, /* from here on: of struct weft_tls_more */
	T_PEER_CERT = T_MORE,
	T_PEER_SHA1,
	T_CHAIN_SHA1,
	T_CHAIN_SHA256,
	T_CHAIN_SERIAL,
	T_PEER_OTHER,
	T_LOCAL_EMAIL,
	T_LOCAL_IP,
	T_LOCAL_OTHER,
	T_UP = 0x40,
};

enum { G_CAMEL, G_SNAKE, G_NUMBER };

enum { M_DYNAMIC, M_CLUSTER, M_HOST, M_ROUTE, M_VHOST, M_LISTENER };
enum { P_PATH = 1, P_ORIG = 2, P_NO_QUERY = 4 };
fop_read fop_header, fop_query, fop_path, fop_number, fop_code, fop_flags, fop_word, fop_grpc,
	fop_fixed, fop_metadata, fop_unique, fop_host, fop_state; /* format_ops.c */
fop_read fop_start_time, fop_emit_time, fop_duration, fop_common; /* format_time.c */
fop_read fop_address, fop_tls;					  /* format_conn.c */
fop_read fop_xfcc;						  /* format_xfcc.c */
/* The time points of %COMMON_DURATION%, by name; -1: none of them. */
int fop_time_point(const char *name, size_t n);
/* A format of strftime and Envoy's specifiers. local: the zone of this machine. */
extern const char format_time_default[]; /* format_time.c */
void fval_time(struct fval *v, const char *fmt, bool local, uint64_t wall_ns);
void fval_str(struct fval *v, const char *s);
void fval_word(struct fval *v, const char *s); /* white space as '_' */
static inline void fval_num(struct fval *v, int64_t n)
{
	v->kind = FV_NUMBER;
	v->num = n;
}
