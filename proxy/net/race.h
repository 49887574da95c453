/* A stream to a host of several addresses (happy eyeballs, RFC 8305): one after the other is tried,
 * each WEFT_RACE_NEXT_MS after the one before it or as soon as that failed; the first that
 * connects is the stream's, the others are closed. */
#pragma once
#include "proxy/net/io.h"

enum { WEFT_RACE_NEXT_MS = 300, WEFT_RACE_MAX = 64 };
struct weft_race_try {
	struct weft_sockaddr to, from; /* from.ip.family 0: not bound */
};
struct weft_race_want {
	const struct weft_dial *dial; /* but for to, unix_path and from; prepare_ctx must live until
					 the stream is ready or closed */
	const struct weft_race_try *v; /* copied */
	size_t n;		       /* 1..WEFT_RACE_MAX */
};
/* As weft_io_dial; < 0 where not one of them could be begun: why the last one could not. */
int weft_io_dial_race(struct event_base *base, const struct weft_race_want *want,
		      const struct weft_io_ops *ops, void *owner, struct weft_io **ret);
