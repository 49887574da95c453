/* Who takes resources: from one server (client.h) or from anywhere a ConfigSource names
 * (source.h). Main thread. */
#pragma once
#include "proxy/core/err.h"
#include "xds/type.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct weft_arena;
struct weft_xds_reply; /* the response being applied */

struct weft_xds_resource {
	const char *name, *version;
	const ProtobufCMessage
		*msg;	      /* read and whole, by the wire's rules only: call weft_cfg_check */
	const uint8_t *bytes; /* as received; of a file: packed again */
	size_t n;
	struct weft_arena *arena; /* msg lives here, alone; NULL unless the sink asked for it */
	size_t index;		  /* in the response */
};
struct weft_xds_sink {
	/* One response (a very large one: part of it): updates, then removals. For each update that
	 * is refused, call weft_xds_reject: the rest is applied, the NACK carries every text, and
	 * what was there before stays. A resource whose bytes are those of the last one accepted is
	 * not given again. A watch of one name gets one update or one removal. May watch and
	 * unwatch. Everything is valid during the call only. */
	void (*apply)(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		      size_t n_up, const char *const *removed, size_t n_removed);
	void (*connected)(void *owner, bool up); /* may be NULL; told once a change */
	/* Once, after apply: the first state is complete, refused resources and all. May be NULL.
	 */
	void (*complete)(void *owner);
	/* initial_fetch_timeout is over and nothing came: go on without. Once, and complete() may
	 * still follow. May be NULL. Only of source.h. */
	void (*timed_out)(void *owner);
	bool arenas; /* each message in an arena of its own, which apply may take; of source.h:
			always so */
};
/* Only inside apply. */
void weft_xds_reject(struct weft_xds_reply *r, const char *name, const struct weft_err *why);
/* "file:line:col" into where of errors about a resource that came from a file; else nothing. */
void weft_xds_place(const struct weft_xds_reply *r, const struct weft_xds_resource *up,
		    struct weft_errs *errs);
/* The caller owns the message's arena from now on; msg lives as long. Once for a resource. */
struct weft_arena *weft_xds_take(const struct weft_xds_resource *r);
