/* A byte stream of the data path: a TCP or unix socket, TLS over it, or a tunnel inside an HTTP/2
 * stream. Bytes wait in two evbuffers; an idle one holds no buffers. It stays on the worker that
 * made it. Bytes are read by readv into `in` (16 KiB, growing to 64 KiB while reads come full) and
 * written by writev from `out`, once a loop turn. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include <event2/buffer.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct event_base;
struct weft_io;
struct weft_tls_info;
struct weft_tls_more;

enum weft_io_end {
	WEFT_IO_EOF, /* the peer ended its direction in order (FIN, close_notify, END_STREAM); only
			in weft_io_eof() */
	WEFT_IO_RESET,	 /* RST, EPIPE, RST_STREAM, a TLS alert, FIN without close_notify is EOF */
	WEFT_IO_REFUSED, /* could not connect: err says why (ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT
			    …) */
	WEFT_IO_TLS,	 /* handshake or record failure: weft_io_detail */
	WEFT_IO_TIMEOUT, /* a timer of the io itself (connect, handshake) */
};
struct weft_io_ops {
	/* Connected, and its handshake done. Not called for one that is ready when made. NULL: not
	 * wanted. */
	void (*ready)(struct weft_io *io);
	/* `in` has more bytes, or weft_io_eof() became true. What is left in `in` is offered again
	 * with the next bytes. May free the io. */
	void (*readable)(struct weft_io *io);
	/* `out` went below the low mark after weft_io_full() had been true. */
	void (*writable)(struct weft_io *io);
	/* Everything that was in `out` is written; asked for by weft_io_want_drained. NULL: never
	 * asked. */
	void (*drained)(struct weft_io *io);
	/* Once after weft_io_kick: from the loop, before what this turn flushed is written, also
	 * while paused. NULL: never asked. */
	void (*turn)(struct weft_io *io);
	/* It is dead: no other call follows, and the owner must free it (here or later). Never
	 * called from inside a call that the owner made, always from the loop. */
	void (*closed)(struct weft_io *io, enum weft_io_end why, int err);
};
/* What is known of both ends. Pointers live as long as the io. Addresses that are not IP have
 * family 0. */
struct weft_io_info {
	struct weft_sockaddr local,
		remote; /* of the socket; `local` is what the client dialled (original
			   destination) where a listener filter found one */
	struct weft_sockaddr direct_remote;  /* of the socket itself, where PROXY protocol or HBONE
						told another remote */
	const char *unix_path;		     /* of a unix socket, else NULL */
	const char *sni, *alpn;		     /* "" none; sni also where only sniffed */
	const struct weft_tls_info *tls;     /* NULL: plaintext */
	uint64_t id;			     /* connection id, unique in the process */
	uint64_t start_ns;		     /* CLOCK_MONOTONIC when accepted or dialled */
	uint64_t connected_ns;		     /* of one that was dialled; 0 before */
	uint64_t ready_ns;		     /* handshake done; 0 before */
	const struct weft_io_origin *origin; /* NULL: nothing of it */
};
/* Of a finished handshake; subject and SANs of the PEER's leaf are "" / none where it showed none.
 */
struct weft_tls_info {
	const char *version, *cipher; /* "TLSv1.3", "TLS_AES_128_GCM_SHA256" */
	const char *peer_subject, *peer_issuer, *peer_serial,
		*peer_sha256; /* sha256: hex of the DER */
	const char *const *peer_uri, *const *peer_dns,
					     *const *peer_email; /* SANs; NULL-terminated */
	const char *const *peer_ip;
	const char *const *local_uri, *const *local_dns; /* SANs of our own leaf */
	const char *local_subject;
	const char *peer_pem; /* URL-encoded PEM of leaf for XFCC; made when first asked:
				 weft_io_peer_pem */
	int64_t peer_not_before, peer_not_after;
	bool peer_presented, peer_verified, resumed;
	const struct weft_tls_more *more; /* NULL: no log wants it; proxy/net/tls_more.h */
};
/* What listener filters found out. */
struct weft_io_origin {
	struct weft_sockaddr
		direct_local;  /* of the socket, where local is another; else family 0 */
	const char *ja3, *ja4; /* fingerprints of the ClientHello; NULL */
};
struct weft_io_stat { /* bytes on the wire of the stream, grow */
	uint64_t rx, tx;
};

