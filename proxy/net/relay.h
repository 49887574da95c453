/* Copies bytes between two TCP sockets, each direction on its own: EOF is passed on as a half-close
 * once all before it is written, a reset as a reset. At most WEFT_RELAY_HELD bytes a direction
 * wait; none while both sides keep up. One thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct weft_relay;

enum { WEFT_RELAY_HELD = 256 << 10 };
enum weft_relay_end { WEFT_RELAY_OK, WEFT_RELAY_A_RESET, WEFT_RELAY_B_RESET };

struct weft_relay_conf {
	struct event_base *base;
	int a, b;		   /* non-blocking, connected; stay the caller's */
	uint64_t *a_to_b, *b_to_a; /* grow by bytes written */
	/* Last call, from the loop; the relay is freed after it and uses neither socket any more.
	 */
	void (*ended)(void *owner, enum weft_relay_end why);
	void *owner;
};
struct weft_relay *weft_relay_new(const struct weft_relay_conf *conf);
void weft_relay_free(struct weft_relay *r); /* without ended(); not from ended() */