struct ssl_ctx_st;
struct weft_io_tls { /* of one session; what a context cannot hold. Read only during the call. */
	struct ssl_ctx_st *ctx;	 /* reference taken */
	const char *sni;	 /* client: NULL none */
	const char *const *alpn; /* client: NULL-terminated; NULL: the context's */
	const char *const *ids;	 /* client: the server's leaf must have one of these URI SANs
				    exactly; NULL: what  the context checks is enough */
	unsigned handshake_ms;	 /* 0: 10,000 */
};
/* Accepted or otherwise connected socket, non-blocking; fd is taken. already: bytes read ahead by
 * listener filters (moved; NULL: none). tls NULL: plaintext. Calls no ops before it returns. */
struct weft_io *weft_io_new(struct event_base *base, int fd, const struct weft_io_tls *tls,
			    struct evbuffer *already, const struct weft_io_ops *ops, void *owner);
struct weft_dial {
	struct weft_sockaddr to;
	const char *unix_path;	   /* instead of to */
	struct weft_sockaddr from; /* bind; family 0: none; port 0: any (IP_BIND_ADDRESS_NO_PORT) */
	unsigned connect_ms;	   /* 0: 5,000 */
	const struct weft_io_tls *tls; /* NULL: plaintext */
	const void *preamble;	       /* bytes before anything else (PROXY header); copied */
	size_t preamble_n;
	uint32_t mark;					    /* SO_MARK; 0: none */
	bool transparent;				    /* IP_TRANSPARENT with from */
	uint32_t keep_idle_s, keep_interval_s, keep_probes; /* TCP keepalive; all 0: off */
	/* Called with the socket before connect (socket options of the configuration); NULL: none.
	 * < 0 fails the dial. */
	int (*prepare)(void *ctx, int fd);
	void *prepare_ctx;
};
/* Begins to connect; ready() or closed() follow from the loop. -EMFILE and the like: nothing was
 * made. */
int weft_io_dial(struct event_base *base, const struct weft_dial *to, const struct weft_io_ops *ops,
		 void *owner, struct weft_io **ret);
void weft_io_free(struct weft_io *io); /* closes at once (FIN if all was written, else RST); from
					  any callback; NULL ok */

void *weft_io_owner(const struct weft_io *io);
/* A stream changes hands (upgrade, pool, filter chain): new callbacks from now on. What is in `in`,
 * and an EOF, is offered to them from the loop. */
void weft_io_set_ops(struct weft_io *io, const struct weft_io_ops *ops, void *owner);
struct event_base *weft_io_base(const struct weft_io *io);
/* The buffers: ask anew in each callback, and do not keep the pointer beyond it (an io that has no
 * bytes holds no buffers). */
struct evbuffer *weft_io_in(struct weft_io *io);
struct evbuffer *weft_io_out(struct weft_io *io); /* add here, then weft_io_flush */
bool weft_io_eof(const struct weft_io *io);
bool weft_io_is_ready(const struct weft_io *io);
const struct weft_io_info *weft_io_info(const struct weft_io *io);
struct weft_io_info *
weft_io_info_edit(struct weft_io *io); /* strings put in must outlive it: weft_io_arena */
/* The address that accept told: saves the look-up. */
void weft_io_set_peer(struct weft_io *io, const struct weft_sockaddr *peer);
struct weft_arena *weft_io_arena(struct weft_io *io); /* of the io; made when first asked */
struct weft_io_stat weft_io_stat(const struct weft_io *io);
const char *weft_io_detail(const struct weft_io *io); /* sentence on why it failed; "" */
/* For Envoy's ssl.* counters: what went wrong with the session, in closed(). */
enum weft_tls_fault {
	WEFT_TLS_FAULT_NONE,
	WEFT_TLS_FAULT_CONNECTION, /* connection_error */
	WEFT_TLS_FAULT_NO_CERT,	   /* fail_verify_no_cert */
	WEFT_TLS_FAULT_VERIFY,	   /* fail_verify_error: the chain */
	WEFT_TLS_FAULT_SAN,	   /* fail_verify_san */
	WEFT_TLS_FAULT_HASH,	   /* fail_verify_cert_hash: pins */
};
enum weft_tls_fault weft_io_tls_fault(const struct weft_io *io);
const char *weft_io_peer_pem(struct weft_io *io);
/* Alike all that the peer sent, leaf first; made when first asked. Of a resumed
 * session the leaf alone: OpenSSL keeps no more. */
const char *weft_io_peer_chain_pem(struct weft_io *io);
int weft_io_fd(const struct weft_io *io); /* -1: not on a socket of its own */

/* Writes what is in out at the end of this turn of the loop (all flushes of a turn and io become
 * one writev). */
void weft_io_flush(struct weft_io *io);
/* After out is written: ends our direction (FIN, close_notify, END_STREAM). Reading goes on. */
void weft_io_shutdown(struct weft_io *io);
/* As free, but what waits in out is written first, for at most ms; then linger reads until the
 * peer's FIN so that late bytes do not turn our answer into a reset (Envoy: delayed_close_timeout).
 * No callbacks any more. */
void weft_io_close_after_flush(struct weft_io *io, unsigned ms);
void weft_io_reset(struct weft_io *io); /* free with RST */
/* Back-pressure: while paused nothing is read (not even EOF is seen; errors are). Counted: pause
 * twice, resume twice. What is left in `in` is offered again on resume. */
void weft_io_pause(struct weft_io *io);
void weft_io_resume(struct weft_io *io);
/* Watermarks of out (default 1 MiB): full() from high on, writable() at half. */
void weft_io_set_high(struct weft_io *io, size_t bytes);
bool weft_io_full(const struct weft_io *io);
void weft_io_want_drained(struct weft_io *io);
void weft_io_kick(struct weft_io *io); /* turn() comes soon */
/* Reads stop while `in` holds this much that the owner left there; default: as high. */
size_t weft_io_high(const struct weft_io *io);

/* splice(2) both ways between two plain sockets: no bytes in user space. Both must be fresh of
 * bytes in `in`. 0, or -ENOTSUP (TLS, tunnels). done() with each side's end; counts go to
 * weft_io_stat. The process must ignore SIGPIPE: splice(2) has no flag against it. */
int weft_io_splice(struct weft_io *a, struct weft_io *b,
		   void (*done)(void *owner, enum weft_io_end a_end, enum weft_io_end b_end),
		   void *owner, unsigned idle_ms);

/* ---- for those who make other kinds of streams (tunnels): the common part and what a kind must do
 */
struct weft_io_kind {
	void (*want_write)(
		struct weft_io *io); /* out has bytes: take them now or later by draining out */
	void (*want_read)(struct weft_io *io, bool on); /* pause state changed */
	void (*shutdown)(struct weft_io *io); /* end our direction, all of out was drained */
	void (*destroy)(struct weft_io *io, bool reset); /* last call: release what is the kind's */
};
/* size bytes are zeroed at *ret_state for the kind. */
struct weft_io *weft_io_make(struct event_base *base, const struct weft_io_kind *kind, size_t size,
			     void **ret_state, const struct weft_io_ops *ops, void *owner);
void *weft_io_state(const struct weft_io *io);
/* The kind tells: */
void weft_io_tell_ready(struct weft_io *io);
void weft_io_tell_readable(struct weft_io *io, bool eof); /* bytes were added to in */
void weft_io_tell_drained(struct weft_io *io); /* bytes were taken from out: marks are looked at */
void weft_io_tell_closed(struct weft_io *io, enum weft_io_end why, int err,
			 const char *detail); /* soon, from the loop */
